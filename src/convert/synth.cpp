#include "convert/synth.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "convert/mlx_affine.h"
#include "convert/random_blocks.h"
#include "convert/safetensors_shards.h"
#include "convert/synth_families.h"
#include "convert/synth_metadata.h"
#include "convert/synth_plan.h"
#include "convert/synthetic_vocabulary.h"
#include "formats/gguf_writer.h"
#include "formats/tensor_stream.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{4} << 20;
constexpr uint32_t kMlxGroup = 64;
constexpr uint32_t kRouterBits = 8;
// MLX's codes and scales come from different streams than anything else of the same tensor.
constexpr uint64_t kScaleStream = uint64_t{3} << 40;

std::span<const uint8_t> bytes_of(const auto& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(values[0])};
}

uint64_t elements_of(const std::vector<uint64_t>& shape) {
  uint64_t elements = 1;
  for (const uint64_t extent : shape) elements *= extent;
  return elements;
}

// Counts what was written and tells the observer every few megabytes.
class Meter {
 public:
  Meter(const ProgressFn& progress, uint64_t total) : progress_(progress), total_(total) {}
  void add(uint64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }

 private:
  const ProgressFn& progress_;
  uint64_t done_ = 0;
  uint64_t total_;
};

// Random rows of one tensor, chunk by chunk, each chunk from its own seed.
template <typename Append>
Status write_rows(const RandomRows& rows, uint64_t row_count, uint64_t seed, uint64_t stream,
                  const Append& append) {
  const uint64_t row = *row_bytes(rows.dtype, rows.cols);
  const uint64_t chunk_rows = std::max<uint64_t>(1, kChunkBytes / row);
  std::vector<uint8_t> chunk;
  for (uint64_t begin = 0; begin < row_count; begin += chunk_rows) {
    chunk.resize(std::min(chunk_rows, row_count - begin) * row);
    RandomBytes random(seed, stream, begin);
    fill_rows(rows, random, chunk);
    RETURN_IF_ERROR(append(chunk));
  }
  return {};
}

GgufMix mix_of(SynthFormat format) {
  switch (format) {
    case SynthFormat::kQ8_0:
      return GgufMix::kQ8_0;
    case SynthFormat::kQ4_0:
      return GgufMix::kQ4_0;
    case SynthFormat::kBF16:
      return GgufMix::kBF16;
    case SynthFormat::kMxfp4:
      return GgufMix::kMxfp4;
    default:
      return GgufMix::kQ4KM;
  }
}

RandomRows rows_of(const PlannedTensor& tensor, DType dtype) {
  return {.dtype = dtype,
          .cols = tensor.shape.back(),
          .sigma = tensor.sigma,
          .positive_cols = tensor.positive_cols,
          .positive_mean = tensor.positive_mean};
}

Status synthesise_gguf(const SynthOptions& options, const ModelShape& shape, GgufMix mix,
                       const ProgressFn& progress) {
  const GgufModel model{.layers = shape.layers,
                        .experts = shape.experts,
                        .tied = shape.tied,
                        .is_70b = shape.family == ShapeFamily::kLlama && shape.layers == 80};
  const std::vector<PlannedTensor> plan = plan_tensors(shape, options.routing_skew > 0.0);
  std::vector<formats::TensorSpec> specs;
  uint64_t total = 0;
  specs.reserve(plan.size());
  for (const PlannedTensor& tensor : plan) {
    const DType type = tensor.type.value_or(
        fitting_type(gguf_type(mix, tensor.role, tensor.layer, model), tensor.shape.back()));
    specs.push_back(
        {tensor.gguf.empty() ? gguf_name(tensor.role, tensor.layer) : tensor.gguf, type, tensor.shape});
    ASSIGN_OR_RETURN(const uint64_t bytes, formats::tensor_bytes(specs.back()));
    total += bytes;
  }
  ASSIGN_OR_RETURN(formats::GgufWriter writer,
                   formats::GgufWriter::create(options.out, synth_metadata(shape, mix), specs));
  Meter meter(progress, total);
  for (size_t i = 0; i < plan.size(); ++i) {
    const PlannedTensor& tensor = plan[i];
    const auto append = [&](const auto& values) -> Status {
      RETURN_IF_ERROR(writer.append(specs[i].name, bytes_of(values)));
      meter.add(bytes_of(values).size());
      return {};
    };
    const uint64_t cols = tensor.shape.back();
    if (options.outline && tensor.values.empty() && tensor.sigma != 0.0) {
      RETURN_IF_ERROR(writer.append_hole(specs[i].name));
    } else if (!tensor.values.empty()) {
      RETURN_IF_ERROR(append(tensor.values));
    } else if (tensor.sigma == 0.0) {
      RETURN_IF_ERROR(append(std::vector<float>(cols, static_cast<float>(tensor.constant))));
    } else if (tensor.role == TensorRole::kRouter) {
      RETURN_IF_ERROR(append(router_weights(shape, tensor.layer, options.routing_skew, options.seed)));
    } else {
      RETURN_IF_ERROR(write_rows(rows_of(tensor, specs[i].dtype), elements_of(tensor.shape) / cols,
                                 options.seed, i, append));
    }
  }
  return writer.finish();
}

Json quantization_of(const std::vector<PlannedTensor>& plan, HubNaming naming, uint32_t bits) {
  Json quantization = {{"group_size", kMlxGroup}, {"bits", bits}, {"mode", "affine"}};
  for (const PlannedTensor& tensor : plan) {
    if (tensor.role == TensorRole::kRouter && bits != kRouterBits)
      quantization[hub_module(tensor.role, tensor.layer, naming)] = {{"group_size", kMlxGroup},
                                                                     {"bits", kRouterBits}};
  }
  return quantization;
}

Json hub_config(const ModelShape& shape, const SyntheticVocabulary& vocabulary) {
  Json config = {{"hidden_act", "silu"},
                 {"hidden_size", shape.width},
                 {"num_hidden_layers", shape.layers},
                 {"num_attention_heads", shape.heads},
                 {"num_key_value_heads", shape.kv_heads},
                 {"head_dim", shape.head_dim},
                 {"intermediate_size", shape.dense_ffn_width},
                 {"max_position_embeddings", shape.context},
                 {"rms_norm_eps", shape.norm_eps},
                 {"rope_theta", shape.rope_base},
                 {"tie_word_embeddings", shape.tied},
                 {"torch_dtype", "bfloat16"},
                 {"vocab_size", vocabulary.tokens.size()},
                 {"bos_token_id", vocabulary.bos},
                 {"eos_token_id", vocabulary.eos}};
  const auto name = [&](const char* architecture, const char* type) {
    config["architectures"] = Json::array({architecture});
    config["model_type"] = type;
  };
  switch (shape.family) {
    case ShapeFamily::kQwen3:
      name("Qwen3ForCausalLM", "qwen3");
      config["attention_bias"] = false;
      break;
    case ShapeFamily::kQwen3Moe:
      name("Qwen3MoeForCausalLM", "qwen3_moe");
      config["attention_bias"] = false;
      config["num_experts"] = shape.experts;
      config["num_experts_per_tok"] = shape.experts_used;
      config["moe_intermediate_size"] = shape.ffn_width;
      config["decoder_sparse_step"] = 1;
      config["mlp_only_layers"] = Json::array();
      config["norm_topk_prob"] = true;
      break;
    case ShapeFamily::kLlama:
      name("LlamaForCausalLM", "llama");
      config["attention_bias"] = false;
      config["mlp_bias"] = false;
      break;
    case ShapeFamily::kMixtral:
      name("MixtralForCausalLM", "mixtral");
      config["num_local_experts"] = shape.experts;
      config["num_experts_per_tok"] = shape.experts_used;
      break;
    default:
      CHECK(false);  // GGUF only.
  }
  return config;
}

// The three arrays of one quantised matrix in an MLX folder.
class MlxSynth {
 public:
  MlxSynth(const SynthOptions& options, const ModelShape& shape, uint32_t bits)
      : options_(options),
        shape_(shape),
        bits_(bits),
        naming_(shape.family == ShapeFamily::kMixtral ? HubNaming::kMixtral : HubNaming::kUsual),
        plan_(plan_tensors(shape, options.routing_skew > 0.0)) {}

  [[nodiscard]] Status write(const ProgressFn& progress);

 private:
  [[nodiscard]] std::string module_of(const PlannedTensor& tensor) const {
    return hub_module(tensor.role, tensor.layer, naming_);
  }
  [[nodiscard]] std::vector<formats::TensorSpec> specs() const;
  template <typename Append>
  [[nodiscard]] Status write_router(const PlannedTensor& tensor, const Append& append) const;
  template <typename Append>
  [[nodiscard]] Status write_matrix(const PlannedTensor& tensor, uint64_t stream, const Append& append) const;

  const SynthOptions& options_;
  const ModelShape& shape_;
  const uint32_t bits_;
  const HubNaming naming_;
  const std::vector<PlannedTensor> plan_;
};

std::vector<formats::TensorSpec> MlxSynth::specs() const {
  std::vector<formats::TensorSpec> specs;
  for (const PlannedTensor& tensor : plan_) {
    const std::string module = module_of(tensor);
    if (tensor.sigma == 0.0) {
      specs.push_back({module + ".weight", DType::kBF16, tensor.shape});
      continue;
    }
    const uint32_t bits = tensor.role == TensorRole::kRouter ? kRouterBits : bits_;
    std::vector<uint64_t> words = tensor.shape;
    words.back() = words.back() * bits / 32;
    std::vector<uint64_t> groups = tensor.shape;
    groups.back() /= kMlxGroup;
    specs.push_back({module + ".weight", DType::kU32, std::move(words)});
    specs.push_back({module + ".scales", DType::kBF16, groups});
    specs.push_back({module + ".biases", DType::kBF16, std::move(groups)});
  }
  return specs;
}

template <typename Append>
Status MlxSynth::write_router(const PlannedTensor& tensor, const Append& append) const {
  const std::vector<float> weights =
      router_weights(shape_, tensor.layer, options_.routing_skew, options_.seed);
  const uint64_t cols = shape_.width;
  std::vector<uint8_t> codes(weights.size());
  std::vector<uint16_t> scales(weights.size() / kMlxGroup);
  std::vector<uint16_t> biases(scales.size());
  for (uint64_t row = 0; row < shape_.experts; ++row) {
    const uint64_t groups = cols / kMlxGroup;
    encode_affine_row(std::span(weights).subspan(row * cols, cols), {.bits = kRouterBits, .group = kMlxGroup},
                      AffineEncoder::kMlx, std::span(codes).subspan(row * cols, cols),
                      std::span(scales).subspan(row * groups, groups),
                      std::span(biases).subspan(row * groups, groups));
  }
  const std::string module = module_of(tensor);
  RETURN_IF_ERROR(append(module + ".weight", codes));
  RETURN_IF_ERROR(append(module + ".scales", scales));
  return append(module + ".biases", biases);
}

template <typename Append>
Status MlxSynth::write_matrix(const PlannedTensor& tensor, uint64_t stream, const Append& append) const {
  const std::string module = module_of(tensor);
  const uint64_t cols = tensor.shape.back();
  const uint64_t rows = elements_of(tensor.shape) / cols;
  std::vector<uint8_t> codes;
  const uint64_t code_bytes = affine_code_bytes(rows * cols, bits_);
  for (uint64_t begin = 0; begin < code_bytes; begin += kChunkBytes) {
    codes.resize(std::min(kChunkBytes, code_bytes - begin));
    RandomBytes random(options_.seed, stream, begin);
    random.fill(codes);
    RETURN_IF_ERROR(append(module + ".weight", codes));
  }
  std::vector<uint16_t> scales(rows * cols / kMlxGroup);
  std::vector<uint16_t> biases(scales.size());
  RandomBytes random(options_.seed, stream | kScaleStream, 0);
  fill_groups({.bits = bits_,
               .group = kMlxGroup,
               .cols = cols,
               .sigma = tensor.sigma,
               .positive_cols = tensor.positive_cols,
               .positive_mean = tensor.positive_mean},
              random, scales, biases);
  RETURN_IF_ERROR(append(module + ".scales", scales));
  return append(module + ".biases", biases);
}

Status MlxSynth::write(const ProgressFn& progress) {
  ASSIGN_OR_RETURN(platform::NewFolder folder, platform::NewFolder::create(options_.out));
  const std::vector<formats::TensorSpec> declared = specs();
  uint64_t total = 0;
  for (const formats::TensorSpec& spec : declared) {
    ASSIGN_OR_RETURN(const uint64_t bytes, formats::tensor_bytes(spec));
    total += bytes;
  }
  ASSIGN_OR_RETURN(SafetensorsShards shards, SafetensorsShards::create(folder, declared, {}));
  Meter meter(progress, total);
  const auto append = [&](const std::string& name, const auto& values) -> Status {
    RETURN_IF_ERROR(shards.append(name, bytes_of(values)));
    meter.add(bytes_of(values).size());
    return {};
  };
  for (size_t i = 0; i < plan_.size(); ++i) {
    const PlannedTensor& tensor = plan_[i];
    if (tensor.sigma == 0.0) {
      RETURN_IF_ERROR(
          append(module_of(tensor) + ".weight", std::vector<uint16_t>(tensor.shape[0], bf16_from_f32(1.0f))));
    } else if (tensor.role == TensorRole::kRouter) {
      RETURN_IF_ERROR(write_router(tensor, append));
    } else {
      RETURN_IF_ERROR(write_matrix(tensor, i, append));
    }
  }
  RETURN_IF_ERROR(shards.finish());
  const SyntheticVocabulary vocabulary = make_vocabulary(shape_.vocabulary);
  Json config = hub_config(shape_, vocabulary);
  // mlx-lm reads the first, transformers the second.
  config["quantization"] = quantization_of(plan_, naming_, bits_);
  config["quantization_config"] = config["quantization"];
  RETURN_IF_ERROR(folder.write_file("config.json", dump_json(config, 2)));
  RETURN_IF_ERROR(folder.write_file("tokenizer.json", tokenizer_json(vocabulary)));
  RETURN_IF_ERROR(folder.write_file("tokenizer_config.json", tokenizer_config_json(vocabulary)));
  return folder.commit();
}

// What the model is published in, or usually run in.
SynthFormat usual_format(const ModelShape& shape) {
  return shape.family == ShapeFamily::kGptOss ? SynthFormat::kMxfp4 : SynthFormat::kQ4KM;
}

Status check_format(const ModelShape& shape, SynthFormat format) {
  const bool mlx = format == SynthFormat::kMlx4 || format == SynthFormat::kMlx8;
  const bool mxfp4 = format == SynthFormat::kMxfp4;
  if (mxfp4 != (shape.family == ShapeFamily::kGptOss))
    return fail(ErrorCode::kUnsupported, mxfp4 ? "mxfp4 is the format of the gpt-oss shapes alone"
                                               : std::string(shape.name) + " is written as mxfp4 only");
  if (mlx && is_newer_family(shape.family))
    return fail(ErrorCode::kUnsupported,
                std::string(shape.name) + " is written as GGUF only: q4_k_m, q8_0, q4_0 or bf16");
  return {};
}

}  // namespace

Result<SynthFormat> parse_synth_format(std::string_view name) {
  constexpr std::pair<std::string_view, SynthFormat> kNames[] = {
      {"q4_k_m", SynthFormat::kQ4KM}, {"q8_0", SynthFormat::kQ8_0},   {"q4_0", SynthFormat::kQ4_0},
      {"bf16", SynthFormat::kBF16},   {"mxfp4", SynthFormat::kMxfp4}, {"mlx4", SynthFormat::kMlx4},
      {"mlx8", SynthFormat::kMlx8}};
  std::string names;
  for (const auto& [known, format] : kNames) {
    if (known == name) return format;
    if (!names.empty()) names += ", ";
    names += known;
  }
  return fail(ErrorCode::kInvalidArgument, "unknown format '" + std::string(name) + "'; there are " + names);
}

Status synthesise(const SynthOptions& options, const ProgressFn& progress) {
  ModelShape shape = options.shape;
  if (options.layers) {
    if (*options.layers == 0 || *options.layers > shape.layers)
      return fail(ErrorCode::kInvalidArgument, std::string(shape.name) + " has " +
                                                   std::to_string(shape.layers) + " layers; asked for " +
                                                   std::to_string(*options.layers));
    shape = cut_layers(shape, *options.layers);
  }
  const SynthFormat format = options.format.value_or(usual_format(shape));
  RETURN_IF_ERROR(check_format(shape, format));
  if (!(options.routing_skew >= 0.0) || options.routing_skew > 100.0)
    return fail(ErrorCode::kInvalidArgument, "the routing skew must lie between 0 and 100");
  if (options.routing_skew > 0.0 && shape.experts == 0)
    return fail(ErrorCode::kInvalidArgument,
                std::string(shape.name) + " has no experts, so there is no routing to skew");
  if (options.outline && (format == SynthFormat::kMlx4 || format == SynthFormat::kMlx8))
    return fail(ErrorCode::kUnsupported, "outlines are written as GGUF only");
  if (format == SynthFormat::kMlx4) return MlxSynth(options, shape, 4).write(progress);
  if (format == SynthFormat::kMlx8) return MlxSynth(options, shape, 8).write(progress);
  return synthesise_gguf(options, shape, mix_of(format), progress);
}

}  // namespace mlxf::convert
