#include "plan/model_work.h"

#include <algorithm>
#include <cmath>

namespace mlxf::plan {
namespace {

uint64_t parameters(const model::MatrixSource& matrix) {
  return matrix.name.empty() ? 0 : uint64_t{matrix.rows} * matrix.cols;
}

// Keys and values that one token at position `depth` reads.
double bytes_read(const model::AttentionSpec& a, kv::Element element, double depth) {
  double seen = depth + 1;
  if (a.window != 0) seen = std::min(seen, static_cast<double>(a.window));
  if (a.chunk != 0) seen = std::min(seen, std::fmod(depth, static_cast<double>(a.chunk)) + 1);
  const uint32_t dim = kv::padded_dim(a.head_dim);
  return seen * static_cast<double>(kv::PageShape{a.kv_heads, dim, dim}.bytes(1, element));
}

// Latents: one row per position for all heads.
double bytes_read(const model::LatentAttentionSpec& a, kv::Element element, double depth) {
  const kv::LatentShape shape{kv::padded_dim(a.latent_width())};
  return (depth + 1) * static_cast<double>(shape.bytes(1, element));
}

// The state, which a token reads and writes.
double bytes_read(const model::DeltaNetSpec& net, kv::Element, double) {
  return 2.0 * static_cast<double>(kv::RecurrentShape{net.state_floats()}.state_bytes());
}

}  // namespace

ActiveParameters active_parameters(const model::ModelSpec& spec) {
  ActiveParameters active;
  for (const model::LayerSpec& layer : spec.layers) {
    for (const model::MatrixSource* matrix : layer.matrices()) active.layers += parameters(*matrix);
    const auto* moe = std::get_if<model::MoeSpec>(&layer.ffn);
    if (moe == nullptr || moe->experts.empty()) continue;
    for (const model::MatrixSource* matrix : moe->experts.front().matrices())  // All have the same shape.
      active.layers += moe->top_k * parameters(*matrix);
  }
  if (spec.altup)
    for (const auto* list : {&spec.altup->projections, &spec.altup->merge})
      for (const model::MatrixSource& matrix : *list) active.layers += parameters(matrix);
  if (spec.per_layer_inputs) active.layers += parameters(spec.per_layer_inputs->projection);
  active.head = parameters(spec.head);
  return active;
}

double kv_bytes_read(const model::ModelSpec& spec, kv::Element element, double depth) {
  double bytes = 0;
  for (const model::LayerSpec& layer : spec.layers)
    bytes += std::visit([&](const auto& mixer) { return bytes_read(mixer, element, depth); }, layer.mixer);
  return bytes;
}

}  // namespace mlxf::plan
