#include "convert/synth_metadata.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/synthetic_vocabulary.h"
#include "model/families/source.h"

namespace mlxf::convert {
namespace {

std::string_view architecture_of(ShapeFamily family) {
  switch (family) {
    case ShapeFamily::kQwen3:
      return "qwen3";
    case ShapeFamily::kQwen3Moe:
      return "qwen3moe";
    case ShapeFamily::kLlama:
    case ShapeFamily::kMixtral:
      return "llama";
    case ShapeFamily::kDeepseekV3:
      return "deepseek2";
    case ShapeFamily::kQwen3Next:
      return "qwen3next";
    case ShapeFamily::kQwen35Moe:
      return "qwen35moe";
    case ShapeFamily::kGptOss:
      return "gpt-oss";
    case ShapeFamily::kGlm4Moe:
      return "glm4moe";
    case ShapeFamily::kLlama4:
      return "llama4";
    case ShapeFamily::kGemma4:
      break;
  }
  return "gemma4";
}

// The keys that the reader translates are named by their fields in config.json; its table has GGUF's names.
class Metadata {
 public:
  Metadata(const ModelShape& shape, GgufMix mix) : shape_(shape), prefix_(architecture_of(shape.family)) {
    pairs_.emplace_back("general.architecture", prefix_);
    pairs_.emplace_back("general.type", std::string("model"));
    pairs_.emplace_back("general.name", std::string(shape.title));
    pairs_.emplace_back("general.quantization_version", uint32_t{2});
    pairs_.emplace_back("general.file_type", gguf_file_type(mix));
    prefix_ += '.';
  }
  formats::GgufPairs make();

 private:
  void key(std::string_view name, formats::GgufValue value) {
    pairs_.emplace_back(prefix_ + std::string(name), std::move(value));
  }
  void field(std::string_view name, formats::GgufValue value) {
    key(model::gguf_key(name), std::move(value));
  }

  // By layer: whether it is a full one.
  [[nodiscard]] std::vector<bool> full_layers(bool value) const {
    std::vector<bool> layers(shape_.layers);
    for (uint32_t layer = 0; layer < shape_.layers; ++layer) layers[layer] = shape_.is_full(layer) == value;
    return layers;
  }
  [[nodiscard]] bool is(ShapeFamily family) const { return shape_.family == family; }

  void heads();
  void experts();
  void yarn(float factor, uint32_t original);
  void latent_attention();
  void delta_nets();
  void gemma4();
  void vocabulary();

  const ModelShape& shape_;
  std::string prefix_;
  formats::GgufPairs pairs_;
};

void Metadata::heads() {
  field("num_attention_heads", shape_.heads);
  if (shape_.full_kv_heads != 0 && shape_.full_kv_heads != shape_.kv_heads) {
    std::vector<int32_t> counts(shape_.layers);
    for (uint32_t layer = 0; layer < shape_.layers; ++layer)
      counts[layer] = static_cast<int32_t>(shape_.is_full(layer) ? shape_.full_kv_heads : shape_.kv_heads);
    field("num_key_value_heads", std::move(counts));
  } else {
    field("num_key_value_heads", shape_.kv_heads);
  }
  const LatentSizes& latent = shape_.latent;
  const uint32_t common = shape_.full_head_dim != 0 ? shape_.full_head_dim : shape_.head_dim;
  // With latents: of what is cached of them.
  field("head_dim", latent.rank != 0 ? latent.rank + latent.rope_dim : common);
  key("attention.value_length", latent.rank != 0 ? latent.rank : common);
  field("rms_norm_eps", shape_.norm_eps);
  field("rope_theta", shape_.rope_base);
}

void Metadata::experts() {
  if (shape_.experts == 0) return;
  field("num_experts", shape_.experts);
  field("num_experts_per_tok", shape_.experts_used);
  if (!is(ShapeFamily::kMixtral)) field("moe_intermediate_size", shape_.ffn_width);
  if (is(ShapeFamily::kQwen3Next) || is(ShapeFamily::kQwen35Moe))
    field("shared_expert_intermediate_size", shape_.shared_width);
  if (is(ShapeFamily::kLlama4)) field("interleave_moe_layer_step", uint32_t{1});
  if (shape_.expert_groups == 0) return;
  constexpr uint32_t kSigmoid = 2;
  field("n_group", shape_.expert_groups);
  field("topk_group", shape_.expert_groups_used);
  field("n_shared_experts", shape_.shared_width / shape_.ffn_width);
  field("first_k_dense_replace", shape_.dense_layers);
  field("expert_gating_func", kSigmoid);
  field("routed_scaling_factor", shape_.routed_scale);
  key("expert_weights_norm", true);
}

void Metadata::yarn(float factor, uint32_t original) {
  key("rope.scaling.type", std::string("yarn"));
  key("rope.scaling.factor", factor);
  field("original_max_position_embeddings", original);
  key("rope.scaling.yarn_beta_fast", 32.0f);
  key("rope.scaling.yarn_beta_slow", 1.0f);
}

void Metadata::latent_attention() {
  const LatentSizes& latent = shape_.latent;
  key("attention.q_lora_rank", latent.query_rank);
  key("attention.kv_lora_rank", latent.rank);
  key("attention.key_length_mla", latent.nope_dim + latent.rope_dim);
  key("attention.value_length_mla", latent.value_dim);
  field("rope_dimensions", latent.rope_dim);
  yarn(40.0f, 4096);
  key("rope.scaling.yarn_log_multiplier", 0.1f);  // mscale_all_dim is 1.
}

void Metadata::delta_nets() {
  const DeltaNetSizes& delta = shape_.delta;
  field("linear_conv_kernel_dim", delta.taps);
  field("linear_key_head_dim", delta.head_dim);
  field("linear_num_key_heads", delta.key_heads);
  field("linear_num_value_heads", delta.value_heads);
  field("linear_inner_size", delta.value_heads * delta.head_dim);
  key("attention.recurrent_layers", full_layers(false));
  key("full_attention_interval", shape_.full_interval);
  if (is(ShapeFamily::kQwen35Moe)) key("rope.dimension_sections", std::vector<int32_t>{11, 11, 10, 0});
}

void Metadata::gemma4() {
  key("attention.sliding_window_pattern", full_layers(false));
  field("num_kv_shared_layers", shape_.kv_shared_layers);
  field("hidden_size_per_layer_input", shape_.per_layer_width);
  field("sliding_head_dim", shape_.head_dim);
  key("attention.value_length_swa", shape_.head_dim);
  field("rope_local_base_freq", shape_.sliding_rope_base);
  field("rope_dimensions", shape_.full_head_dim);
  key("rope.dimension_count_swa", shape_.head_dim);
  field("final_logit_softcapping", 30.0f);
}

void Metadata::vocabulary() {
  const SyntheticVocabulary vocabulary = make_vocabulary(shape_.vocabulary);
  key("vocab_size", static_cast<uint32_t>(vocabulary.tokens.size()));
  pairs_.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  pairs_.emplace_back("tokenizer.ggml.pre", vocabulary.pre_tokenizer);
  pairs_.emplace_back("tokenizer.ggml.tokens", vocabulary.tokens);
  pairs_.emplace_back("tokenizer.ggml.token_type", vocabulary.types);
  pairs_.emplace_back("tokenizer.ggml.merges", vocabulary.merges);
  pairs_.emplace_back("tokenizer.ggml.bos_token_id", vocabulary.bos);
  pairs_.emplace_back("tokenizer.ggml.eos_token_id", vocabulary.eos);
  pairs_.emplace_back("tokenizer.ggml.padding_token_id", vocabulary.pad);
  pairs_.emplace_back("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  if (!vocabulary.chat_template.empty())
    pairs_.emplace_back("tokenizer.chat_template", vocabulary.chat_template);
}

formats::GgufPairs Metadata::make() {
  field("num_hidden_layers", shape_.layers);
  field("max_position_embeddings", shape_.context);
  field("hidden_size", shape_.width);
  field("intermediate_size", shape_.dense_ffn_width);
  heads();
  if (is(ShapeFamily::kLlama) || is(ShapeFamily::kMixtral) || is(ShapeFamily::kLlama4))
    field("rope_dimensions", shape_.head_dim);
  if (shape_.rope_dims != 0) field("rope_dimensions", shape_.rope_dims);
  if (shape_.window != 0) field("sliding_window", shape_.window);
  experts();
  if (is(ShapeFamily::kDeepseekV3)) latent_attention();
  if (is(ShapeFamily::kGptOss)) yarn(32.0f, 4096);
  if (is(ShapeFamily::kQwen3Next) || is(ShapeFamily::kQwen35Moe)) delta_nets();
  if (is(ShapeFamily::kGemma4)) gemma4();
  vocabulary();
  return std::move(pairs_);
}

}  // namespace

formats::GgufPairs synth_metadata(const ModelShape& shape, GgufMix mix) {
  return Metadata(shape, mix).make();
}

}  // namespace mlxf::convert
