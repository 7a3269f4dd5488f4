#include "base/duration.h"

#include <cmath>
#include <cstdlib>
#include <string>

namespace mlxf {
namespace {

constexpr double kCenturySeconds = 100.0 * 365.25 * 86400.0;

struct Unit {
  std::string_view name;
  double seconds;
};
// Longer names first: "ms" is no "m".
constexpr Unit kUnits[] = {{"ns", 1e-9}, {"us", 1e-6}, {"\u00b5s", 1e-6}, {"ms", 1e-3},
                           {"s", 1.0},   {"m", 60.0},  {"h", 3600.0}};

// The number that `text` begins with, which is taken from it; below zero: there is none.
double take_number(std::string_view& text) {
  size_t length = 0;
  while (length < text.size() && (text[length] == '.' || (text[length] >= '0' && text[length] <= '9')))
    ++length;
  // from_chars for doubles is absent from clang 14's library on macOS. These are digits and points alone, and the
  // program keeps the "C" locale.
  const std::string number(text.substr(0, length));
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (number.empty() || end != number.c_str() + number.size()) return -1.0;
  text.remove_prefix(length);
  return value;
}

// Of the unit that `text` begins with, which is taken from it; 0: there is none.
double take_unit(std::string_view& text) {
  for (const Unit& unit : kUnits) {
    if (!text.starts_with(unit.name)) continue;
    text.remove_prefix(unit.name.size());
    return unit.seconds;
  }
  return 0.0;
}

}  // namespace

std::chrono::milliseconds duration_of_seconds(double seconds) {
  if (std::isnan(seconds) || seconds < 0.0 || seconds > kCenturySeconds) return kForever;
  return std::chrono::milliseconds(std::llround(seconds * 1e3));
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto refuse = [] {
    return fail(
        ErrorCode::kInvalidArgument,
        "is no duration: give seconds, or a number with a unit as in \"5m\" or \"1h30m\"; below zero: "
        "for ever");
  };
  const bool negative = !text.empty() && text.front() == '-';
  if (!text.empty() && (negative || text.front() == '+')) text.remove_prefix(1);
  if (text.empty()) return refuse();
  double seconds = 0.0;
  for (bool first = true; !text.empty(); first = false) {
    const double number = take_number(text);
    if (number < 0.0) return refuse();
    const bool bare = first && text.empty();
    const double unit = bare ? 1.0 : take_unit(text);
    if (unit == 0.0) return refuse();
    seconds += number * unit;
  }
  return negative && seconds != 0.0 ? kForever : duration_of_seconds(seconds);
}

}  // namespace mlxf
