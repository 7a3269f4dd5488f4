#include "model/blocks/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "tensor/float16.h"

namespace mlxf::model {
namespace {

// base^(-2 i / dims) for each pair i.
std::vector<float> base_frequencies(uint32_t dims, float base) {
  std::vector<float> frequencies(dims / 2);
  for (uint32_t i = 0; i < dims / 2; ++i)
    frequencies[i] = 1.0f / std::pow(base, static_cast<float>(2 * i) / static_cast<float>(dims));
  return frequencies;
}

// Long wavelengths are stretched by the whole factor, short ones not at all, with a linear ramp between.
void scale_llama3(const RopeSpec& spec, std::vector<float>& frequencies) {
  const float pi2 = 2.0f * std::numbers::pi_v<float>;
  const float wavelength_low = spec.original_positions / spec.low_frequency_factor;
  const float wavelength_high = spec.original_positions / spec.high_frequency_factor;
  for (float& frequency : frequencies) {
    const float wavelength = pi2 / frequency;
    if (wavelength < wavelength_high) continue;
    if (wavelength > wavelength_low) {
      frequency /= spec.factor;
      continue;
    }
    const float smooth = (spec.original_positions / wavelength - spec.low_frequency_factor) /
                         (spec.high_frequency_factor - spec.low_frequency_factor);
    frequency = (1.0f - smooth) * frequency / spec.factor + smooth * frequency;
  }
}

// YaRN (arXiv 2309.00071, section 3.2): the ramp is over the index of the pair, between the pairs that turn
// beta_fast and beta_slow times within the original context.
void scale_yarn(const RopeSpec& spec, std::vector<float>& frequencies) {
  const double dims = spec.dims;
  const auto turns_at = [&](double turns) {
    return dims * std::log(spec.original_positions / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(static_cast<double>(spec.base)));
  };
  double low = turns_at(spec.beta_fast);
  double high = turns_at(spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const auto kept = static_cast<float>(1.0 - ramp);
    frequencies[i] = frequencies[i] / spec.factor * (1.0f - kept) + frequencies[i] * kept;
  }
}

Status divide(std::vector<float>& frequencies, const std::vector<float>& divisors, const std::string& name) {
  if (divisors.size() != frequencies.size())
    return fail(ErrorCode::kCorrupt, name + " has " + std::to_string(divisors.size()) + " values for " +
                                         std::to_string(frequencies.size()) + " rotary pairs");
  for (size_t i = 0; i < frequencies.size(); ++i) {
    if (!std::isfinite(divisors[i]) || divisors[i] == 0.0f)
      return fail(ErrorCode::kCorrupt,
                  name + " has a value that is zero or not finite at index " + std::to_string(i));
    frequencies[i] /= divisors[i];
  }
  return {};
}

Status divide(std::vector<float>& frequencies, const VectorSource& source, const Rope::ReadVector& read) {
  if (source.name.empty()) return {};
  ASSIGN_OR_RETURN(const std::vector<float> divisors, read(source));
  return divide(frequencies, divisors, source.name);
}

}  // namespace

Result<Rope> Rope::make(const RopeSpec& spec, const ReadVector& read) {
  Rope rope(spec);
  std::vector<float>& frequencies = rope.short_frequencies_;
  frequencies = base_frequencies(spec.dims, spec.base);
  RETURN_IF_ERROR(divide(frequencies, spec.divisors, read));
  switch (spec.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kDynamic:
      break;
    case RopeScaling::kLinear:
      for (float& frequency : frequencies) frequency /= spec.factor;
      break;
    case RopeScaling::kProportional:
      for (size_t i = 0; i < frequencies.size(); ++i)
        frequencies[i] = i < spec.rotated_pairs ? frequencies[i] / spec.factor : 0.0f;
      break;
    case RopeScaling::kLlama3:
      scale_llama3(spec, frequencies);
      break;
    case RopeScaling::kYarn:
      scale_yarn(spec, frequencies);
      break;
    case RopeScaling::kLongRope:
      rope.long_frequencies_ = frequencies;
      if (spec.short_divisors.name.empty()) {
        RETURN_IF_ERROR(divide(frequencies, spec.short_factors, "rope short_factor"));
        RETURN_IF_ERROR(divide(rope.long_frequencies_, spec.long_factors, "rope long_factor"));
      } else {
        RETURN_IF_ERROR(divide(frequencies, spec.short_divisors, read));
        RETURN_IF_ERROR(divide(rope.long_frequencies_, spec.long_divisors, read));
      }
      break;
  }
  if (spec.bf16_frequencies)
    for (std::vector<float>* list : {&rope.short_frequencies_, &rope.long_frequencies_})
      for (float& frequency : *list) frequency = f32_from_bf16(bf16_from_f32(frequency));
  return rope;
}

float Rope::dynamic_frequency(uint32_t pair, uint32_t context_max) const {
  const auto dims = static_cast<float>(spec_.dims);
  const float stretch =
      spec_.factor * static_cast<float>(context_max) / spec_.original_positions - (spec_.factor - 1.0f);
  const float base = spec_.base * std::pow(stretch, dims / (dims - 2.0f));
  return 1.0f / std::pow(base, static_cast<float>(2 * pair) / dims);
}

std::vector<float> Rope::frequencies(uint32_t context_max) const {
  if (spec_.scaling == RopeScaling::kLongRope && stretches(context_max)) return long_frequencies_;
  std::vector<float> frequencies = short_frequencies_;
  if (spec_.scaling == RopeScaling::kDynamic && stretches(context_max))
    for (uint32_t i = 0; i < pairs(); ++i) frequencies[i] = dynamic_frequency(i, context_max);
  return frequencies;
}

void Rope::fill_row(uint32_t position, uint32_t context_max, float* row) const {
  const bool stretched = stretches(context_max);
  const bool dynamic = stretched && spec_.scaling == RopeScaling::kDynamic;
  const float* frequencies = stretched && spec_.scaling == RopeScaling::kLongRope ? long_frequencies_.data()
                                                                                  : short_frequencies_.data();
  for (uint32_t i = 0; i < pairs(); ++i) {
    const float frequency = dynamic ? dynamic_frequency(i, context_max) : frequencies[i];
    const float angle = static_cast<float>(position) * frequency;
    row[i] = std::cos(angle) * spec_.attention_factor;
    row[pairs() + i] = std::sin(angle) * spec_.attention_factor;
  }
}

void Rope::rotate(const float* table_row, float* head) const {
  const uint32_t count = pairs();
  const float* cosines = table_row;
  const float* sines = table_row + count;
  if (spec_.layout == RopeLayout::kHalfSplit) {
    for (uint32_t i = 0; i < count; ++i) {
      const float a = head[i];
      const float b = head[count + i];
      head[i] = a * cosines[i] - b * sines[i];
      head[count + i] = b * cosines[i] + a * sines[i];
    }
    return;
  }
  for (uint32_t i = 0; i < count; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosines[i] - b * sines[i];
    head[2 * i + 1] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace mlxf::model
