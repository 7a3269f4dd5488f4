// Attention of every instruction set against the scalar kernels: within rounding, and a query's bits do not depend on
// the others. attention_test.cpp compares with a plain softmax.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/test_isa.h"
#include "tensor/float16.h"

namespace mlxf::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr uint32_t kQueries = 9;

// `kernel`, one of the table's, for queries [kQueries, args.head_dim] of which some end earlier, some begin later and
// some have a sink.
template <typename Kernel>
void expect_as_scalar(Kernel KernelTable::*kernel, const KernelTable& table, const AttentionArgs& args,
                      uint32_t length, const std::vector<float>& q) {
  std::vector<uint8_t> scratch(kMatmulScratchBytes);
  const uint32_t dim = args.head_dim, value_dim = args.value_dim;
  std::vector<float> got(kQueries * value_dim), expected(got.size()), alone(value_dim);
  std::vector<AttentionQuery> queries, reference_queries;
  for (uint32_t i = 0; i < kQueries; ++i) {
    const uint32_t end = length - std::min(length - 1, i);
    queries.push_back({&q[i * dim], &got[i * value_dim], i % 3 == 2 && end > 30 ? end - 30 : 0, end,
                       i % 2 == 1 ? 0.5f : kMinusInfinity});
    reference_queries.push_back(queries.back());
    reference_queries.back().out = &expected[i * value_dim];
  }
  (table.*kernel)(args, queries.data(), kQueries, scratch.data());
  (reference_kernels().*kernel)(args, reference_queries.data(), kQueries, scratch.data());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-5f) << dim << " " << length;
  for (uint32_t i = 0; i < kQueries; ++i) {
    AttentionQuery single = queries[i];
    single.out = alone.data();
    (table.*kernel)(args, &single, 1, scratch.data());
    EXPECT_EQ(std::memcmp(alone.data(), &got[i * value_dim], value_dim * sizeof(float)), 0);
  }
}

TEST_P(IsaTest, AttentionIsWithinRoundingAndIndependentOfTheOtherQueries) {
  std::mt19937 random(6);
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
        std::vector<float> q(kQueries * dim);
        for (float& value : q) value = uniform();
        expect_as_scalar(&KernelTable::attention, *table_, args, length, q);
      }
}

TEST_P(IsaTest, LatentAttentionIsWithinRoundingAndIndependentOfTheOtherQueries) {
  std::mt19937 random(7);
  const auto uniform = [&random] {
    return static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
  };
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
        std::vector<float> q(kQueries * dim);
        for (float& value : q) value = uniform();
        expect_as_scalar(&KernelTable::latent_attention, *table_, args, length, q);
      }
}

}  // namespace
}  // namespace mlxf::kernels
