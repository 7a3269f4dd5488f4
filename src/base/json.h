// JSON for everything that comes from outside: strict and bounded.
//
// Refused beyond RFC 8259: duplicate keys, nesting deeper than `depth_max`, text longer than `bytes_max`,
// anything after the value. The value type is nlohmann::json; ask it only through the finders below or after
// is_…() checks, since its own accessors throw on a wrong type.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mlxf {

using Json = nlohmann::json;
// Keeps the members of objects in the order of the text. Finding one takes time linear in their number, so it is for
// text that passes through (a tool's schema, a message), not for tables.
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  uint64_t bytes_max = uint64_t{256} << 20;
  int depth_max = 128;
};

// Errors name the byte offset in `text`.
[[nodiscard]] Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

// The same limits and errors, keeping the order of members.
[[nodiscard]] Result<OrderedJson> parse_ordered_json(std::string_view text, const JsonLimits& limits = {});

// Members of an object by type; empty where the member is absent, null or of another type.
[[nodiscard]] const Json* find_member(const Json& object, std::string_view key);
[[nodiscard]] std::optional<int64_t> find_int(const Json& object, std::string_view key);
[[nodiscard]] std::optional<double> find_number(const Json& object, std::string_view key);
[[nodiscard]] std::optional<bool> find_bool(const Json& object, std::string_view key);
[[nodiscard]] std::optional<std::string> find_string(const Json& object, std::string_view key);

// The text of `value`; bytes that are not UTF-8 are replaced by U+FFFD, so this cannot fail.
[[nodiscard]] std::string dump_json(const Json& value, int indent = -1);
[[nodiscard]] std::string dump_ordered_json(const OrderedJson& value);

}  // namespace mlxf
