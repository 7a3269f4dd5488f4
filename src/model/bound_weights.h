// BoundWeights: the tensors that a ModelSpec names, found, checked against it and loaded.
//
// Made once by Model::load; only set_matrices() changes it afterwards. Each kind of sublayer declares its own beside
// its block. Matrices are views into memory owned by ResidentWeights or by the cache of streamed weights; small
// vectors are f32 of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/blocks/altup.h"
#include "model/blocks/attention.h"
#include "model/blocks/delta_net.h"
#include "model/blocks/latent_attention.h"
#include "model/blocks/laurel.h"
#include "model/blocks/linear.h"
#include "model/blocks/mlp.h"
#include "model/blocks/moe.h"
#include "model/blocks/per_layer.h"
#include "model/spec.h"
#include "weights/resident.h"

namespace mlxf::model {

struct BoundLayer {
  Vector mixer_norm, mixer_post_norm, ffn_norm, ffn_post_norm;
  // Of the alternatives that the layer's spec has.
  std::variant<BoundAttention, BoundLatentAttention, BoundDeltaNet> mixer;
  std::variant<BoundMlp, BoundMoe> ffn;
  // Empty where the spec has none.
  BoundLaurel laurel;
  BoundAltupLayer altup;
  BoundPerLayer per_layer;
  Vector output_scale;

  // Those that every token uses: all but routed experts'.
  [[nodiscard]] std::vector<const MatrixView*> matrices() const;
};

struct BoundWeights {
  std::unique_ptr<weights::ResidentWeights> resident;
  MatrixView embedding, head;
  BoundAltup altup;
  BoundPerLayerInputs per_layer_inputs;
  Vector final_norm;
  std::vector<BoundLayer> layers;
  std::vector<uint32_t> layer_parts;  // Of `resident`, by layer; none: all lie together. 0: left out.
};

// What bind_weights() leaves out, because it is streamed (model/weight_stream.h): its views stay null.
struct LeftOut {
  bool experts = false;
  bool per_layer_table = false;
  bool embedding = false;
  std::vector<uint32_t> layers = {};  // Whose matrices, ascending.
};

// Whether each layer's matrices lie in a part of memory of their own.
enum class LayerMemory : uint8_t { kTogether, kApart };

// Errors name the tensor that is missing or has another shape than the configuration says.
[[nodiscard]] Result<BoundWeights> bind_weights(const formats::ModelManifest& manifest, const ModelSpec& spec,
                                                const weights::ResidentWeights::Options& options,
                                                const LeftOut& left_out = {},
                                                LayerMemory memory = LayerMemory::kTogether);

// The matrices of a dense layer that was left out, in the order of LayerSpec::matrices(), those without a name omitted.
void set_matrices(const LayerSpec& spec, std::span<const MatrixView> matrices, BoundLayer& bound);

// The vector that `source` names, as f32, `add_one` applied; empty when it names none.
[[nodiscard]] Result<Vector> read_vector(const weights::ResidentWeights& weights, const VectorSource& source);

}  // namespace mlxf::model
