// Fields: reads the members of a request's JSON object by type and range, and remembers what went wrong.
//
// A member that is absent or null reads as nothing. The first member of a wrong type or out of range becomes the error,
// with its name as `param`; whoever reads goes on and asks for error() once at the end. Members that nobody asked for
// are unknown(): they are reported back, never silently dropped. Borrows the object. One request, one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/errors.h"
#include "base/json.h"

namespace mlxf::api {

class Fields {
 public:
  // `prefix` stands before names in messages: "options.". REQUIRES: `object` is an object.
  explicit Fields(const Json& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  [[nodiscard]] const Json* find(std::string_view name);
  [[nodiscard]] std::optional<std::string> text(std::string_view name);
  [[nodiscard]] std::optional<bool> flag(std::string_view name);
  [[nodiscard]] std::optional<int64_t> integer(std::string_view name, int64_t low, int64_t high);
  [[nodiscard]] std::optional<double> number(std::string_view name, double low, double high);
  // A number of seconds, or text as base/duration.h reads it; below zero: kForever.
  [[nodiscard]] std::optional<std::chrono::milliseconds> duration(std::string_view name);
  // A string or an array of at most `count_max` strings.
  [[nodiscard]] std::vector<std::string> texts(std::string_view name, size_t count_max);
  [[nodiscard]] const Json* object(std::string_view name);
  [[nodiscard]] const Json* array(std::string_view name);

  // Present with anything but `harmless` values: an error that says `why`.
  void refuse(std::string_view name, std::string_view why, const std::vector<Json>& harmless = {});
  // Present with anything but `harmless` values: a warning that it has no effect.
  void warn(std::string_view name, const std::vector<Json>& harmless, std::vector<std::string>& warnings);
  // Known and without any effect on an answer here.
  void accept(std::string_view name) { asked_.emplace(name); }

  void fail(ErrorKind kind, std::string_view name, const std::string& message);
  [[nodiscard]] const std::optional<ApiError>& error() const { return error_; }
  [[nodiscard]] std::vector<std::string> unknown() const;

 private:
  const Json& object_;
  const std::string prefix_;
  std::set<std::string, std::less<>> asked_;
  std::optional<ApiError> error_;
};

// Whether the values of a JSON text would take much more memory than requests do, whatever their text takes. Before it
// is parsed; in time linear in the text.
[[nodiscard]] bool has_too_many_values(std::string_view json);

// A request's body as an object, within the limits of a request.
[[nodiscard]] tl::expected<Json, ApiError> parse_body(const std::string& body);

}  // namespace mlxf::api
