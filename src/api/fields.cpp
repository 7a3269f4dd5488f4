#include "api/fields.h"

#include <algorithm>
#include <cmath>

#include "base/duration.h"

namespace mlxf::api {
namespace {

constexpr int kDepthMax = 64;
constexpr uint64_t kBodyBytesMax = uint64_t{64} << 20;
// Of values in memory: four million tokens, 600,000 members. A bodyful of "[]," would be half a gigabyte.
constexpr uint64_t kTreeBytesMax = uint64_t{64} << 20;
// What the allocator gives for a container with its first element's room, for a node of a map, and for an element.
constexpr uint64_t kContainerBytes = 64, kMemberBytes = 96, kElementBytes = 16;

// "10" for 10, "0.5" for 0.5.
std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

}  // namespace

const Json* Fields::find(std::string_view name) {
  asked_.emplace(name);
  return find_member(object_, name);
}

void Fields::fail(ErrorKind kind, std::string_view name, const std::string& message) {
  if (!error_)
    error_ = ApiError{kind, prefix_ + std::string(name) + " " + message, prefix_ + std::string(name)};
}

std::optional<std::string> Fields::text(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  fail(ErrorKind::kInvalidRequest, name, "must be a string");
  return std::nullopt;
}

std::optional<bool> Fields::flag(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  fail(ErrorKind::kInvalidRequest, name, "must be true or false");
  return std::nullopt;
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t low, int64_t high) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::string range = "between " + std::to_string(low) + " and " + std::to_string(high);
  if (!value->is_number()) {
    fail(ErrorKind::kInvalidRequest, name, "must be a whole number " + range);
    return std::nullopt;
  }
  // Some clients send 10.0 for 10.
  const double approximate = value->get<double>();
  const std::optional<int64_t> exact =
      value->is_number_integer() ? find_int(object_, name)
      : std::nearbyint(approximate) == approximate && std::abs(approximate) < 0x1p53
          ? std::optional(static_cast<int64_t>(approximate))
          : std::nullopt;
  if (exact && *exact >= low && *exact <= high) return exact;
  fail(ErrorKind::kInvalidRequest, name, "must be a whole number " + range);
  return std::nullopt;
}

std::optional<double> Fields::number(std::string_view name, double low, double high) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const double number = value->get<double>();
    if (number >= low && number <= high) return number;
  }
  fail(ErrorKind::kInvalidRequest, name,
       "must be a number between " + number_text(low) + " and " + number_text(high));
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> Fields::duration(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return duration_of_seconds(value->get<double>());
  if (value->is_string()) {
    const auto time = parse_duration(value->get<std::string>());
    if (time) return *time;
    fail(ErrorKind::kInvalidRequest, name, time.error().message);
  } else {
    fail(ErrorKind::kInvalidRequest, name, "must be seconds, or a duration such as \"5m\"");
  }
  return std::nullopt;
}

std::vector<std::string> Fields::texts(std::string_view name, size_t count_max) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> out;
  if (value->is_array() && value->size() <= count_max) {
    for (const Json& element : *value)
      if (element.is_string()) out.push_back(element.get<std::string>());
    if (out.size() == value->size()) return out;
  }
  fail(ErrorKind::kInvalidRequest, name,
       "must be a string or an array of at most " + std::to_string(count_max) + " strings");
  return {};
}

const Json* Fields::object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  fail(ErrorKind::kInvalidRequest, name, "must be an object");
  return nullptr;
}

const Json* Fields::array(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_array()) return value;
  fail(ErrorKind::kInvalidRequest, name, "must be an array");
  return nullptr;
}

void Fields::refuse(std::string_view name, std::string_view why, const std::vector<Json>& harmless) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (std::find(harmless.begin(), harmless.end(), *value) != harmless.end()) return;
  if ((value->is_array() || value->is_object()) && value->empty()) return;
  fail(ErrorKind::kUnsupported, name, std::string(why));
}

void Fields::warn(std::string_view name, const std::vector<Json>& harmless,
                  std::vector<std::string>& warnings) {
  const Json* value = find(name);
  if (value == nullptr || std::find(harmless.begin(), harmless.end(), *value) != harmless.end()) return;
  warnings.push_back(prefix_ + std::string(name) + " has no effect here");
}

std::vector<std::string> Fields::unknown() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_.items())
    if (!value.is_null() && asked_.find(name) == asked_.end()) names.push_back(prefix_ + name);
  return names;
}

bool has_too_many_values(std::string_view json) {
  uint64_t bytes = 0;
  bool quoted = false;
  for (size_t i = 0; i < json.size() && bytes <= kTreeBytesMax; ++i) {
    const char c = json[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      bytes += kContainerBytes;
    } else if (c == ':') {
      bytes += kMemberBytes;
    } else if (c == ',') {
      bytes += kElementBytes;
    }
  }
  return bytes > kTreeBytesMax;
}

tl::expected<Json, ApiError> parse_body(const std::string& body) {
  if (body.empty()) return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, "missing request body"});
  if (has_too_many_values(body))
    return tl::unexpected<ApiError>(
        {ErrorKind::kInvalidRequest, "the request body has too many values: send less at a time"});
  auto json = parse_json(body, {kBodyBytesMax, kDepthMax});
  if (!json) return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, json.error().message});
  if (!json->is_object())
    return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, "the request body must be a JSON object"});
  return std::move(*json);
}

}  // namespace mlxf::api
