// What is done to rows of numbers (activations, norms, random words, the delta rule), by every instruction set against
// the scalar kernels: within rounding, or with the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/philox.h"
#include "kernels/test_isa.h"

namespace mlxf::kernels {
namespace {

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

}  // namespace
}  // namespace mlxf::kernels
