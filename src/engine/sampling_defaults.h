// What a model's publisher recommends for sampling: its generation_config.json over the program's own defaults.
//
// Stateless; any thread. A greedy model (do_sample false) has temperature 0.
#pragma once

#include "base/result.h"
#include "decode/sampler.h"
#include "formats/manifest.h"

namespace mlxf::engine {

// kCorrupt when the file is there and no JSON.
[[nodiscard]] Result<decode::SamplingParams> default_sampling(const formats::ModelManifest& manifest);

}  // namespace mlxf::engine
