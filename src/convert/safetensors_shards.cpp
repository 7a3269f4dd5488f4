#include "convert/safetensors_shards.h"

#include <cstdio>
#include <utility>

#include "base/json.h"
#include "formats/tensor_stream.h"

namespace mlxf::convert {
namespace {

std::string shard_name(const std::string& stem, size_t index, size_t count) {
  if (count == 1) return stem + ".safetensors";
  char numbers[32];
  std::snprintf(numbers, sizeof numbers, "-%05zu-of-%05zu", index + 1, count);
  return stem + numbers + ".safetensors";
}

}  // namespace

SafetensorsShards::SafetensorsShards(const platform::NewFolder& folder, std::vector<Shard> shards,
                                     uint64_t bytes)
    : folder_(&folder), shards_(std::move(shards)), bytes_(bytes) {}

Result<SafetensorsShards> SafetensorsShards::create(const platform::NewFolder& folder,
                                                    std::vector<formats::TensorSpec> tensors,
                                                    const Options& options) {
  std::vector<Shard> shards(1);
  uint64_t shard_bytes = 0;
  uint64_t total = 0;
  for (formats::TensorSpec& spec : tensors) {
    ASSIGN_OR_RETURN(const uint64_t bytes, formats::tensor_bytes(spec));
    if (shard_bytes > 0 && shard_bytes + bytes > options.shard_bytes_max) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    total += bytes;
    shards.back().tensors.push_back(std::move(spec));
  }
  for (size_t i = 0; i < shards.size(); ++i) shards[i].file = shard_name(options.file_stem, i, shards.size());
  SafetensorsShards result(folder, std::move(shards), total);
  RETURN_IF_ERROR(result.open_shard());
  return result;
}

Status SafetensorsShards::open_shard() {
  const Shard& shard = shards_[current_];
  ASSIGN_OR_RETURN(writer_, formats::SafetensorsWriter::create(folder_->file(shard.file), shard.tensors,
                                                               {{"format", "mlx"}}));
  tensor_ = 0;
  tensor_bytes_ = 0;
  return {};
}

Status SafetensorsShards::append(std::string_view tensor, std::span<const uint8_t> bytes) {
  const std::vector<formats::TensorSpec>* due = &shards_[current_].tensors;
  if (tensor_ == due->size() && current_ + 1 < shards_.size()) {
    RETURN_IF_ERROR(writer_->finish());
    ++current_;
    RETURN_IF_ERROR(open_shard());
    due = &shards_[current_].tensors;
  }
  RETURN_IF_ERROR(writer_->append(tensor, bytes));
  tensor_bytes_ += bytes.size();
  ASSIGN_OR_RETURN(const uint64_t whole, formats::tensor_bytes((*due)[tensor_]));
  if (tensor_bytes_ == whole) {
    ++tensor_;
    tensor_bytes_ = 0;
  }
  return {};
}

Status SafetensorsShards::finish() {
  if (current_ + 1 != shards_.size())
    return fail(ErrorCode::kInternal, "finished before the last shard was begun");
  RETURN_IF_ERROR(writer_->finish());
  if (shards_.size() == 1) return {};
  Json map = Json::object();
  for (const Shard& shard : shards_) {
    for (const formats::TensorSpec& spec : shard.tensors) map[spec.name] = shard.file;
  }
  const Json index = {{"metadata", {{"total_size", bytes_}}}, {"weight_map", std::move(map)}};
  const std::string stem = shards_[0].file.substr(0, shards_[0].file.find("-00001-of-"));
  return folder_->write_file(stem + ".safetensors.index.json", dump_json(index, 2));
}

}  // namespace mlxf::convert
