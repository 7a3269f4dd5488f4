// Products of matrices and tokens, and the codes of tokens, of every instruction set against the scalar kernels: those
// in int8 have the same bits, those in floats stay within rounding.
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

#include "kernels/kernel_table.h"
#include "kernels/test_isa.h"
#include "tensor/float16.h"

namespace mlxf::kernels {
namespace {

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

INSTANTIATE_TEST_SUITE_P(Isa, IsaTest, testing::Values("avx2", "avx512", "amx", "neon"));

}  // namespace
}  // namespace mlxf::kernels
