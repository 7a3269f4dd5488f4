// KnownModel: models that people want, where files of them are published, and the shape that they have.
//
// Plain data; nothing is asked of any hub. Sizes are not written down: they follow from the shape and the format.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convert/shapes.h"
#include "convert/synth.h"

namespace mlxf::convert {

struct KnownModel {
  std::string_view title;       // For people.
  std::string_view repository;  // "org/name" on Hugging Face, and
  std::string_view variant;     // which of its files; empty: there is one model.
  std::string_view shape;       // Of known_shapes().
  SynthFormat format = SynthFormat::kQ4KM;
  // "org/name:Q4_K_M", as `pull` takes it.
  [[nodiscard]] std::string name() const;
};

// Smallest first.
[[nodiscard]] const std::vector<KnownModel>& known_models();

}  // namespace mlxf::convert
