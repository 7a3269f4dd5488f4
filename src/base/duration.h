// Durations as people write them: "5m", "1h30m", "300" or 300 for seconds, below zero for ever.
//
// Go's notation, which Ollama's clients use: numbers with the units ns, us, ms, s, m and h, one after the other; a
// bare number means seconds. Pure functions; any thread.
#pragma once

#include <chrono>
#include <string_view>

#include "base/result.h"

namespace mlxf {

// Stands for no end. Nothing may be added to it.
inline constexpr std::chrono::milliseconds kForever = std::chrono::milliseconds::max();

// kInvalidArgument for what is no duration. What is longer than a century is kForever.
[[nodiscard]] Result<std::chrono::milliseconds> parse_duration(std::string_view text);
// Not a number is kForever as well.
[[nodiscard]] std::chrono::milliseconds duration_of_seconds(double seconds);

}  // namespace mlxf
