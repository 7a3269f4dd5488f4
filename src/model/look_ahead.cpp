#include "model/look_ahead.h"

namespace mlxf::model {

void LookAhead::guess(uint32_t layer, const float* x) {
  if (stream_ == nullptr || layer >= spec_.layers.size() || !stream_->wants_guess(layer)) return;
  const auto& moe = std::get<MoeSpec>(spec_.layers[layer].ffn);
  const BoundLayer& bound = weights_.layers[layer];
  const auto& router = std::get<BoundMoe>(bound.ffn);
  normed_.resize(spec_.hidden);
  scores_.resize(moe.experts.size());
  const Vector& norm = router.router_norm.empty() ? bound.ffn_norm : router.router_norm;
  cpu_.rms_norm({x, spec_.hidden, normed_.data(), spec_.hidden, 1, spec_.hidden}, norm.data(),
                spec_.norm_eps);
  router_.select(layer, moe, {router.router, router.router_bias, router.choice_bias}, normed_.data(), 1,
                 scores_.data());
  stream_->guess_experts(layer, router_.chosen());
}

}  // namespace mlxf::model
