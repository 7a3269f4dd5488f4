#include "api/call.h"

namespace mlxf::api {
namespace {

template <typename T>
void set(T& target, const std::optional<T>& value) {
  if (value) target = *value;
}

}  // namespace

void Sampling::apply_to(decode::SamplingParams& params) const {
  set(params.temperature, temperature);
  set(params.top_p, top_p);
  set(params.min_p, min_p);
  set(params.typical_p, typical_p);
  set(params.repetition_penalty, repetition_penalty);
  set(params.presence_penalty, presence_penalty);
  set(params.frequency_penalty, frequency_penalty);
  set(params.top_k, top_k);
  set(params.repeat_last_n, repeat_last_n);
  set(params.seed, seed);
  params.logit_bias = logit_bias;
}

}  // namespace mlxf::api
