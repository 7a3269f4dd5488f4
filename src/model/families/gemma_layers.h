// What gemma3n and gemma4 share: two kinds of attention layers with a rope each, keys and values shared between layers,
// per-layer embeddings.
//
// For their family files; Source has the vocabulary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/families/source.h"
#include "model/spec.h"

namespace mlxf::model {

// Which of `layers` layers have a sliding window: by layer_types (GGUF: sliding_window_pattern), by default all but
// every `period`-th.
[[nodiscard]] Result<std::vector<bool>> sliding_layers(const Source& source, uint32_t layers,
                                                       uint32_t period);

// The field's value for each layer: one number for all, or a list.
[[nodiscard]] Result<std::vector<uint32_t>> per_layer_counts(const Source& source, const std::string& field,
                                                             uint32_t layers, int64_t limit);

// Ropes 0 (full layers) and 1 (sliding layers) over heads of these widths. Where GGUF names a scaling it is refused:
// llama.cpp's converter writes none for these architectures.
[[nodiscard]] Status set_layer_ropes(const Source& source, ModelSpec& spec, uint32_t full_dim,
                                     uint32_t sliding_dim);

// The field's integer from 0 to `limit`; 0 where it is missing.
[[nodiscard]] Result<uint32_t> count_or_none(const Source& source, const std::string& field, int64_t limit);

// The last num_kv_shared_layers layers read the keys and values of the last layer before them that has the same kind of
// window.
[[nodiscard]] Status share_keys(const Source& source, ModelSpec& spec);

// Per-layer embeddings of `width` elements for the model and all its layers.
[[nodiscard]] Status add_per_layer_inputs(const Source& source, ModelSpec& spec, uint32_t width,
                                          Activation activation);

// hidden_activation.
[[nodiscard]] Result<Activation> gemma_activation(const Source& source);

// Rounded as the reference keeps its constants, in the precision of the model.
[[nodiscard]] float in_bf16(double value);

}  // namespace mlxf::model
