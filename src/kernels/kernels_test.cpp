// Every entry of every instruction set that this machine has, against the scalar kernels. The int8 products must have
// the same bits; f32 results stay within rounding. One that this machine lacks is reported as skipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/code_row.h"
#include "kernels/kernel_table.h"
#include "kernels/philox.h"
#include "tensor/float16.h"

namespace mlxf::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kGuard = 12345.0f;

struct Format {
  WeightFormat format;
  uint8_t bits;
  uint16_t group;
  uint32_t block_bytes, block_elements;
};

std::vector<Format> integer_formats() {
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
uint8_t random_exponent(std::mt19937& random) {
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

std::vector<float> multiply(MatmulFn kernel, const MatrixView& w, uint32_t begin, uint32_t end,
                            const ActivationView& x) {
  static std::vector<uint8_t> memory(kMatmulScratchBytes + 64);
  void* scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  std::vector<float> y(uint64_t{x.tokens} * (w.rows + 3), kGuard);
  kernel(w, begin, end, x, y.data(), w.rows + 3, scratch);
  return y;
}

TEST_P(IsaTest, Int8ProductsHaveTheBitsOfTheReference) {
  std::mt19937 random(3);
  for (const Format& f : integer_formats())
    for (const uint32_t cols : {256u, 2304u})
      for (const uint32_t rows : {1u, 19u, 40u}) {
        const Weights w(f, rows, cols, random);
        for (const uint32_t tokens : {1u, 2u, 3u, 4u, 7u, 33u, 65u}) {
          const Activations x(*table_, w.view, tokens, random);
          const auto format = static_cast<uint32_t>(f.format);
          const uint32_t begin = rows > 4 ? 1 : 0;
          EXPECT_EQ(multiply(table_->matmul_i8[format], w.view, begin, rows, x.view),
                    multiply(reference_kernels().matmul_i8[format], w.view, begin, rows, x.view))
              << "format " << format << " bits " << int{f.bits} << " group " << f.group << " cols " << cols
              << " rows " << rows << " tokens " << tokens;
        }
      }
}

TEST_P(IsaTest, Int8ProductsHaveTheBitsOfTheReferenceForEverySizeOfTileAndTail) {
  std::mt19937 random(7);
  for (const Format& f : integer_formats())
    for (const uint32_t blocks : {1u, 3u, f.block_elements == 256 ? 9u : 69u})
      for (const uint32_t rows : {5u, 17u, 33u}) {
        const Weights w(f, rows, blocks * f.block_elements, random);
        for (uint32_t tokens = 1; tokens <= 17; ++tokens) {
          if (blocks > 3 && tokens % 4 != 1 && (rows > 5 || tokens > 9)) continue;
          const Activations x(*table_, w.view, tokens, random);
          const auto format = static_cast<uint32_t>(f.format);
          ASSERT_EQ(multiply(table_->matmul_i8[format], w.view, 0, rows, x.view),
                    multiply(reference_kernels().matmul_i8[format], w.view, 0, rows, x.view))
              << "format " << format << " bits " << int{f.bits} << " group " << f.group << " blocks "
              << blocks << " rows " << rows << " tokens " << tokens;
        }
      }
}

// What products prepare of their tokens lies in the scratch; the smaller the groups, the more it is.
TEST_P(IsaTest, TokensOfTheWidestMatricesFitTheScratch) {
  std::mt19937 random(14);
  for (const Format& f : integer_formats()) {
    if (f.block_elements != 32) continue;
    for (const auto& [tokens, cols] : {std::pair{1u, kMatmulColsMax}, {8u, 99840u}, {3u, 131072u}}) {
      const Weights w(f, 1, cols, random);
      const Activations x(*table_, w.view, tokens, random);
      const auto format = static_cast<uint32_t>(f.format);
      ASSERT_EQ(multiply(table_->matmul_i8[format], w.view, 0, 1, x.view),
                multiply(reference_kernels().matmul_i8[format], w.view, 0, 1, x.view))
          << "format " << format << " bits " << int{f.bits} << " group " << f.group << " cols " << cols;
    }
  }
}

// Bytes that end with their mapping: who reads or writes behind them faults.
class AtTheEnd {
 public:
  AtTheEnd(const void* bytes, size_t size) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), whole = (size + page - 1) / page * page;
    bytes_ = whole + page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(base_, MAP_FAILED);
    EXPECT_EQ(mprotect(base_ + whole, page, PROT_NONE), 0);
    data_ = base_ + whole - size;
    if (size != 0) std::memcpy(data_, bytes, size);
  }
  template <typename T>
  explicit AtTheEnd(const std::vector<T>& values) : AtTheEnd(values.data(), values.size() * sizeof(T)) {}
  AtTheEnd(const AtTheEnd&) = delete;
  AtTheEnd& operator=(const AtTheEnd&) = delete;
  ~AtTheEnd() { munmap(base_, bytes_); }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  uint8_t* base_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// The last row may end its mapping: a file's, or a slot's.
TEST_P(IsaTest, Int8ProductsReadAndWriteNothingBehindTheEnds) {
  std::mt19937 random(15);
  const std::vector<uint8_t> zeros(kMatmulScratchBytes);
  const AtTheEnd scratch(zeros);
  for (const Format& f : integer_formats())
    for (const uint32_t blocks : {1u, 2u, 3u, 4u, 5u})
      for (const uint32_t rows : {1u, 6u, 19u}) {
        Weights w(f, rows, blocks * f.block_elements, random);
        const AtTheEnd data(w.view.data, rows * w.view.row_bytes), scales(w.scales), biases(w.biases);
        for (const uint32_t tokens : {1u, 2u, 3u, 4u, 5u, 8u, 9u}) {
          Activations x(*table_, w.view, tokens, random);
          const auto format = static_cast<uint32_t>(f.format);
          const std::vector<float> expected =
              multiply(reference_kernels().matmul_i8[format], w.view, 0, rows, x.view);
          const size_t all = size_t{tokens} * w.view.cols;
          const std::vector<float> guards(size_t{tokens} * rows, kGuard);
          const AtTheEnd codes(x.codes), of_blocks(x.scales), sums16(x.sums16.data(), all / 16 * 2),
              sums32(x.sums32.data(), all / 32 * 2), y(guards);
          MatrixView matrix = w.view;
          matrix.data = data.as<uint8_t>();
          matrix.scales = scales.as<uint8_t>();
          matrix.biases = biases.as<uint8_t>();
          ActivationView tokens_there = x.view;
          tokens_there.codes = codes.as<int8_t>();
          tokens_there.scales = of_blocks.as<float>();
          tokens_there.sums16 = sums16.as<int16_t>();
          tokens_there.sums32 = sums32.as<int16_t>();
          table_->matmul_i8[format](matrix, 0, rows, tokens_there, y.as<float>(), rows,
                                    scratch.as<uint8_t>());
          for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t row = 0; row < rows; ++row)
              ASSERT_EQ(y.as<float>()[t * rows + row], expected[t * (rows + 3) + row])
                  << "format " << format << " bits " << int{f.bits} << " group " << f.group;
        }
      }
}

TEST_P(IsaTest, GroupsWithScalesOfAnyTypeHaveTheBitsOfTheReference) {
  std::mt19937 random(13);
  const auto format = static_cast<uint32_t>(WeightFormat::kMlxAffine);
  for (const Format& f : integer_formats()) {
    if (f.format != WeightFormat::kMlxAffine) continue;
    for (const DType type : {DType::kF16, DType::kF32})
      for (const uint32_t groups : {1u, 3u, 9u}) {
        Weights w(f, 7, groups * f.group, random);
        const uint32_t bytes = type == DType::kF32 ? 4 : 2;
        w.view.scale_type = type;
        w.view.scale_row_bytes = uint64_t{groups} * bytes;
        for (std::vector<uint8_t>* values : {&w.scales, &w.biases}) {
          values->resize(7 * w.view.scale_row_bytes);
          for (size_t i = 0; i < values->size(); i += bytes) {
            const float value = static_cast<float>(static_cast<int>(random() % 1000) - 500) / 3000.0f;
            const uint16_t half = f16_from_f32(value);
            std::memcpy(values->data() + i, bytes == 4 ? static_cast<const void*>(&value) : &half, bytes);
          }
        }
        w.view.scales = w.scales.data();
        w.view.biases = w.biases.data();
        for (const uint32_t tokens : {1u, 3u}) {
          const Activations x(*table_, w.view, tokens, random);
          ASSERT_EQ(multiply(table_->matmul_i8[format], w.view, 0, 7, x.view),
                    multiply(reference_kernels().matmul_i8[format], w.view, 0, 7, x.view))
              << "bits " << int{f.bits} << " group " << f.group << " groups " << groups << " tokens "
              << tokens;
        }
      }
  }
}

// Rows of gate and up may take turns: each matrix is every second row of what is stored.
TEST_P(IsaTest, EverySecondRowGivesEverySecondProduct) {
  std::mt19937 random(9);
  for (const Format& f : integer_formats()) {
    if (f.group == 0) continue;  // Blocks, which find their size in a row's.
    const Weights w(f, 38, 256, random);
    const auto format = static_cast<uint32_t>(f.format);
    for (const uint32_t tokens : {1u, 2u, 7u, 33u}) {
      const Activations x(*table_, w.view, tokens, random);
      for (const MatmulFn kernel : {table_->matmul_i8[format], table_->matmul_f32[format]}) {
        const std::vector<float> all = multiply(kernel, w.view, 0, 38, x.view);
        for (const uint32_t first : {0u, 1u}) {
          const std::vector<float> half = multiply(kernel, w.view.row_slice(first, 19, 2), 0, 19, x.view);
          for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t row = 0; row < 19; ++row)
              ASSERT_EQ(half[t * (19 + 3) + row], all[t * (38 + 3) + 2 * row + first])
                  << "format " << format << " bits " << int{f.bits} << " tokens " << tokens;
        }
      }
    }
  }
}

TEST_P(IsaTest, Int8ProductsOfExtremeCodesHaveTheBitsOfTheReference) {
  std::mt19937 random(8);
  constexpr uint8_t kBytes[] = {0xff, 0x7f, 0x80, 0x00};
  for (const Format& f : integer_formats())
    for (uint32_t fill = 0; fill < 5; ++fill) {  // One of the bytes everywhere, then all of them mixed.
      const Weights w(f, 17, 512, random, [&] { return kBytes[fill < 4 ? fill : random() % 4]; });
      for (uint32_t sign = 0; sign < 3; ++sign)
        for (const uint32_t tokens : {1u, 7u}) {
          Activations x(*table_, w.view, tokens, random);
          x.set_codes([&] { return sign == 0 || (sign == 2 && random() % 2 == 0) ? 127 : -127; });
          const auto format = static_cast<uint32_t>(f.format);
          ASSERT_EQ(multiply(table_->matmul_i8[format], w.view, 0, 17, x.view),
                    multiply(reference_kernels().matmul_i8[format], w.view, 0, 17, x.view))
              << "format " << format << " bits " << int{f.bits} << " group " << f.group << " fill " << fill
              << " sign " << sign << " tokens " << tokens;
        }
    }
}

// E8M0 has every exponent and a NaN, which reaches the product of its row alone.
TEST_P(IsaTest, EveryExponentOfMxfp4IsThatOfTheReference) {
  std::mt19937 random(12);
  for (const Format& f :
       {Format{WeightFormat::kMXFP4, 0, 0, 17, 32}, {WeightFormat::kMlxMxfp4, 4, 32, 16, 32}}) {
    Weights w(f, 256, 160, random);  // Row r has exponent r in one of its blocks.
    for (uint32_t r = 0; r < 256; ++r) {
      if (f.group == 0) w.data[1 + r * w.view.row_bytes + r % 5 * 17] = static_cast<uint8_t>(r);
      if (f.group != 0) w.scales[r * w.view.scale_row_bytes + r % 5] = static_cast<uint8_t>(r);
    }
    const auto format = static_cast<uint32_t>(f.format);
    for (const uint32_t tokens : {1u, 2u, 7u}) {
      const Activations x(*table_, w.view, tokens, random);
      const std::vector<float> got = multiply(table_->matmul_i8[format], w.view, 0, 256, x.view);
      const std::vector<float> expected =
          multiply(reference_kernels().matmul_i8[format], w.view, 0, 256, x.view);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(std::isnan(expected[i]), i % 259 == 255);
        ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << "format " << format << " row " << i % 259 << " tokens " << tokens;
      }
    }
  }
}

TEST_P(IsaTest, F32ProductsAreWithinRoundingAndIndependentOfTheBatch) {
  std::mt19937 random(4);
  std::vector<Format> formats = integer_formats();
  formats.push_back({WeightFormat::kF32, 0, 0, 4, 1});
  formats.push_back({WeightFormat::kF16, 0, 0, 2, 1});
  formats.push_back({WeightFormat::kBF16, 0, 0, 2, 1});
  for (const Format& f : formats)
    for (const uint32_t cols : {f.block_elements == 1 ? 33u : 256u, 1280u}) {
      Weights w(f, 19, cols, random);
      const auto format = static_cast<uint32_t>(f.format);
      if (f.block_elements == 1) {  // Random bits would be NaN here and there.
        for (uint32_t i = 0; i < w.view.rows * cols; ++i) {
          const float value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 1000.0f;
          const uint16_t half = f.format == WeightFormat::kF16 ? f16_from_f32(value) : bf16_from_f32(value);
          std::memcpy(w.data.data() + 1 + uint64_t{i} * f.block_bytes,
                      f.block_bytes == 4 ? static_cast<const void*>(&value) : &half, f.block_bytes);
        }
      }
      const Activations x(*table_, w.view, 7, random);
      const std::vector<float> got = multiply(table_->matmul_f32[format], w.view, 0, 19, x.view);
      const std::vector<float> expected =
          multiply(reference_kernels().matmul_f32[format], w.view, 0, 19, x.view);
      float largest = 0;
      for (const float value : expected)
        if (value != kGuard) largest = std::max(largest, std::fabs(value));
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], 1e-5f * largest) << "format " << format;
      if (eight_lanes()) {
        EXPECT_EQ(got, expected) << "format " << format;
      }
      ActivationView one = x.view;
      one.tokens = 1;
      one.f32 += 5 * one.f32_stride;
      const std::vector<float> alone = multiply(table_->matmul_f32[format], w.view, 0, 19, one);
      EXPECT_TRUE(std::equal(alone.begin(), alone.begin() + 19, got.begin() + 5 * 22)) << "format " << format;
    }
}

TEST_P(IsaTest, QuantisingHasTheBitsOfTheReference) {
  std::mt19937 random(5);
  std::vector<float> x(512);
  for (const uint32_t block : {32u, 64u, 128u, 256u})
    for (int round = 0; round < 20; ++round) {
      for (float& value : x) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 127.0f;
      if (round == 1) std::fill(x.begin(), x.begin() + 256, 0.0f);
      std::vector<int8_t> codes[2] = {std::vector<int8_t>(512), std::vector<int8_t>(512)};
      std::vector<float> scales[2] = {std::vector<float>(512 / block), std::vector<float>(512 / block)};
      std::vector<int16_t> sums[2] = {std::vector<int16_t>(48), std::vector<int16_t>(48)};
      table_->quantize(x.data(), 512, block, codes[0].data(), scales[0].data(), sums[0].data(),
                       sums[0].data() + 32);
      reference_kernels().quantize(x.data(), 512, block, codes[1].data(), scales[1].data(), sums[1].data(),
                                   sums[1].data() + 32);
      EXPECT_EQ(codes[0], codes[1]);
      EXPECT_EQ(scales[0], scales[1]);
      EXPECT_EQ(sums[0], sums[1]);
    }
  x[7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<int8_t> codes(512);
  std::vector<float> scales(16);
  std::vector<int16_t> sums(48);
  table_->quantize(x.data(), 512, 32, codes.data(), scales.data(), sums.data(), sums.data() + 32);
  EXPECT_TRUE(std::isnan(scales[0]));
  EXPECT_FALSE(std::isnan(scales[1]));
}

TEST_P(IsaTest, AttentionIsWithinRoundingAndIndependentOfTheOtherQueries) {
  std::mt19937 random(6);
  std::vector<uint8_t> scratch(kMatmulScratchBytes);
  const auto uniform = [&random] {
    return static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
  };
  for (const uint32_t dim : {16u, 128u})
    for (const uint32_t length : {1u, 63u, 64u, 65u, 200u})
      for (const float cap : {0.0f, 20.0f}) {
        const uint32_t pages = (length + 63) / 64;
        std::vector<uint16_t> keys(pages * 64 * dim), values(keys.size());
        for (uint16_t& half : keys) half = f16_from_f32(uniform());
        for (uint16_t& half : values) half = f16_from_f32(uniform());
        std::vector<const uint16_t*> key_pages, value_pages;
        for (uint32_t p = 0; p < pages; ++p) {
          key_pages.push_back(keys.data() + p * 64 * dim);
          value_pages.push_back(values.data() + p * 64 * dim);
        }
        AttentionArgs args;
        args.head_dim = args.value_dim = dim;
        args.scale = 1.0f / std::sqrt(static_cast<float>(dim));
        args.soft_cap = cap;
        args.key_pages = key_pages.data();
        args.value_pages = value_pages.data();
        constexpr uint32_t kQueries = 9;
        std::vector<float> q(kQueries * dim), got(q.size()), expected(q.size()), alone(dim);
        for (float& value : q) value = uniform();
        std::vector<AttentionQuery> queries, reference_queries;
        for (uint32_t i = 0; i < kQueries; ++i) {
          const uint32_t end = length - std::min(length - 1, i);
          queries.push_back({&q[i * dim], &got[i * dim], i % 3 == 2 && end > 30 ? end - 30 : 0, end,
                             i % 2 == 1 ? 0.5f : kMinusInfinity});
          reference_queries.push_back(queries.back());
          reference_queries.back().out = &expected[i * dim];
        }
        table_->attention(args, queries.data(), kQueries, scratch.data());
        reference_kernels().attention(args, reference_queries.data(), kQueries, scratch.data());
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], 2e-5f) << dim << " " << length;
        for (uint32_t i = 0; i < kQueries; ++i) {
          AttentionQuery single = queries[i];
          single.out = alone.data();
          table_->attention(args, &single, 1, scratch.data());
          EXPECT_EQ(std::memcmp(alone.data(), &got[i * dim], dim * sizeof(float)), 0);
        }
      }
}

TEST_P(IsaTest, LatentAttentionIsWithinRoundingAndIndependentOfTheOtherQueries) {
  std::mt19937 random(7);
  std::vector<uint8_t> scratch(kMatmulScratchBytes);
  const auto uniform = [&random] {
    return static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
  };
  constexpr uint32_t kQueries = 9;
  for (const auto& [dim, value_dim] : {std::pair{32u, 16u}, {80u, 64u}, {576u, 512u}})
    for (const uint32_t length : {1u, 2u, 63u, 64u, 65u, 200u})
      for (const bool f32 : {false, true}) {
        const uint32_t pages = (length + 63) / 64;
        const uint64_t page_elements = uint64_t{64} * dim;
        std::vector<float> rows(pages * page_elements);
        for (float& value : rows) value = f32_from_f16(f16_from_f32(uniform()));
        std::vector<uint16_t> halves(rows.size());
        for (size_t i = 0; i < rows.size(); ++i) halves[i] = f16_from_f32(rows[i]);
        std::vector<const uint16_t*> row_pages;
        for (uint32_t p = 0; p < pages; ++p)
          row_pages.push_back(f32 ? reinterpret_cast<const uint16_t*>(rows.data() + p * page_elements)
                                  : halves.data() + p * page_elements);
        AttentionArgs args;
        args.head_dim = dim;
        args.value_dim = value_dim;
        args.scale = 1.0f / std::sqrt(static_cast<float>(dim));
        args.kv_f32 = f32;
        args.key_pages = row_pages.data();
        std::vector<float> q(kQueries * dim), got(kQueries * value_dim), expected(got.size()),
            alone(value_dim);
        for (float& value : q) value = uniform();
        std::vector<AttentionQuery> queries, reference_queries;
        for (uint32_t i = 0; i < kQueries; ++i) {
          const uint32_t end = length - std::min(length - 1, i);
          queries.push_back({&q[i * dim], &got[i * value_dim], i % 3 == 2 && end > 30 ? end - 30 : 0, end,
                             i % 2 == 1 ? 0.5f : kMinusInfinity});
          reference_queries.push_back(queries.back());
          reference_queries.back().out = &expected[i * value_dim];
        }
        table_->latent_attention(args, queries.data(), kQueries, scratch.data());
        reference_kernels().latent_attention(args, reference_queries.data(), kQueries, scratch.data());
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], 2e-5f) << dim << " " << length;
        for (uint32_t i = 0; i < kQueries; ++i) {
          AttentionQuery single = queries[i];
          single.out = alone.data();
          table_->latent_attention(args, &single, 1, scratch.data());
          EXPECT_EQ(std::memcmp(alone.data(), &got[i * value_dim], value_dim * sizeof(float)), 0);
        }
      }
}

TEST_P(IsaTest, RowFunctionsAreWithinRounding) {
  const uint32_t n = 997;
  std::vector<float> a(n), b(n), got(n), expected(n);
  for (uint32_t i = 0; i < n; ++i) {
    a[i] = (static_cast<float>(i) - 500.0f) / 20.0f;
    b[i] = static_cast<float>(1 + i % 7);
  }
  const auto compare = [&](const char* name) {
    for (uint32_t i = 0; i < n; ++i)
      ASSERT_NEAR(got[i], expected[i], 1e-5f * (0.1f + std::fabs(expected[i]))) << name << i;
  };
  table_->silu_mul(a.data(), b.data(), n, got.data());
  reference_kernels().silu_mul(a.data(), b.data(), n, expected.data());
  compare("silu");
  table_->gelu_mul(a.data(), b.data(), n, got.data());
  reference_kernels().gelu_mul(a.data(), b.data(), n, expected.data());
  compare("gelu");
  table_->sigmoid_mul(a.data(), b.data(), n, got.data());
  reference_kernels().sigmoid_mul(a.data(), b.data(), n, expected.data());
  compare("sigmoid");
  const float* taps[] = {a.data(), b.data(), a.data()};
  const std::vector<float> weights = {a.rbegin(), a.rend()};
  table_->conv_silu({3, n - 2, taps, weights.data(), 1, got.data()});
  reference_kernels().conv_silu({3, n - 2, taps, weights.data(), 1, expected.data()});
  compare("conv_silu");
  for (const auto& [gate, up] : {std::pair{&a, &b}, {&b, &a}}) {
    table_->clamped_swiglu(gate->data(), up->data(), n, got.data());
    reference_kernels().clamped_swiglu(gate->data(), up->data(), n, expected.data());
    compare("clamped_swiglu");
  }
  table_->rms_norm(a.data(), b.data(), n, 1e-5f, got.data());
  reference_kernels().rms_norm(a.data(), b.data(), n, 1e-5f, expected.data());
  compare("rms_norm");
  std::vector<uint16_t> halves(n), expected_halves(n);
  table_->narrow_f16(a.data(), n, halves.data());
  reference_kernels().narrow_f16(a.data(), n, expected_halves.data());
  EXPECT_EQ(halves, expected_halves);
}

// The known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(philox4x32(0, {0, 0, 0, 0}),
              testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(philox4x32(UINT64_MAX, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}),
              testing::ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
              testing::ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST_P(IsaTest, RandomWordsAreTheReferences) {
  constexpr uint32_t kUntouched = 0xabababab;
  for (const uint32_t blocks : {1u, 3u, 7u, 8u, 9u, 15u, 16u, 17u, 64u, 101u})
    for (const uint32_t first : {0u, 5u, 0xfffffff9u}) {
      std::vector<uint32_t> got(blocks * 4 + 1, kUntouched), expected(blocks * 4 + 1, kUntouched);
      table_->random_words(0x299f31d0a4093822, 77, first, blocks, got.data());
      reference_kernels().random_words(0x299f31d0a4093822, 77, first, blocks, expected.data());
      ASSERT_EQ(got, expected) << blocks << " from " << first;
      ASSERT_EQ(philox4x32(0x299f31d0a4093822, {77, first, 0, 0})[2], got[2]);
    }
}

TEST_P(IsaTest, RowFunctionsKeepNotANumber) {
  const uint32_t n = 32;
  std::vector<float> x(n, std::numeric_limits<float>::quiet_NaN()), ones(n, 1.0f), got(n);
  for (const auto function :
       {table_->silu_mul, table_->gelu_mul, table_->sigmoid_mul, table_->clamped_swiglu}) {
    function(x.data(), ones.data(), n, got.data());
    for (const float value : got) ASSERT_TRUE(std::isnan(value));
    function(ones.data(), x.data(), n, got.data());
    for (const float value : got) ASSERT_TRUE(std::isnan(value));
  }
}

TEST_P(IsaTest, TheDeltaRuleHasTheBitsOfTheReferenceInAnyPieces) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  constexpr uint32_t kPositions = 5;
  for (const uint32_t key_dim : {1u, 24u, 128u})
    for (const uint32_t value_dim : {1u, 7u, 16u, 32u, 45u, 64u, 96u, 128u, 131u}) {
      const uint64_t key_stride = key_dim + 3, value_stride = value_dim + 5;
      const auto values = [&](uint64_t n) {
        std::vector<float> v(n);
        for (float& x : v) x = uniform(random);
        return v;
      };
      const std::vector<float> q = values(kPositions * key_stride), k = values(kPositions * key_stride),
                               v = values(kPositions * value_stride), decay = values(kPositions * 2),
                               beta = values(kPositions * 2), start = values(uint64_t{key_dim} * value_dim);
      DeltaRuleArgs args;
      args.key_dim = key_dim;
      args.value_dim = value_dim;
      args.key_stride = key_stride;
      args.value_stride = args.out_stride = value_stride;
      args.gate_stride = 2;
      // Positions [begin, end) from one state to another.
      const auto run = [&](DeltaRuleFn kernel, uint32_t begin, uint32_t end, const float* before,
                           float* after, std::vector<float>& out) {
        args.positions = end - begin;
        args.q = q.data() + begin * key_stride;
        args.k = k.data() + begin * key_stride;
        args.v = out.data() + begin * value_stride;
        args.decay = decay.data() + begin * 2;
        args.beta = beta.data() + begin * 2;
        args.out = out.data() + begin * value_stride;
        args.state_before = before;
        args.state_after = after;
        kernel(args);
      };
      std::vector<float> expected = v, whole = v, pieces = v;
      std::vector<float> expected_state(start.size()), state(start.size() + 1, kGuard), in_place = start;
      run(reference_kernels().delta_rule, 0, kPositions, start.data(), expected_state.data(), expected);
      run(table_->delta_rule, 0, kPositions, start.data(), state.data(), whole);
      run(table_->delta_rule, 0, 2, in_place.data(), in_place.data(), pieces);
      run(table_->delta_rule, 2, kPositions, in_place.data(), in_place.data(), pieces);
      EXPECT_EQ(whole, expected) << key_dim << "x" << value_dim;
      EXPECT_EQ(pieces, expected) << key_dim << "x" << value_dim;
      EXPECT_EQ(state.back(), kGuard);
      state.pop_back();
      EXPECT_EQ(state, expected_state) << key_dim << "x" << value_dim;
      EXPECT_EQ(in_place, expected_state) << key_dim << "x" << value_dim;
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, IsaTest, testing::Values("avx2", "avx512", "amx", "neon"));

}  // namespace
}  // namespace mlxf::kernels
