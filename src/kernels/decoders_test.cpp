// The decoders of integer formats, AVX2's or NEON's, against the reference decoders, array by array: random and extreme
// blocks, every sub-range of a row, and guards behind each array. Skipped on a machine without the instruction set,
// empty on other processors.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/code_row.h"
#include "kernels/kernel_table.h"

#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#elif defined(__aarch64__)
#include "kernels/neon/neon.h"
#endif

#if defined(__x86_64__) || defined(__aarch64__)
#include "kernels/isa_tables.h"

namespace mlxf::kernels {
namespace {

#if defined(__x86_64__)
constexpr const char* kIsa = "avx2";
const KernelTable& table() { return *avx2_table(); }
DecodeCodesFn code_decoder(WeightFormat format) { return avx2::code_decoder(format); }
#else
constexpr const char* kIsa = "neon";
const KernelTable& table() { return *neon_table(); }
DecodeCodesFn code_decoder(WeightFormat format) { return neon::code_decoder(format); }
#endif

bool is_available() {
  for (uint32_t i = 0; i < available_kernels().count; ++i)
    if (std::strcmp(available_kernels().tables[i]->isa, kIsa) == 0) return true;
  return false;
}

constexpr uint32_t kRows = 3, kBlocks = 7;
constexpr uint8_t kGuard = 0xa5;

struct Format {
  const char* name;
  WeightFormat format;
  uint32_t block_bytes, block_elements;
  uint8_t bits = 0;
};

const Format kFormats[] = {
    {"Q4_0", WeightFormat::kQ4_0, 18, 32},
    {"Q4_1", WeightFormat::kQ4_1, 20, 32},
    {"Q5_0", WeightFormat::kQ5_0, 22, 32},
    {"Q5_1", WeightFormat::kQ5_1, 24, 32},
    {"Q8_0", WeightFormat::kQ8_0, 34, 32},
    {"Q2_K", WeightFormat::kQ2_K, 84, 256},
    {"Q3_K", WeightFormat::kQ3_K, 110, 256},
    {"Q4_K", WeightFormat::kQ4_K, 144, 256},
    {"Q5_K", WeightFormat::kQ5_K, 176, 256},
    {"Q6_K", WeightFormat::kQ6_K, 210, 256},
    {"IQ4_NL", WeightFormat::kIQ4_NL, 18, 32},
    {"IQ4_XS", WeightFormat::kIQ4_XS, 136, 256},
    {"MXFP4", WeightFormat::kMXFP4, 17, 32},
    {"I8Row", WeightFormat::kI8Row, 32, 32, 8},
    {"mxfp4", WeightFormat::kMlxMxfp4, 16, 32, 4},
    {"affine2", WeightFormat::kMlxAffine, 16, 64, 2},
    {"affine3", WeightFormat::kMlxAffine, 24, 64, 3},
    {"affine4", WeightFormat::kMlxAffine, 32, 64, 4},
    {"affine5", WeightFormat::kMlxAffine, 40, 64, 5},
    {"affine6", WeightFormat::kMlxAffine, 48, 64, 6},
    {"affine8", WeightFormat::kMlxAffine, 64, 64, 8},
};

// A matrix whose bytes end where their allocation ends, so that reading past a block is seen by AddressSanitizer.
// `fill` gives every byte, of the scales too: all bit patterns of d, NaN and infinity included.
struct Weights {
  std::unique_ptr<uint8_t[]> data, scales, biases;
  MatrixView view;

  template <typename Fill>
  Weights(const Format& f, Fill fill) {
    view.format = f.format;
    view.bits = f.bits;
    view.rows = kRows;
    view.cols = kBlocks * f.block_elements;
    view.row_bytes = uint64_t{kBlocks} * f.block_bytes;
    view.data = allocate(data, kRows * view.row_bytes, fill);
    if (f.bits == 0) return;
    view.group = static_cast<uint16_t>(f.block_elements);
    view.scale_type = DType::kF16;
    const uint32_t bytes = f.format == WeightFormat::kI8Row ? 4 : f.format == WeightFormat::kMlxMxfp4 ? 1 : 2;
    view.scale_row_bytes = uint64_t{kBlocks} * bytes;
    view.scales = allocate(scales, kRows * view.scale_row_bytes, fill);
    view.biases = allocate(biases, kRows * view.scale_row_bytes, fill);
  }

 private:
  template <typename Fill>
  static const uint8_t* allocate(std::unique_ptr<uint8_t[]>& memory, uint64_t bytes, Fill fill) {
    memory = std::make_unique<uint8_t[]>(bytes + 1);  // At an odd address.
    for (uint64_t i = 0; i < bytes; ++i) memory[i + 1] = fill(i);
    return memory.get() + 1;
  }
};

// One array of a CodeRow between guard bytes.
template <typename T>
class Guarded {
 public:
  explicit Guarded(uint32_t count) : bytes_(2 * kMargin + count * sizeof(T), kGuard), count_(count) {}
  T* data() { return reinterpret_cast<T*>(bytes_.data() + kMargin); }
  [[nodiscard]] std::vector<T> values() {
    std::vector<T> copy(count_);
    if (count_ > 0) std::memcpy(copy.data(), data(), count_ * sizeof(T));
    return copy;
  }
  [[nodiscard]] bool intact() const {
    for (size_t i = 0; i < kMargin; ++i)
      if (bytes_[i] != kGuard || bytes_[bytes_.size() - 1 - i] != kGuard) return false;
    return true;
  }

 private:
  static constexpr size_t kMargin = 64;
  std::vector<uint8_t> bytes_;
  uint32_t count_;
};

struct Decoded {
  Guarded<uint8_t> codes;
  Guarded<int16_t> scales, minimums;
  Guarded<float> d, e;

  Decoded(DecodeCodesFn decode, const MatrixView& w, uint32_t row, uint32_t begin, uint32_t end)
      : codes((end - begin) * code_traits(w).block),
        scales((end - begin) * (code_traits(w).block / code_traits(w).sub)),
        minimums((end - begin) * (code_traits(w).block / code_traits(w).sub)),
        d(end - begin),
        e(end - begin) {
    decode(w, row, begin, end, {codes.data(), scales.data(), minimums.data(), d.data(), e.data()});
  }
  [[nodiscard]] bool intact() const {
    return codes.intact() && scales.intact() && minimums.intact() && d.intact() && e.intact();
  }
};

// Bits, except that any NaN equals any other: the hardware's f16 conversion makes signalling ones quiet.
std::vector<uint32_t> float_bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    std::memcpy(&bits[i], &values[i], 4);
    if (std::isnan(values[i])) bits[i] = 0x7fc00000;
  }
  return bits;
}

void compare(const Format& f, const MatrixView& w, uint32_t row, uint32_t begin, uint32_t end) {
  const CodeTraits t = code_traits(w);
  Decoded got(code_decoder(f.format), w, row, begin, end);
  Decoded expected(reference_code_decoder(f.format), w, row, begin, end);
  const std::string where = std::string(f.name) + " row " + std::to_string(row) + " blocks " +
                            std::to_string(begin) + "-" + std::to_string(end);
  EXPECT_EQ(got.codes.values(), expected.codes.values()) << where;
  EXPECT_EQ(got.scales.values(), expected.scales.values()) << where;
  EXPECT_EQ(float_bits(got.d.values()), float_bits(expected.d.values())) << where;
  if (t.minimum != MinimumKind::kNone) {
    EXPECT_EQ(got.minimums.values(), expected.minimums.values()) << where;
  }
  if (t.minimum == MinimumKind::kAffine) {
    EXPECT_EQ(float_bits(got.e.values()), float_bits(expected.e.values())) << where;
  }
  EXPECT_TRUE(got.intact()) << where;
}

class DecodersTest : public testing::TestWithParam<Format> {
 protected:
  void SetUp() override {
    if (!is_available()) GTEST_SKIP() << "SKIPPED: this machine has no " << kIsa;
  }
};

TEST_P(DecodersTest, GiveTheArraysOfTheReferenceForEverySubRange) {
  std::mt19937 random(11);
  for (int round = 0; round < 8; ++round) {
    const Weights w(GetParam(), [&random](uint64_t) { return static_cast<uint8_t>(random()); });
    for (uint32_t row = 0; row < kRows; ++row)
      for (uint32_t begin = 0; begin < kBlocks; ++begin)
        for (uint32_t end = begin; end <= kBlocks; ++end) compare(GetParam(), w.view, row, begin, end);
  }
}

// Each byte value everywhere reaches the extremes of every field, and each value of a one-byte scale.
TEST_P(DecodersTest, GiveTheArraysOfTheReferenceForEqualBytes) {
  for (uint32_t value = 0; value < 256; ++value) {
    const Weights w(GetParam(), [value](uint64_t) { return static_cast<uint8_t>(value); });
    compare(GetParam(), w.view, kRows - 1, 0, kBlocks);
  }
}

// One bit of a block at a time: shows a bit that lands in the wrong code, scale or minimum.
TEST_P(DecodersTest, PutEveryBitWhereTheReferenceDoes) {
  const uint64_t bytes = GetParam().block_bytes;
  for (uint64_t bit = 0; bit < bytes * 8; ++bit) {
    const Weights w(GetParam(), [bit, bytes](uint64_t i) {
      return static_cast<uint8_t>(i % bytes == bit / 8 ? 1u << (bit % 8) : 0u);
    });
    compare(GetParam(), w.view, 1, 2, 4);
  }
}

// Values as f32 of every range of blocks, with the bits of the reference and nothing behind them.
void compare_values(const MatrixView& w, uint32_t block, const std::string& name) {
  const auto format = static_cast<uint32_t>(w.format);
  for (uint32_t row = 0; row < w.rows; ++row)
    for (uint32_t begin = 0; begin < w.cols; begin += block)
      for (uint32_t end = begin; end <= w.cols; end += block) {
        Guarded<float> got(end - begin), expected(end - begin);
        table().decode[format](w, row, begin, end, got.data());
        reference_kernels().decode[format](w, row, begin, end, expected.data());
        EXPECT_EQ(float_bits(got.values()), float_bits(expected.values()))
            << name << " row " << row << " columns " << begin << "-" << end;
        EXPECT_TRUE(got.intact()) << name;
      }
}

TEST_P(DecodersTest, GiveTheValuesOfTheReference) {
  std::mt19937 random(12);
  for (int round = 0; round < 4; ++round) {
    const Weights w(GetParam(), [&random](uint64_t) { return static_cast<uint8_t>(random()); });
    compare_values(w.view, GetParam().block_elements, GetParam().name);
  }
  for (const int value : {0x00, 0x7c, 0x80, 0xff}) {  // Scales of 0, infinity, minus nothing and NaN.
    const Weights w(GetParam(), [value](uint64_t) { return static_cast<uint8_t>(value); });
    compare_values(w.view, GetParam().block_elements, GetParam().name);
  }
}

TEST(F8DecoderTest, GivesTheValuesOfTheReference) {
  if (!is_available()) GTEST_SKIP() << "SKIPPED: this machine has no " << kIsa;
  constexpr uint32_t kRowsF8 = 130,
                     kColsF8 = 300;  // Two rows and three columns of scales; a tail of columns.
  std::vector<uint8_t> data(kRowsF8 * kColsF8);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i);
  const float scales[6] = {1.0f, -0.37f, 1e-38f, 3e38f, 0.0f, 7.5f};
  MatrixView w;
  w.format = WeightFormat::kF8E4M3;
  w.rows = kRowsF8;
  w.cols = kColsF8;
  w.data = data.data();
  w.row_bytes = kColsF8;
  w.scale_row_bytes = 12;
  for (const uint8_t* scale_bytes :
       {static_cast<const uint8_t*>(nullptr), reinterpret_cast<const uint8_t*>(scales)}) {
    w.scales = scale_bytes;
    for (const uint32_t row : {0u, 1u, 127u, 128u, 129u})
      for (uint32_t begin = 0; begin < kColsF8; begin += 37)
        for (uint32_t end = begin; end <= kColsF8; end += 3) {
          Guarded<float> got(end - begin), expected(end - begin);
          table().decode[static_cast<uint32_t>(w.format)](w, row, begin, end, got.data());
          reference_kernels().decode[static_cast<uint32_t>(w.format)](w, row, begin, end, expected.data());
          EXPECT_EQ(float_bits(got.values()), float_bits(expected.values()))
              << row << " " << begin << "-" << end;
          EXPECT_TRUE(got.intact());
        }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DecodersTest, testing::ValuesIn(kFormats),
                         [](const testing::TestParamInfo<Format>& format) {
                           return std::string(format.param.name);
                         });

}  // namespace
}  // namespace mlxf::kernels
#endif
