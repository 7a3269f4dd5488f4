// RandomBlocks: random weights made directly in their quantised form, at memory speed.
//
// Codes are random bits; scales vary by a quarter around the value that gives the wanted standard deviation,
// and offsets make the mean zero. Over the first `positive_cols` of each row all values are positive instead,
// with the mean `positive_mean`: a direction that every row shares. Output depends on (seed, row range) only.
// A value type; one thread per instance.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace mlxf::convert {

// xoshiro256++ (Blackman and Vigna, 2018), eight independent streams side by side so that compilers use
// vectors. The streams are seeded by splitmix64 from (seed, stream, block), which makes it counter-based.
class RandomBytes {
 public:
  RandomBytes(uint64_t seed, uint64_t stream, uint64_t block);
  void fill(std::span<uint8_t> out);

 private:
  static constexpr int kLanes = 8;
  void step(uint64_t* out);
  uint64_t state_[4][kLanes];
};

struct RandomRows {
  DType dtype = DType::kF32;
  uint64_t cols = 0;
  double sigma = 0.0;
  uint64_t positive_cols = 0;  // A multiple of 256.
  double positive_mean = 0.0;
};

// Whether fill_rows() can make this type.
[[nodiscard]] bool has_random_form(DType dtype);

// Whole rows. REQUIRES: has_random_form(rows.dtype), out a whole number of rows.
void fill_rows(const RandomRows& rows, RandomBytes& random, std::span<uint8_t> out);

// MLX's affine form: codes are plain random bytes, so only scales and biases need care. Both as bf16,
// [rows, cols / group], from one call so that they agree.
struct RandomGroups {
  uint32_t bits = 4;
  uint32_t group = 64;
  uint64_t cols = 0;
  double sigma = 0.0;
  uint64_t positive_cols = 0;
  double positive_mean = 0.0;
};
void fill_groups(const RandomGroups& groups, RandomBytes& random, std::span<uint16_t> scales,
                 std::span<uint16_t> biases);

}  // namespace mlxf::convert
