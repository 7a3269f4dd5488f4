// SafetensorsShards: a model's tensors as one safetensors file, or as numbered shards with their index.
//
// Written into a folder that is being made; the data comes in the order of the declaration. A shard is closed
// when the next tensor would take it past the limit, so a tensor never spans two. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/safetensors_writer.h"
#include "platform/new_folder.h"

namespace mlxf::convert {

class SafetensorsShards {
 public:
  struct Options {
    uint64_t shard_bytes_max = uint64_t{5} << 30;
    std::string file_stem = "model";
  };
  // `folder` outlives this.
  [[nodiscard]] static Result<SafetensorsShards> create(const platform::NewFolder& folder,
                                                        std::vector<formats::TensorSpec> tensors,
                                                        const Options& options);

  [[nodiscard]] Status append(std::string_view tensor, std::span<const uint8_t> bytes);
  // Closes the last shard and writes the index when there are several.
  [[nodiscard]] Status finish();

 private:
  struct Shard {
    std::string file;
    std::vector<formats::TensorSpec> tensors;
  };
  SafetensorsShards(const platform::NewFolder& folder, std::vector<Shard> shards, uint64_t bytes);
  [[nodiscard]] Status open_shard();

  const platform::NewFolder* folder_;
  std::vector<Shard> shards_;
  uint64_t bytes_;
  size_t current_ = 0;         // The shard being written,
  size_t tensor_ = 0;          // the tensor within it,
  uint64_t tensor_bytes_ = 0;  // and what that one has so far.
  std::optional<formats::SafetensorsWriter> writer_;
};

}  // namespace mlxf::convert
