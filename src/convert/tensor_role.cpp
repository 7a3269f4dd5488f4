#include "convert/tensor_role.h"

namespace mlxf::convert {
namespace {

struct RoleNames {
  const char* gguf;
  const char* hub;
  bool in_layer;
};

RoleNames names_of(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
      return {"token_embd", "model.embed_tokens", false};
    case TensorRole::kOutputNorm:
      return {"output_norm", "model.norm", false};
    case TensorRole::kOutput:
      return {"output", "lm_head", false};
    case TensorRole::kAttentionNorm:
      return {"attn_norm", "input_layernorm", true};
    case TensorRole::kQkv:
      return {"attn_qkv", "self_attn.qkv_proj", true};
    case TensorRole::kQ:
      return {"attn_q", "self_attn.q_proj", true};
    case TensorRole::kK:
      return {"attn_k", "self_attn.k_proj", true};
    case TensorRole::kV:
      return {"attn_v", "self_attn.v_proj", true};
    case TensorRole::kAttentionOutput:
      return {"attn_output", "self_attn.o_proj", true};
    case TensorRole::kQNorm:
      return {"attn_q_norm", "self_attn.q_norm", true};
    case TensorRole::kKNorm:
      return {"attn_k_norm", "self_attn.k_norm", true};
    case TensorRole::kFfnNorm:
      return {"ffn_norm", "post_attention_layernorm", true};
    case TensorRole::kRouter:
      return {"ffn_gate_inp", "mlp.gate", true};
    case TensorRole::kGate:
      return {"ffn_gate", "mlp.gate_proj", true};
    case TensorRole::kUp:
      return {"ffn_up", "mlp.up_proj", true};
    case TensorRole::kDown:
      return {"ffn_down", "mlp.down_proj", true};
    case TensorRole::kExpertGate:
      return {"ffn_gate_exps", "mlp.switch_mlp.gate_proj", true};
    case TensorRole::kExpertUp:
      return {"ffn_up_exps", "mlp.switch_mlp.up_proj", true};
    case TensorRole::kExpertDown:
      break;
  }
  return {"ffn_down_exps", "mlp.switch_mlp.down_proj", true};
}

// The layers whose attn_v and ffn_down get more bits in the "medium" mixes: the first and last eighth, and
// every third between.
bool gets_more_bits(uint32_t layer, uint32_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

bool is_vector(TensorRole role) {
  switch (role) {
    case TensorRole::kOutputNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kQNorm:
    case TensorRole::kKNorm:
    case TensorRole::kFfnNorm:
      return true;
    default:
      return false;
  }
}

bool is_expert(TensorRole role) {
  return role == TensorRole::kExpertGate || role == TensorRole::kExpertUp || role == TensorRole::kExpertDown;
}

DType q4_k_medium(TensorRole role, uint32_t layer, const GgufModel& model) {
  const bool more = gets_more_bits(layer, model.layers);
  switch (role) {
    case TensorRole::kV:
      if (more) return DType::kQ6_K;
      return model.is_70b ? DType::kQ5_K : DType::kQ4_K;
    case TensorRole::kQkv:
      return DType::kQ5_K;
    case TensorRole::kDown:
    case TensorRole::kExpertDown:
      return more ? DType::kQ6_K : DType::kQ4_K;
    case TensorRole::kAttentionOutput:
      return model.experts == 8 ? DType::kQ5_K : DType::kQ4_K;
    default:
      return DType::kQ4_K;
  }
}

}  // namespace

std::string gguf_name(TensorRole role, uint32_t layer) {
  const RoleNames names = names_of(role);
  const std::string prefix = names.in_layer ? "blk." + std::to_string(layer) + "." : "";
  return prefix + names.gguf + ".weight";
}

std::string hub_module(TensorRole role, uint32_t layer, HubNaming naming) {
  const RoleNames names = names_of(role);
  if (!names.in_layer) return names.hub;
  std::string name = names.hub;
  const bool expert_block = role == TensorRole::kRouter || is_expert(role);
  if (naming == HubNaming::kMixtral && expert_block) name = "block_sparse_moe" + name.substr(name.find('.'));
  return "model.layers." + std::to_string(layer) + "." + name;
}

DType gguf_type(GgufMix mix, TensorRole role, uint32_t layer, const GgufModel& model) {
  if (is_vector(role) || role == TensorRole::kRouter) return DType::kF32;
  if (mix == GgufMix::kBF16) return DType::kBF16;
  if (mix == GgufMix::kF16) return DType::kF16;
  if (mix == GgufMix::kQ8_0) return DType::kQ8_0;
  if (mix == GgufMix::kMxfp4) return is_expert(role) ? DType::kMXFP4 : DType::kQ8_0;
  if (role == TensorRole::kOutput || (role == TensorRole::kEmbedding && model.tied)) return DType::kQ6_K;
  // Models of eight experts spend little on attention, so its keys and values get 8 bits.
  if (model.experts == 8 && (role == TensorRole::kK || role == TensorRole::kV)) return DType::kQ8_0;
  return mix == GgufMix::kQ4_0 ? DType::kQ4_0 : q4_k_medium(role, layer, model);
}

DType fitting_type(DType type, uint64_t cols) {
  const auto fits = [cols](DType candidate) { return cols % traits(candidate).block_elements == 0; };
  if (fits(type)) return type;
  const DType smaller = type == DType::kQ4_K ? DType::kQ5_0 : DType::kQ8_0;
  return fits(smaller) ? smaller : DType::kF16;
}

uint32_t gguf_file_type(GgufMix mix) {
  switch (mix) {
    case GgufMix::kQ4KM:
      return 15;
    case GgufMix::kQ4_0:
      return 2;
    case GgufMix::kQ8_0:
      return 7;
    case GgufMix::kF16:
      return 1;
    case GgufMix::kMxfp4:
      return 38;
    case GgufMix::kBF16:
      break;
  }
  return 32;
}

}  // namespace mlxf::convert
