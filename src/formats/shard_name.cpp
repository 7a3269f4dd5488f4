#include "formats/shard_name.h"

#include <array>
#include <cstdio>

#include "formats/name_text.h"

namespace mlxf::formats {
namespace {

constexpr size_t kDigits = 5;
constexpr size_t kFileNameBytesMax = 255;

std::optional<uint32_t> five_digits(std::string_view text) {
  if (text.size() < kDigits) return std::nullopt;
  uint32_t value = 0;
  for (const char c : text.substr(0, kDigits)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint32_t>(c - '0');
  }
  return value;
}

}  // namespace

std::string ShardName::name_of(uint32_t number) const {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "-%05u-of-%05u", number, count);
  return prefix + text.data() + suffix;
}

std::optional<ShardName> parse_shard_name(std::string_view name) {
  constexpr std::string_view kOf = "-of-";
  const size_t dot = name.rfind('.');
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits;  // "-00001-of-00003"
  if (dot == std::string_view::npos || dot <= kTail) return std::nullopt;
  const std::string_view tail = name.substr(dot - kTail, kTail);
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  const auto part = five_digits(tail.substr(1));
  const auto count = five_digits(tail.substr(1 + kDigits + kOf.size()));
  if (!part || !count || *part == 0 || *part > *count || *count > kShardsMax) return std::nullopt;
  return ShardName{std::string(name.substr(0, dot - kTail)), std::string(name.substr(dot)), *part, *count};
}

const char* shard_name_fault(std::string_view name) {
  if (const char* fault = name_fault(name, kFileNameBytesMax)) return fault;
  if (name.find_first_of("/\\") != std::string_view::npos)
    return "holds a path separator; parts lie in the model's folder";
  if (name.starts_with('.')) return "starts with a dot";
  return name.ends_with(".safetensors") ? nullptr : "is not that of a .safetensors file";
}

}  // namespace mlxf::formats
