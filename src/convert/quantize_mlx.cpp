#include "convert/quantize_mlx.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/json.h"
#include "convert/row_slices.h"
#include "convert/safetensors_shards.h"
#include "formats/tensor_stream.h"
#include "platform/file.h"
#include "platform/new_folder.h"

namespace mlxf::convert {
namespace {

constexpr uint64_t kCopyBytes = uint64_t{8} << 20;
constexpr uint64_t kTextFileBytesMax = uint64_t{256} << 20;
constexpr uint32_t kRouterBits = 8;
constexpr std::string_view kWeight = ".weight";

// One tensor of the source and what becomes of it.
struct Job {
  const SourceTensor* source = nullptr;
  std::string module;                  // The name without ".weight".
  std::optional<AffineFormat> format;  // Empty: copied.
};

struct Encoded {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  std::vector<uint16_t> biases;
};

std::span<const uint8_t> bytes_of(const std::vector<uint16_t>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(uint16_t)};
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_router(std::string_view module) {
  return ends_with(module, ".mlp.gate") || ends_with(module, ".block_sparse_moe.gate") ||
         ends_with(module, ".router") || ends_with(module, ".router.proj") ||
         ends_with(module, ".shared_expert_gate") || ends_with(module, ".altup.modality_router");
}

// Whether the tensor is the matrix of a linear layer or an embedding.
bool is_matrix(const SourceTensor& tensor) {
  const bool stacked = tensor.parts.size() > 1 || tensor.name.find(".switch_mlp.") != std::string::npos;
  return ends_with(tensor.name, kWeight) && tensor.shape.size() == (stacked ? 3u : 2u) &&
         tensor.name.find("norm") == std::string::npos && tensor.elements() > 0;
}

class MlxQuantizer {
 public:
  MlxQuantizer(const QuantizeOptions& options, const SourceModel& model, compute::ThreadPool& pool,
               const ProgressFn& progress)
      : options_(options), model_(model), pool_(pool), progress_(progress) {}

  [[nodiscard]] Result<QuantizeReport> run();

 private:
  [[nodiscard]] std::optional<AffineFormat> format_of(const SourceTensor& tensor,
                                                      const std::string& module) const;
  void plan();
  [[nodiscard]] std::vector<formats::TensorSpec> specs() const;
  [[nodiscard]] Json quantization() const;
  [[nodiscard]] Status write_matrix(const Job& job, SafetensorsShards& shards);
  [[nodiscard]] Status copy_tensor(const Job& job, SafetensorsShards& shards);
  [[nodiscard]] Status write_texts(const platform::NewFolder& folder) const;
  [[nodiscard]] Status verify(const platform::NewFolder& folder) const;
  [[nodiscard]] Status verify_row(const formats::ModelManifest& written, const Job& job, uint64_t row) const;
  void advance(uint64_t bytes);

  const QuantizeOptions& options_;
  const SourceModel& model_;
  compute::ThreadPool& pool_;
  const ProgressFn& progress_;
  std::vector<Job> jobs_;
  QuantizeReport report_;
  EncodeSums sums_;
  uint64_t done_bytes_ = 0;
};

std::optional<AffineFormat> MlxQuantizer::format_of(const SourceTensor& tensor,
                                                    const std::string& module) const {
  if (!is_matrix(tensor)) return std::nullopt;
  std::optional<AffineFormat> format = AffineFormat{.bits = options_.type.mlx_bits, .group = options_.group};
  if (is_router(module)) format->bits = std::max(format->bits, kRouterBits);
  for (const Override& rule : options_.overrides) {
    if (module.find(rule.pattern) == std::string::npos) continue;
    format = rule.format;
    break;
  }
  if (!format || tensor.cols() % format->group != 0) return std::nullopt;
  const DType own = tensor.dtype == DType::kF32 ? DType::kF16 : tensor.dtype;
  format->scale_type = options_.scale_type.value_or(own);
  return format;
}

void MlxQuantizer::plan() {
  const bool tied = find_bool(model_.config(), "tie_word_embeddings").value_or(false);
  std::vector<Job> odd;
  for (const SourceTensor& tensor : model_.tensors()) {
    if (tied && tensor.name == "lm_head.weight") continue;
    Job job{.source = &tensor, .module = tensor.name, .format = {}};
    if (ends_with(job.module, kWeight)) job.module.resize(job.module.size() - kWeight.size());
    job.format = format_of(tensor, job.module);
    for (const formats::TensorEntry* part : tensor.parts) report_.source_bytes += part->bytes;
    // Safetensors has no padding, so what would leave the next tensor at an odd address goes last.
    const uint64_t bytes = job.format ? tensor.elements() / job.format->group * sizeof(uint16_t)
                                      : tensor.elements() * traits(tensor.dtype).block_bytes;
    (bytes % 8 == 0 ? jobs_ : odd).push_back(std::move(job));
  }
  jobs_.insert(jobs_.end(), odd.begin(), odd.end());
}

std::vector<formats::TensorSpec> MlxQuantizer::specs() const {
  std::vector<formats::TensorSpec> specs;
  for (const Job& job : jobs_) {
    if (!job.format) {
      specs.push_back({job.source->name, job.source->dtype, job.source->shape});
      continue;
    }
    std::vector<uint64_t> words = job.source->shape;
    words.back() = words.back() * job.format->bits / 32;
    std::vector<uint64_t> groups = job.source->shape;
    groups.back() /= job.format->group;
    specs.push_back({job.module + ".weight", DType::kU32, std::move(words)});
    specs.push_back({job.module + ".scales", job.format->scale_type, groups});
    specs.push_back({job.module + ".biases", job.format->scale_type, std::move(groups)});
  }
  return specs;
}

Json MlxQuantizer::quantization() const {
  Json result = {{"group_size", options_.group}, {"bits", options_.type.mlx_bits}, {"mode", "affine"}};
  for (const Job& job : jobs_) {
    if (!job.format && is_matrix(*job.source)) result[job.module] = false;
    if (job.format && (job.format->bits != options_.type.mlx_bits || job.format->group != options_.group))
      result[job.module] = {
          {"group_size", job.format->group}, {"bits", job.format->bits}, {"mode", "affine"}};
  }
  return result;
}

void MlxQuantizer::advance(uint64_t bytes) {
  done_bytes_ += bytes;
  if (progress_) progress_(done_bytes_, report_.source_bytes);
}

Status MlxQuantizer::write_matrix(const Job& job, SafetensorsShards& shards) {
  const SourceTensor& tensor = *job.source;
  const uint64_t groups = tensor.cols() / job.format->group;
  const uint64_t code_bytes = affine_code_bytes(tensor.cols(), job.format->bits);
  const uint64_t at_once = slice_rows(tensor);
  // Scales and biases follow the codes in the file, so they wait for the last row.
  Encoded encoded;
  encoded.codes.resize(std::min(at_once, tensor.rows()) * code_bytes);
  encoded.scales.resize(tensor.rows() * groups);
  encoded.biases.resize(tensor.rows() * groups);
  const auto encode = [&](uint64_t row, std::span<const float> weights) {
    return encode_affine_row(weights, *job.format, options_.encoder,
                             std::span(encoded.codes).subspan(row % at_once * code_bytes, code_bytes),
                             std::span(encoded.scales).subspan(row * groups, groups),
                             std::span(encoded.biases).subspan(row * groups, groups));
  };
  const auto done = [&](uint64_t, uint64_t count) -> Status {
    advance(count * tensor.cols() * traits(tensor.dtype).block_bytes);
    return shards.append(job.module + ".weight", std::span(encoded.codes).first(count * code_bytes));
  };
  ASSIGN_OR_RETURN(const EncodeSums sums, encode_rows(model_, tensor, pool_, encode, done));
  sums_.error += sums.error;
  sums_.squares += sums.squares;
  report_.quantized_weights += tensor.elements();
  RETURN_IF_ERROR(shards.append(job.module + ".scales", bytes_of(encoded.scales)));
  return shards.append(job.module + ".biases", bytes_of(encoded.biases));
}

Status MlxQuantizer::copy_tensor(const Job& job, SafetensorsShards& shards) {
  const uint64_t bytes = job.source->elements() * traits(job.source->dtype).block_bytes;
  std::vector<uint8_t> chunk;
  for (uint64_t begin = 0; begin < bytes; begin += kCopyBytes) {
    chunk.resize(std::min(kCopyBytes, bytes - begin));
    RETURN_IF_ERROR(model_.read_bytes(*job.source, begin, chunk));
    RETURN_IF_ERROR(shards.append(job.source->name, chunk));
    advance(chunk.size());
  }
  return {};
}

Status MlxQuantizer::write_texts(const platform::NewFolder& folder) const {
  Json config = model_.config();
  // mlx-lm reads the first, the hub and transformers the second.
  config["quantization"] = quantization();
  config["quantization_config"] = config["quantization"];
  RETURN_IF_ERROR(folder.write_file("config.json", dump_json(config, 2) + "\n"));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
                           "chat_template.jinja", "chat_template.json", "generation_config.json"}) {
    const auto text = platform::read_whole_file(model_.folder() + "/" + name, kTextFileBytesMax);
    if (!text && text.error().code == ErrorCode::kNotFound) continue;
    if (!text) return tl::unexpected<Error>(text.error());
    RETURN_IF_ERROR(folder.write_file(name, *text));
  }
  return {};
}

Status MlxQuantizer::verify_row(const formats::ModelManifest& written, const Job& job, uint64_t row) const {
  const SourceTensor& tensor = *job.source;
  const uint64_t groups = tensor.cols() / job.format->group;
  std::vector<float> weights(tensor.cols());
  RETURN_IF_ERROR(model_.read_rows(tensor, row, weights));
  Encoded expected;
  expected.codes.resize(affine_code_bytes(tensor.cols(), job.format->bits));
  expected.scales.resize(groups);
  expected.biases.resize(groups);
  encode_affine_row(weights, *job.format, options_.encoder, expected.codes, expected.scales, expected.biases);
  const auto check = [&](const char* suffix, std::span<const uint8_t> bytes) -> Status {
    const formats::TensorEntry* entry = written.find(job.module + suffix);
    if (entry == nullptr) return fail(ErrorCode::kInternal, job.module + suffix + ": was not written");
    ASSIGN_OR_RETURN(const platform::File file, platform::File::open(written.files[entry->file]));
    std::vector<uint8_t> found(bytes.size());
    RETURN_IF_ERROR(file.read_exact(entry->offset + row * bytes.size(), found));
    if (std::memcmp(found.data(), bytes.data(), bytes.size()) != 0)
      return fail(ErrorCode::kIo, job.module + suffix + ": row " + std::to_string(row) +
                                      " reads back differently from what was written");
    return {};
  };
  RETURN_IF_ERROR(check(".weight", expected.codes));
  RETURN_IF_ERROR(check(".scales", bytes_of(expected.scales)));
  return check(".biases", bytes_of(expected.biases));
}

Status MlxQuantizer::verify(const platform::NewFolder& folder) const {
  ASSIGN_OR_RETURN(const formats::ModelManifest written, formats::open_model(folder.file("")));
  for (const Job& job : jobs_) {
    if (!job.format) continue;
    RETURN_IF_ERROR(verify_row(written, job, 0));
    RETURN_IF_ERROR(verify_row(written, job, job.source->rows() - 1));
  }
  return {};
}

Result<QuantizeReport> MlxQuantizer::run() {
  plan();
  ASSIGN_OR_RETURN(platform::NewFolder folder, platform::NewFolder::create(options_.out));
  const std::vector<formats::TensorSpec> declared = specs();
  for (const formats::TensorSpec& spec : declared) {
    ASSIGN_OR_RETURN(const uint64_t bytes, formats::tensor_bytes(spec));
    report_.written_bytes += bytes;
  }
  ASSIGN_OR_RETURN(
      SafetensorsShards shards,
      SafetensorsShards::create(folder, declared, {.shard_bytes_max = options_.shard_bytes_max}));
  for (const Job& job : jobs_)
    RETURN_IF_ERROR(job.format ? write_matrix(job, shards) : copy_tensor(job, shards));
  RETURN_IF_ERROR(shards.finish());
  RETURN_IF_ERROR(write_texts(folder));
  RETURN_IF_ERROR(verify(folder));
  RETURN_IF_ERROR(folder.commit());
  if (sums_.squares > 0.0) report_.relative_error = std::sqrt(sums_.error / sums_.squares);
  return report_;
}

}  // namespace

Result<QuantizeReport> quantize_to_mlx(const QuantizeOptions& options, const SourceModel& model,
                                       compute::ThreadPool& pool, const ProgressFn& progress) {
  return MlxQuantizer(options, model, pool, progress).run();
}

}  // namespace mlxf::convert
