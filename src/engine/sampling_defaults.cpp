#include "engine/sampling_defaults.h"

#include "text/model_files.h"

namespace mlxf::engine {
namespace {

template <typename Value>
void set(Value& target, const std::optional<double>& config) {
  if (config) target = static_cast<Value>(*config);
}

}  // namespace

Result<decode::SamplingParams> default_sampling(const formats::ModelManifest& manifest) {
  ASSIGN_OR_RETURN(const Json config, text::load_model_json(manifest, "generation_config.json"));
  decode::SamplingParams params;
  const bool greedy = find_bool(config, "do_sample") == false;
  set(params.temperature, greedy ? std::optional(0.0) : find_number(config, "temperature"));
  set(params.top_p, find_number(config, "top_p"));
  set(params.min_p, find_number(config, "min_p"));
  set(params.typical_p, find_number(config, "typical_p"));
  set(params.top_k, find_number(config, "top_k"));
  set(params.repetition_penalty, find_number(config, "repetition_penalty"));
  return params;
}

}  // namespace mlxf::engine
