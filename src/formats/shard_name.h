// The names of the parts of a split model: PREFIX-00001-of-00003.SUFFIX, for safetensors and GGUF alike.
//
// Pure functions on names; nothing here looks at a disk. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mlxf::formats {

// More parts than any model has; it bounds what one file name can make us look for.
inline constexpr uint32_t kShardsMax = 10'000;

struct ShardName {
  std::string prefix;  // "model" of model-00001-of-00003.gguf.
  std::string suffix;  // ".gguf".
  uint32_t part = 1;   // From 1.
  uint32_t count = 1;

  [[nodiscard]] std::string name_of(uint32_t number) const;
};

// Empty when `name` is not of that form or its numbers make no sense (part 0, part beyond the count).
[[nodiscard]] std::optional<ShardName> parse_shard_name(std::string_view name);

// What is wrong with a shard's name that an index supplied; null if nothing is. It must be a plain name of a
// .safetensors file in the index's own folder.
[[nodiscard]] const char* shard_name_fault(std::string_view name);

}  // namespace mlxf::formats
