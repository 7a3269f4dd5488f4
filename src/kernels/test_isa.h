// IsaTest: for tests of the kernels of every instruction set that this machine has, against the scalar ones; and random
// matrices and tokens for them.
//
// Of tests alone. An instruction set that this machine lacks is reported as skipped. The suite is instantiated once, in
// products_test.cpp, for the tests of all files. One thread.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"
#include "tensor/float16.h"

namespace mlxf::kernels {

inline constexpr float kGuard = 12345.0f;

struct Format {
  WeightFormat format;
  uint8_t bits;
  uint16_t group;
  uint32_t block_bytes, block_elements;
};

inline std::vector<Format> integer_formats() {
  std::vector<Format> formats = {
      {WeightFormat::kQ4_0, 0, 0, 18, 32},     {WeightFormat::kQ4_1, 0, 0, 20, 32},
      {WeightFormat::kQ5_0, 0, 0, 22, 32},     {WeightFormat::kQ5_1, 0, 0, 24, 32},
      {WeightFormat::kQ8_0, 0, 0, 34, 32},     {WeightFormat::kQ2_K, 0, 0, 84, 256},
      {WeightFormat::kQ3_K, 0, 0, 110, 256},   {WeightFormat::kQ4_K, 0, 0, 144, 256},
      {WeightFormat::kQ5_K, 0, 0, 176, 256},   {WeightFormat::kQ6_K, 0, 0, 210, 256},
      {WeightFormat::kIQ4_NL, 0, 0, 18, 32},   {WeightFormat::kIQ4_XS, 0, 0, 136, 256},
      {WeightFormat::kMXFP4, 0, 0, 17, 32},    {WeightFormat::kI8Row, 8, 32, 32, 32},
      {WeightFormat::kMlxMxfp4, 4, 32, 16, 32}};
  for (const uint8_t bits : {2, 3, 4, 5, 6, 8})
    for (const uint16_t group : {32, 64, 128})
      formats.push_back({WeightFormat::kMlxAffine, bits, group, uint32_t{group} * bits / 8, group});
  return formats;
}

// An E8M0 scale: most of them ordinary, some that make the scale or its half denormal.
inline uint8_t random_exponent(std::mt19937& random) {
  return static_cast<uint8_t>(random() % 8 == 0 ? random() % 3 : 118 + random() % 10);
}

// A matrix of random codes with finite scales, at an odd address.
struct Weights {
  MatrixView view;
  std::vector<uint8_t> data, scales, biases;

  Weights(const Format& f, uint32_t rows, uint32_t cols, std::mt19937& random)
      : Weights(f, rows, cols, random, [&random] { return static_cast<uint8_t>(random()); }) {}

  // With bytes of one's own where the format has no float.
  template <typename Bytes>
  Weights(const Format& f, uint32_t rows, uint32_t cols, std::mt19937& random, const Bytes& bytes_of_codes) {
    view.format = f.format;
    view.bits = f.bits;
    view.group = f.group;
    view.scale_type = DType::kBF16;
    view.rows = rows;
    view.cols = cols;
    view.row_bytes = cols / f.block_elements * f.block_bytes;
    data.resize(rows * view.row_bytes + 1);
    for (uint8_t& byte : data) byte = bytes_of_codes();
    view.data = data.data() + 1;
    fill_block_scales(f, random);
    if (f.group == 0) return;
    const uint32_t bytes = f.format == WeightFormat::kI8Row ? 4 : f.format == WeightFormat::kMlxMxfp4 ? 1 : 2;
    view.scale_row_bytes = uint64_t{cols} / f.group * bytes;
    scales.resize(rows * view.scale_row_bytes);
    biases.resize(scales.size());
    for (size_t i = 0; i < scales.size(); i += bytes) {
      const float value = static_cast<float>(static_cast<int>(random() % 1000) - 500) / 5000.0f;
      const uint16_t scale = bf16_from_f32(value), bias = bf16_from_f32(3 * value);
      if (bytes == 4) std::memcpy(&scales[i], &value, 4);
      if (bytes == 2) std::memcpy(&scales[i], &scale, 2);
      if (bytes == 2) std::memcpy(&biases[i], &bias, 2);
      if (bytes == 1) scales[i] = random_exponent(random);
    }
    view.scales = scales.data();
    view.biases = biases.data();
  }

 private:
  void fill_block_scales(const Format& f, std::mt19937& random) {
    const auto half = [&](uint8_t* at) {
      const auto bits = static_cast<uint16_t>(0x1c00 + random() % 0x1000);
      std::memcpy(at, &bits, 2);
    };
    if (f.format >= WeightFormat::kMlxAffine) return;
    for (uint8_t* block = data.data() + 1; block + f.block_bytes <= data.data() + data.size();
         block += f.block_bytes) {
      switch (f.format) {
        case WeightFormat::kMXFP4:
          block[0] = random_exponent(random);
          break;
        case WeightFormat::kQ2_K:
          half(block + 80), half(block + 82);
          break;
        case WeightFormat::kQ3_K:
          half(block + 108);
          break;
        case WeightFormat::kQ6_K:
          half(block + 208);
          break;
        case WeightFormat::kQ4_1:
        case WeightFormat::kQ5_1:
        case WeightFormat::kQ4_K:
        case WeightFormat::kQ5_K:
          half(block), half(block + 2);
          break;
        default:
          half(block);
          break;
      }
    }
  }
};

// Random activations, quantised for `w` by `kernels`.
struct Activations {
  std::vector<float> values, scales;
  std::vector<int8_t> codes;
  std::vector<int16_t> sums16, sums32;
  ActivationView view;

  // Replaces the codes of a quantised token matrix and sums them again.
  template <typename Code>
  void set_codes(const Code& code) {
    for (int8_t& c : codes) c = static_cast<int8_t>(code());
    for (size_t k = 0; k < codes.size(); k += 32) {
      for (size_t h = 0; h < 2; ++h) {
        int sum = 0;
        for (size_t i = 0; i < 16; ++i) sum += codes[k + 16 * h + i];
        sums16[k / 16 + h] = static_cast<int16_t>(sum);
      }
      sums32[k / 32] = static_cast<int16_t>(sums16[k / 16] + sums16[k / 16 + 1]);
    }
  }

  Activations(const KernelTable& kernels, const MatrixView& w, uint32_t tokens, std::mt19937& random)
      : values(uint64_t{tokens} * w.cols),
        codes(values.size()),
        sums16(values.size() / 16 + 1),
        sums32(values.size() / 32 + 1) {
    for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 300.0f;
    view.tokens = tokens;
    view.cols = w.cols;
    view.f32 = values.data();
    view.f32_stride = w.cols;
    const uint32_t block = activation_block(w);
    if (block == 0) return;
    scales.resize(values.size() / block);
    for (uint32_t t = 0; t < tokens; ++t) {
      const uint64_t at = uint64_t{t} * w.cols;
      kernels.quantize(&values[at], w.cols, block, &codes[at], &scales[at / block], &sums16[at / 16],
                       &sums32[at / 32]);
    }
    view.codes = codes.data();
    view.scales = scales.data();
    view.sums16 = sums16.data();
    view.sums32 = sums32.data();
    view.block = block;
  }
};

class IsaTest : public testing::TestWithParam<const char*> {
 protected:
  const KernelTable* table_ = nullptr;
  void SetUp() override {
    for (uint32_t i = 0; i < available_kernels().count; ++i)
      if (std::strcmp(available_kernels().tables[i]->isa, GetParam()) == 0)
        table_ = available_kernels().tables[i];
    if (table_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine has no " << GetParam();
  }
  // Whether the f32 products have the reference's order of additions.
  [[nodiscard]] bool eight_lanes() const {
    return std::strcmp(table_->isa, "avx2") == 0 || std::strcmp(table_->isa, "neon") == 0;
  }
};

inline std::vector<float> multiply(MatmulFn kernel, const MatrixView& w, uint32_t begin, uint32_t end,
                                   const ActivationView& x) {
  static std::vector<uint8_t> memory(kMatmulScratchBytes + 64);
  void* scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  std::vector<float> y(uint64_t{x.tokens} * (w.rows + 3), kGuard);
  kernel(w, begin, end, x, y.data(), w.rows + 3, scratch);
  return y;
}

}  // namespace mlxf::kernels
