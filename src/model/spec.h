// ModelSpec: what a checkpoint is, as data: the layers that its family composed and where their weights are stored.
//
// Made by a family file (families/) from the configuration, without reading tensor data, and immutable
// afterwards. Everything that differs between families is a field here; the code that runs a layer asks the
// fields and never the family. Each kind of sublayer has its spec in spec/ and its code in blocks/, and is an
// alternative of a layer's variants below; everything that must tell the kinds apart visits these. All numbers have
// been checked against limits and each other; that the named tensors exist in the right shapes is checked when they
// are bound (bound_weights.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/token_id.h"
#include "model/spec/altup.h"
#include "model/spec/attention.h"
#include "model/spec/delta_net.h"
#include "model/spec/latent_attention.h"
#include "model/spec/mlp.h"
#include "model/spec/moe.h"
#include "model/spec/per_layer.h"
#include "model/spec/rope.h"
#include "model/spec/tensor_source.h"

namespace mlxf::model {

// x += mixer(norm(x)); x += ffn(norm(x)); with the post-norms, where named, around the sublayers' outputs.
struct LayerSpec {
  VectorSource mixer_norm, mixer_post_norm;
  std::variant<AttentionSpec, LatentAttentionSpec, DeltaNetSpec>
      mixer;  // Mixes tokens: what a position takes from those before it.
  VectorSource ffn_norm, ffn_post_norm;
  std::variant<MlpSpec, MoeSpec> ffn;
  // What some families add around the sublayers.
  std::optional<LaurelSpec> laurel;       // Behind the mixer.
  std::optional<AltupLayerSpec> altup;    // Around the layer; all layers have it or none.
  std::optional<PerLayerSpec> per_layer;  // Behind the feed-forward sublayer; all layers have it or none.
  VectorSource output_scale;              // One number, of the residual stream behind the layer.

  // REQUIRES: the mixer is softmax attention.
  [[nodiscard]] AttentionSpec& attention() { return *std::get_if<AttentionSpec>(&mixer); }
  [[nodiscard]] const AttentionSpec& attention() const { return *std::get_if<AttentionSpec>(&mixer); }

  // Those that every token uses: all but routed experts'.
  [[nodiscard]] std::vector<const MatrixSource*> matrices() const {
    std::vector<const MatrixSource*> list;
    const auto append = [&list](const auto& kind) {
      for (const MatrixSource* matrix : kind.matrices()) list.push_back(matrix);
    };
    std::visit(append, mixer);
    std::visit(append, ffn);
    if (laurel) append(*laurel);
    if (altup) append(*altup);
    if (per_layer) append(*per_layer);
    return list;
  }
};

struct ModelSpec {
  std::string architecture;  // As the checkpoint calls it.
  uint32_t hidden = 0;
  uint32_t vocab = 0;
  uint32_t context_max = 0;
  float norm_eps = 0.0f;
  float embedding_scale = 1.0f;
  float final_soft_cap = 0.0f;   // 0: none.
  MatrixSource embedding, head;  // The same name when tied.
  VectorSource final_norm;
  std::optional<AltupSpec> altup;
  std::optional<PerLayerInputsSpec> per_layer_inputs;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  std::vector<TokenId> eos;  // As the configuration says; generation settings may add to them.
};

}  // namespace mlxf::model
