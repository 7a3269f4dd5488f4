#include "weights/routing_window.h"

#include <algorithm>
#include <utility>

namespace mlxf::weights {

RoutingWindow::RoutingWindow(TraceShape shape, uint32_t tokens_max)
    : shape_(std::move(shape)), tokens_max_(tokens_max) {
  ids_.resize((tokens_max_ + 1) * token_ids());
}

void RoutingWindow::observe(uint32_t layer, uint32_t row, std::span<const int32_t> experts) {
  if (row != 0) {
    decodes_ = false;
    return;
  }
  if (layer == 0) {
    count_ = kept();
    seen_ = 0;
    decodes_ = true;
  }
  ++seen_;
  int32_t* to = ids_.data() + count_ % (tokens_max_ + 1) * token_ids() + uint64_t{layer} * shape_.top_k;
  std::copy(experts.begin(), experts.end(), to);
  std::sort(to, to + experts.size());
}

RoutingTrace RoutingWindow::trace() const {
  RoutingTrace trace;
  trace.shape = shape_;
  trace.tokens = std::min(kept(), tokens_max_);
  for (uint64_t token = kept() - trace.tokens; token < kept(); ++token) {
    const int32_t* from = ids_.data() + token % (tokens_max_ + 1) * token_ids();
    trace.ids.insert(trace.ids.end(), from, from + token_ids());
  }
  return trace;
}

}  // namespace mlxf::weights
