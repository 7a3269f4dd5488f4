// HeatProfile: which experts of a model were used how often, kept between runs so that the next one starts warm.
//
// A file of its own per model (formats::fingerprint) in the program's cache folder, written only when the user asks
// (--save-heat): a few KiB at the clean end of a command. Where there is one, the hottest experts that fit are read
// before the first token. It decides nothing but what is read first: answers do not depend on it.
#pragma once

#include <string>

#include "base/result.h"
#include "engine/engine.h"

namespace mlxf::cli {

// Reads what an earlier run found hot, with a progress line. Does nothing without a profile, and says in one line why
// one is ignored; an error only where weights cannot be read.
[[nodiscard]] Status warm_up(engine::Engine& engine);
// Adds this run's uses to half of those that were saved before. Nothing to save where no experts are streamed.
[[nodiscard]] Status save_heat(engine::Engine& engine);

}  // namespace mlxf::cli
