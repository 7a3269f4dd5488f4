#include "convert/gguf_plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <utility>

#include "convert/gguf_blocks.h"
#include "model/families/families.h"

namespace mlxf::convert {
namespace {

// ---- names ----

struct NamePair {
  std::string_view hub;   // Behind "model.layers.N.", without ".weight" or ".bias".
  std::string_view gguf;  // Behind "blk.N."
  TensorRole role;        // Which type it gets; biases and vectors are always F32.
};
constexpr NamePair kLayerNames[] = {
    {"input_layernorm", "attn_norm", TensorRole::kAttentionNorm},
    {"post_attention_layernorm", "ffn_norm", TensorRole::kFfnNorm},
    {"self_attn.qkv_proj", "attn_qkv", TensorRole::kQkv},
    {"self_attn.q_proj", "attn_q", TensorRole::kQ},
    {"self_attn.k_proj", "attn_k", TensorRole::kK},
    {"self_attn.v_proj", "attn_v", TensorRole::kV},
    {"self_attn.o_proj", "attn_output", TensorRole::kAttentionOutput},
    {"self_attn.q_norm", "attn_q_norm", TensorRole::kQNorm},
    {"self_attn.k_norm", "attn_k_norm", TensorRole::kKNorm},
    {"mlp.gate_proj", "ffn_gate", TensorRole::kGate},
    {"mlp.up_proj", "ffn_up", TensorRole::kUp},
    {"mlp.gate_up_proj", "ffn_up", TensorRole::kUp},
    {"mlp.down_proj", "ffn_down", TensorRole::kDown},
    {"mlp.gate", "ffn_gate_inp", TensorRole::kRouter},
    {"block_sparse_moe.gate", "ffn_gate_inp", TensorRole::kRouter},
    {"mlp.switch_mlp.gate_proj", "ffn_gate_exps", TensorRole::kExpertGate},
    {"mlp.switch_mlp.up_proj", "ffn_up_exps", TensorRole::kExpertUp},
    {"mlp.switch_mlp.down_proj", "ffn_down_exps", TensorRole::kExpertDown},
    {"block_sparse_moe.switch_mlp.gate_proj", "ffn_gate_exps", TensorRole::kExpertGate},
    {"block_sparse_moe.switch_mlp.up_proj", "ffn_up_exps", TensorRole::kExpertUp},
    {"block_sparse_moe.switch_mlp.down_proj", "ffn_down_exps", TensorRole::kExpertDown},
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp", TensorRole::kGate},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp", TensorRole::kUp},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp", TensorRole::kDown},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp", TensorRole::kRouter},
};
// Norms on both sides of each sublayer change what the second norm of a layer is for.
constexpr NamePair kSandwichNames[] = {
    {"post_attention_layernorm", "post_attention_norm", TensorRole::kAttentionNorm},
    {"pre_feedforward_layernorm", "ffn_norm", TensorRole::kFfnNorm},
    {"post_feedforward_layernorm", "post_ffw_norm", TensorRole::kFfnNorm},
};

struct FoundName {
  std::string gguf;  // With ".weight" or ".bias".
  TensorRole role = TensorRole::kEmbedding;
  uint32_t layer = 0;
  bool is_bias = false;
};

std::optional<FoundName> translate(std::string_view name, bool sandwich) {
  const auto cut = [&](std::string_view end) {
    if (!name.ends_with(end)) return false;
    name.remove_suffix(end.size());
    return true;
  };
  FoundName found;
  if (cut(".bias")) {
    found.is_bias = true;
  } else if (!cut(".weight")) {
    return std::nullopt;
  }
  const std::string suffix = found.is_bias ? ".bias" : ".weight";
  if (name == "model.embed_tokens") return FoundName{"token_embd" + suffix, TensorRole::kEmbedding, 0, false};
  if (name == "model.norm") return FoundName{"output_norm" + suffix, TensorRole::kOutputNorm, 0, false};
  if (name == "lm_head") return FoundName{"output" + suffix, TensorRole::kOutput, 0, found.is_bias};
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  const size_t dot = name.find('.');
  if (dot == 0 || dot > 4 || dot == std::string_view::npos) return std::nullopt;
  for (const char c : name.substr(0, dot)) {
    if (c < '0' || c > '9') return std::nullopt;
    found.layer = found.layer * 10 + static_cast<uint32_t>(c - '0');
  }
  const std::string_view rest = name.substr(dot + 1);
  const auto find = [rest](std::span<const NamePair> names) -> const NamePair* {
    for (const NamePair& candidate : names)
      if (candidate.hub == rest) return &candidate;
    return nullptr;
  };
  const NamePair* pair = sandwich ? find(kSandwichNames) : nullptr;
  if (pair == nullptr) pair = find(kLayerNames);
  if (pair == nullptr) return std::nullopt;
  found.gguf = "blk." + std::to_string(found.layer) + "." + std::string(pair->gguf) + suffix;
  found.role = pair->role;
  return found;
}

// ---- what the file can say ----

// What the architecture implies, or has keys for, about sliding windows.
enum class Windows : uint8_t {
  kNone,
  kShortContext,  // None, but a context no longer than the window makes no difference: that is written.
  kAll,           // A key; every layer slides or none does.
  kEverySecond,   // A key; layers 0, 2, 4 … slide,
  kFiveOfSix,     // or all but every sixth.
};

struct Architecture {
  const char* hub;
  const char* gguf;
  bool interleaves = false;  // q and k rows, see GgufTensor.
  bool normalises_top_k = false;
  Windows windows = Windows::kNone;
  bool is_gemma = false;  // Norms on both sides of a sublayer, stored as weight - 1 by the hub.
};
constexpr Architecture kArchitectures[] = {
    {"llama", "llama", true, false, Windows::kShortContext},
    {"mistral", "llama", true, false, Windows::kShortContext},
    {"mixtral", "llama", true, true, Windows::kShortContext},
    {"phi3", "phi3", false, false, Windows::kAll},
    {"qwen2", "qwen2"},
    {"qwen2_moe", "qwen2moe"},
    {"qwen3", "qwen3"},
    {"qwen3_moe", "qwen3moe", false, true},
    {"gemma2", "gemma2", false, false, Windows::kEverySecond, true},
    {"gemma3", "gemma3", false, false, Windows::kFiveOfSix, true},
    {"gemma3_text", "gemma3", false, false, Windows::kFiveOfSix, true},
    {"olmoe", "olmoe"},
};

class GgufPlanner {
 public:
  GgufPlanner(const SourceModel& model, GgufMix mix, model::ModelSpec spec)
      : model_(model), mix_(mix), spec_(std::move(spec)) {}

  Result<GgufPlan> plan() {
    RETURN_IF_ERROR(find_architecture());
    RETURN_IF_ERROR(check_layers());
    if (architecture_->is_gemma) RETURN_IF_ERROR(check_gemma());
    plan_.vocab = spec_.vocab;
    add_general();
    add_attention();
    add_mixture();
    RETURN_IF_ERROR(add_rope());
    RETURN_IF_ERROR(add_tensors());
    return std::move(plan_);
  }

 private:
  [[nodiscard]] tl::unexpected<Error> refuse(const std::string& why) const {
    return fail(ErrorCode::kUnsupported, model_.folder() + ": " + why);
  }
  void add(const char* key, formats::GgufValue value) {
    plan_.metadata.emplace_back(std::string(architecture_->gguf) + "." + key, std::move(value));
  }
  [[nodiscard]] const model::AttentionSpec& attention() const { return spec_.layers[0].attention(); }
  [[nodiscard]] const model::MoeSpec* mixture() const {
    return std::get_if<model::MoeSpec>(&spec_.layers[0].ffn);
  }

  [[nodiscard]] bool is(const char* gguf) const { return std::string_view(architecture_->gguf) == gguf; }

  Status find_architecture();
  Status check_layers() const;
  Status check_window(uint32_t index) const;
  Status check_gemma() const;
  void add_general();
  void add_attention();
  void add_mixture();
  Status add_rope();
  Status add_scaling(const model::RopeSpec& rope);
  void add_divisors(const char* name, std::vector<float> divisors);
  Status add_tensors();
  [[nodiscard]] DType type_of(const FoundName& found, const SourceTensor& tensor,
                              const GgufModel& shape) const;

  const SourceModel& model_;
  const GgufMix mix_;
  const model::ModelSpec spec_;
  const Architecture* architecture_ = nullptr;
  GgufPlan plan_;
};

Status GgufPlanner::find_architecture() {
  std::string known;
  for (const Architecture& candidate : kArchitectures) {
    if (spec_.architecture == candidate.hub) architecture_ = &candidate;
    known += std::string(known.empty() ? "" : ", ") + candidate.hub;
  }
  if (architecture_ == nullptr)
    return refuse("model_type \"" + spec_.architecture + "\" cannot be written as GGUF, only " + known +
                  "; MLX types work for all");
  return {};
}

Status GgufPlanner::check_layers() const {
  const bool sparse = mixture() != nullptr;
  if (sparse && mixture()->normalise_top_k != architecture_->normalises_top_k)
    return refuse("norm_topk_prob differs from what GGUF's " + std::string(architecture_->gguf) + " implies");
  for (uint32_t i = 0; i < spec_.layers.size(); ++i) {
    if (std::holds_alternative<model::MoeSpec>(spec_.layers[i].ffn) != sparse)
      return refuse("GGUF's " + std::string(architecture_->gguf) +
                    " has no dense layers among sparse ones (mlp_only_layers, decoder_sparse_step)");
    RETURN_IF_ERROR(check_window(i));
  }
  return {};
}

Status GgufPlanner::check_window(uint32_t index) const {
  const bool slides = spec_.layers[index].attention().window != 0;
  bool expected = slides;
  if (architecture_->windows == Windows::kNone) expected = false;
  if (architecture_->windows == Windows::kAll) expected = attention().window != 0;
  if (architecture_->windows == Windows::kEverySecond) expected = index % 2 == 0;
  if (architecture_->windows == Windows::kFiveOfSix) expected = index % 6 != 5;
  if (slides == expected) return {};
  return refuse("layer " + std::to_string(index) +
                (slides ? " has a sliding window" : " has no sliding window") + ", which GGUF's " +
                std::string(architecture_->gguf) + " cannot say");
}

// What the gemma architectures take for granted in GGUF.
Status GgufPlanner::check_gemma() const {
  const model::AttentionSpec& a = attention();
  const size_t largest = is("gemma2") ? 46 : 62;
  const uint32_t scaled = spec_.layers.size() == largest ? spec_.hidden / a.heads : a.head_dim;
  if (std::abs(a.scale * std::sqrt(static_cast<float>(scaled)) - 1.0f) > 1e-6f)
    return refuse("query_pre_attn_scalar differs from the " + std::to_string(scaled) + " that GGUF's " +
                  std::string(architecture_->gguf) + " implies");
  const bool caps = a.soft_cap != 0.0f && spec_.final_soft_cap != 0.0f;
  const bool no_caps = a.soft_cap == 0.0f && spec_.final_soft_cap == 0.0f;
  if (is("gemma2") ? !caps : !no_caps)
    return refuse("attn_logit_softcapping and final_logit_softcapping differ from what GGUF's " +
                  std::string(architecture_->gguf) + " implies");
  if (spec_.ropes.size() > 1 && spec_.ropes[1].scaling != model::RopeScaling::kNone)
    return refuse("the rope of its sliding layers is scaled, which GGUF's gemma3 cannot say");
  return {};
}

// The folder's own name.
std::string title_of(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder.substr(folder.rfind('/') + 1);
}

void GgufPlanner::add_general() {
  plan_.metadata.emplace_back("general.architecture", std::string(architecture_->gguf));
  plan_.metadata.emplace_back("general.type", std::string("model"));
  plan_.metadata.emplace_back("general.name", title_of(model_.folder()));
  plan_.metadata.emplace_back("general.quantization_version", uint32_t{2});
  plan_.metadata.emplace_back("general.file_type", gguf_file_type(mix_));
  add("block_count", static_cast<uint32_t>(spec_.layers.size()));
  uint32_t context = spec_.context_max;
  if (architecture_->windows == Windows::kShortContext)
    for (const model::LayerSpec& layer : spec_.layers)
      if (layer.attention().window != 0) context = std::min(context, layer.attention().window);
  add("context_length", context);
  add("embedding_length", spec_.hidden);
  const auto* dense = std::get_if<model::MlpSpec>(&spec_.layers[0].ffn);
  const auto width = find_int(model_.config(), "intermediate_size");
  add("feed_forward_length", dense != nullptr ? dense->width
                             : width          ? static_cast<uint32_t>(*width)
                                              : mixture()->width);
  add("vocab_size", spec_.vocab);
}

void GgufPlanner::add_attention() {
  add("attention.head_count", attention().heads);
  add("attention.head_count_kv", attention().kv_heads);
  add("attention.key_length", attention().head_dim);
  add("attention.value_length", attention().head_dim);
  add("attention.layer_norm_rms_epsilon", spec_.norm_eps);
  if (attention().clip_qkv != 0.0f) add("attention.clamp_kqv", attention().clip_qkv);
  if (architecture_->windows >= Windows::kAll) add("attention.sliding_window", attention().window);
  if (attention().soft_cap != 0.0f) add("attn_logit_softcapping", attention().soft_cap);
  if (spec_.final_soft_cap != 0.0f) add("final_logit_softcapping", spec_.final_soft_cap);
}

void GgufPlanner::add_mixture() {
  const model::MoeSpec* moe = mixture();
  if (moe == nullptr) return;
  add("expert_count", static_cast<uint32_t>(moe->experts.size()));
  add("expert_used_count", moe->top_k);
  // Only the qwen architectures tell the experts' width apart from that of dense layers.
  if (std::string_view(architecture_->gguf).starts_with("qwen"))
    add("expert_feed_forward_length", moe->width);
  if (moe->shared) add("expert_shared_feed_forward_length", moe->shared->width);
}

Status GgufPlanner::add_rope() {
  const model::RopeSpec& rope = spec_.ropes[0];
  add("rope.freq_base", rope.base);
  add("rope.dimension_count", rope.dims);
  if (spec_.ropes.size() > 1) add("rope.freq_base_swa", spec_.ropes[1].base);
  if (is("phi3")) {
    const auto original = find_int(model_.config(), "original_max_position_embeddings");
    add("rope.scaling.original_context_length",
        original ? static_cast<uint32_t>(*original) : spec_.context_max);
  }
  return add_scaling(rope);
}

void GgufPlanner::add_divisors(const char* name, std::vector<float> divisors) {
  GgufTensor tensor{.name = name, .values = std::move(divisors)};
  tensor.shape = {tensor.values.size()};
  plan_.tensors.push_back(std::move(tensor));
}

Status GgufPlanner::add_scaling(const model::RopeSpec& rope) {
  switch (rope.scaling) {
    case model::RopeScaling::kNone:
      return {};
    case model::RopeScaling::kLinear:
      add("rope.scaling.type", std::string("linear"));
      add("rope.scaling.factor", rope.factor);
      return {};
    case model::RopeScaling::kYarn:
      if (std::abs(rope.attention_factor - (0.1f * std::log(rope.factor) + 1.0f)) > 1e-4f)
        return refuse("its YaRN scaling has an attention factor of its own, which is not written to GGUF");
      add("rope.scaling.type", std::string("yarn"));
      add("rope.scaling.factor", rope.factor);
      add("rope.scaling.original_context_length", static_cast<uint32_t>(rope.original_positions));
      return {};
    case model::RopeScaling::kLlama3:
      add_divisors("rope_freqs.weight", llama3_divisors(rope));
      return {};
    case model::RopeScaling::kLongRope:
      if (!is("phi3")) return refuse("longrope scaling is written to GGUF for phi3 only");
      add("rope.scaling.attn_factor", rope.attention_factor);
      add_divisors("rope_factors_long.weight", rope.long_factors);
      add_divisors("rope_factors_short.weight", rope.short_factors);
      return {};
    default:
      return refuse("its rope scaling is not written to GGUF; none, linear, llama3, yarn and longrope are");
  }
}

DType GgufPlanner::type_of(const FoundName& found, const SourceTensor& tensor, const GgufModel& shape) const {
  if (found.is_bias || tensor.rows() == 1) return DType::kF32;
  return fitting_type(gguf_type(mix_, found.role, found.layer, shape), tensor.cols());
}

Status GgufPlanner::add_tensors() {
  const bool tied = spec_.head.name == spec_.embedding.name;
  const GgufModel shape{
      .layers = static_cast<uint32_t>(spec_.layers.size()),
      .experts = mixture() != nullptr ? static_cast<uint32_t>(mixture()->experts.size()) : 0,
      .tied = tied,
      .is_70b = std::string_view(architecture_->gguf) == "llama" && spec_.layers.size() == 80};
  for (const SourceTensor& tensor : model_.tensors()) {
    if (tied && tensor.name == "lm_head.weight") continue;
    if (tensor.name.ends_with("rotary_emb.inv_freq"))
      continue;  // Old checkpoints store what follows from the base.
    const auto found = translate(tensor.name, architecture_->is_gemma);
    if (!found) return refuse("tensor " + tensor.name + " has no name in GGUF");
    GgufTensor planned{.name = found->gguf, .source = &tensor, .shape = tensor.shape};
    planned.dtype = type_of(*found, tensor, shape);
    if (tensor.rows() == 1) planned.shape = {tensor.cols()};
    planned.add_one = architecture_->is_gemma && tensor.rows() == 1 && !found->is_bias;
    if (architecture_->interleaves && found->role == TensorRole::kQ)
      planned.interleaved_heads = attention().heads;
    if (architecture_->interleaves && found->role == TensorRole::kK)
      planned.interleaved_heads = attention().kv_heads;
    plan_.tensors.push_back(std::move(planned));
  }
  return {};
}

}  // namespace

std::vector<float> llama3_divisors(const model::RopeSpec& rope) {
  std::vector<float> divisors(rope.dims / 2);
  const double longest = double{rope.original_positions} / rope.low_frequency_factor;
  const double shortest = double{rope.original_positions} / rope.high_frequency_factor;
  for (uint32_t i = 0; i < rope.dims / 2; ++i) {
    const double frequency = std::pow(double{rope.base}, -2.0 * i / rope.dims);
    const double wavelength = 2.0 * M_PI / frequency;
    if (wavelength < shortest) {
      divisors[i] = 1.0f;
    } else if (wavelength > longest) {
      divisors[i] = rope.factor;
    } else {
      const double smooth = (rope.original_positions / wavelength - rope.low_frequency_factor) /
                            (double{rope.high_frequency_factor} - rope.low_frequency_factor);
      divisors[i] = static_cast<float>(1.0 / ((1.0 - smooth) / rope.factor + smooth));
    }
  }
  return divisors;
}

uint64_t interleaved_row(uint64_t row, uint64_t rows, uint32_t heads) {
  const uint64_t head_dim = rows / heads;
  const uint64_t head = row / head_dim;
  const uint64_t within = row % head_dim;
  const uint64_t half = within / (head_dim / 2);
  return head * head_dim + within % (head_dim / 2) * 2 + half;
}

Result<GgufPlan> plan_gguf(const SourceModel& model, GgufMix mix) {
  ASSIGN_OR_RETURN(model::ModelSpec spec, model::make_spec(model.manifest()));
  return GgufPlanner(model, mix, std::move(spec)).plan();
}

}  // namespace mlxf::convert
