// LookAhead: guesses which experts the next layer will choose, so that the disk can fetch them while it has nothing
// better to do.
//
// The guess is the next layer's own router on this layer's state, before this layer's experts have changed it (a "stale
// gate"): right about seven times in ten. It decides nothing: what is not needed is forgotten, and what is needed but
// not guessed is read as ever. For tokens decoded one at a time. Owned by Forward; the engine's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/cpu.h"
#include "model/blocks/router.h"
#include "model/bound_weights.h"
#include "model/spec.h"
#include "model/weight_stream.h"

namespace mlxf::model {

class LookAhead {
 public:
  // All borrowed; they outlive this. `stream` may be null: nothing is streamed, and nothing guessed.
  LookAhead(const ModelSpec& spec, const BoundWeights& weights, compute::Cpu& cpu, WeightStream* stream)
      : spec_(spec), weights_(weights), cpu_(cpu), stream_(stream), router_(cpu) {}

  // Tells the stream which experts of `layer` to expect, from x [hidden], the residual stream of one token within an
  // earlier layer. Does nothing where that layer has no streamed experts or guesses do not pay.
  void guess(uint32_t layer, const float* x);

 private:
  const ModelSpec& spec_;
  const BoundWeights& weights_;
  compute::Cpu& cpu_;
  WeightStream* stream_;
  std::vector<float> normed_, scores_;
  Router router_;
};

}  // namespace mlxf::model
