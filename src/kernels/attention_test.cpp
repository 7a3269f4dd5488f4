// Attention of every instruction set against a plain softmax in double precision: every head size that is a multiple
// of 16, windows and lengths around page borders, f16 and f32 pages, sinks, soft caps, more queries than a tile; and
// that a query's bits depend on nothing but its own positions. One that this machine lacks is reported as skipped.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "tensor/float16.h"

namespace mlxf::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kGuard = 12345.0f;

// The pages of one head inside pages of two, at an offset; positions past `length` hold NaN, which must not matter.
struct Cache {
  uint32_t head_dim, value_dim, pages;
  bool f32;
  std::vector<uint16_t> key_halves, value_halves;
  std::vector<float> keys, values;  // As f32, and exact.
  std::vector<const uint16_t*> key_pages, value_pages;
  AttentionArgs args;

  Cache(uint32_t head, uint32_t value, uint32_t length, bool kv_f32, std::mt19937& random)
      : head_dim(head), value_dim(value), pages((length + 63) / 64), f32(kv_f32) {
    fill(head_dim, length, true, random, keys, key_halves);
    fill(value_dim, length, false, random, values, value_halves);
    for (uint32_t p = 0; p < pages; ++p) {
      key_pages.push_back(page(keys, key_halves, p * 2 * 64 * head_dim));
      value_pages.push_back(page(values, value_halves, p * 2 * 64 * value_dim));
    }
    args.head_dim = head_dim;
    args.value_dim = value_dim;
    args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    args.kv_f32 = kv_f32;
    args.key_pages = key_pages.data();
    args.value_pages = value_pages.data();
    args.key_offset = uint64_t{64} * head_dim;  // The second head.
    args.value_offset = uint64_t{64} * value_dim;
  }
  [[nodiscard]] double key(uint32_t position, uint32_t d) const {
    return keys[position / 64 * 2 * 64 * head_dim + 64 * head_dim + d * 64 + position % 64];
  }
  [[nodiscard]] double value(uint32_t position, uint32_t d) const {
    return values[position / 64 * 2 * 64 * value_dim + 64 * value_dim + position % 64 * value_dim + d];
  }

 private:
  void fill(uint32_t dim, uint32_t length, bool transposed, std::mt19937& random, std::vector<float>& floats,
            std::vector<uint16_t>& halves) const {
    floats.resize(uint64_t{pages} * 2 * 64 * dim);
    halves.resize(floats.size());
    for (size_t i = 0; i < floats.size(); ++i) {
      const size_t in_head = i % (64 * dim);
      const size_t position = i / (2 * 64 * dim) * 64 + (transposed ? in_head % 64 : in_head / dim);
      const float value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
      halves[i] = f16_from_f32(position < length ? value : std::numeric_limits<float>::quiet_NaN());
      floats[i] = f32_from_f16(halves[i]);
    }
  }
  [[nodiscard]] const uint16_t* page(const std::vector<float>& floats, const std::vector<uint16_t>& halves,
                                     size_t at) const {
    return f32 ? reinterpret_cast<const uint16_t*>(&floats[at]) : &halves[at];
  }
};

std::vector<double> expected_output(const Cache& cache, const AttentionQuery& query) {
  std::vector<double> scores;
  double max = query.sink;
  for (uint32_t p = query.begin; p < query.end; ++p) {
    double score = 0;
    for (uint32_t d = 0; d < cache.head_dim; ++d) score += query.q[d] * cache.key(p, d);
    score *= cache.args.scale;
    if (cache.args.soft_cap > 0) score = cache.args.soft_cap * std::tanh(score / cache.args.soft_cap);
    scores.push_back(score);
    max = std::max(max, score);
  }
  double sum = query.sink > kMinusInfinity ? std::exp(query.sink - max) : 0.0;
  std::vector<double> out(cache.value_dim);
  for (uint32_t p = query.begin; p < query.end; ++p) {
    const double weight = std::exp(scores[p - query.begin] - max);
    sum += weight;
    for (uint32_t d = 0; d < cache.value_dim; ++d) out[d] += weight * cache.value(p, d);
  }
  for (double& value : out) value /= sum;
  return out;
}

class AttentionTest : public testing::TestWithParam<const char*> {
 protected:
  const KernelTable* table_ = nullptr;
  std::vector<float> scratch_ = std::vector<float>(kMatmulScratchBytes / sizeof(float));

  void SetUp() override {
    if (std::strcmp(GetParam(), "reference") == 0) table_ = &reference_kernels();
    for (uint32_t i = 0; i < available_kernels().count; ++i)
      if (std::strcmp(available_kernels().tables[i]->isa, GetParam()) == 0)
        table_ = available_kernels().tables[i];
    if (table_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine has no " << GetParam();
  }

  // One query's result by itself.
  std::vector<float> alone(const AttentionArgs& args, AttentionQuery query) {
    std::vector<float> out(args.value_dim, kGuard);
    query.out = out.data();
    table_->attention(args, &query, 1, scratch_.data());
    return out;
  }

  // Several queries with all sorts of ranges against the softmax, and each against itself alone.
  void compare(const Cache& cache, uint32_t count, uint32_t length, std::mt19937& random) {
    const uint32_t head = cache.head_dim, value = cache.value_dim;
    std::vector<float> q(uint64_t{count} * head), out(uint64_t{count} * (value + 1), kGuard);
    for (float& x : q) x = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
    std::vector<AttentionQuery> queries;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t end = 1 + static_cast<uint32_t>(random()) % length;
      const uint32_t begin = i % 2 == 0 ? 0 : static_cast<uint32_t>(random()) % end;
      queries.push_back({&q[uint64_t{i} * head], &out[uint64_t{i} * (value + 1)], begin, end,
                         i % 3 == 1 ? 0.5f : kMinusInfinity});
    }
    queries[0].end = length;
    table_->attention(cache.args, queries.data(), count, scratch_.data());
    for (const AttentionQuery& query : queries) {
      const std::string where = std::to_string(head) + "x" + std::to_string(value) + " positions " +
                                std::to_string(query.begin) + "-" + std::to_string(query.end);
      const std::vector<double> expected = expected_output(cache, query);
      for (uint32_t d = 0; d < value; ++d) ASSERT_NEAR(query.out[d], expected[d], 2e-5) << where << " " << d;
      ASSERT_EQ(query.out[value], kGuard) << where;
      const std::vector<float> single = alone(cache.args, query);
      ASSERT_EQ(std::memcmp(single.data(), query.out, value * sizeof(float)), 0) << where;
    }
  }
};

TEST_P(AttentionTest, EveryHeadSizeIsTheSoftmaxOfItsPositions) {
  std::mt19937 random(21);
  for (uint32_t head = 16; head <= 256; head += 16) {
    const uint32_t value = head % 48 == 16 ? 16 + head / 2 / 16 * 16 : head;
    const Cache cache(head, value, 130, false, random);
    compare(cache, 5, 130, random);
  }
}

TEST_P(AttentionTest, EveryLengthAroundPageBordersIsTheSoftmaxOfItsPositions) {
  std::mt19937 random(22);
  for (const bool kv_f32 : {false, true})
    for (const float cap : {0.0f, 30.0f})
      for (const uint32_t length :
           {1u, 2u, 15u, 16u, 17u, 31u, 33u, 48u, 63u, 64u, 65u, 127u, 128u, 129u, 300u}) {
        Cache cache(48, 80, length, kv_f32, random);
        cache.args.soft_cap = cap;
        compare(cache, 1 + length % 11, length, random);
      }
}

// Large scores: the maximum moves from page to page, up and down.
TEST_P(AttentionTest, ScoresOfAnySizeKeepTheirOrder) {
  std::mt19937 random(23);
  Cache cache(64, 64, 257, false, random);
  cache.args.scale = 3.0f;
  std::vector<float> q(64);
  for (float& x : q) x = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 500.0f;
  std::vector<float> out(64);
  const AttentionQuery query{q.data(), out.data(), 0, 257, kMinusInfinity};
  const std::vector<float> got = alone(cache.args, query);
  const std::vector<double> expected = expected_output(cache, query);
  for (uint32_t d = 0; d < 64; ++d) EXPECT_NEAR(got[d], expected[d], 1e-4);
  // All scores equal: the mean of the values.
  const std::vector<float> zero(64);
  const std::vector<float> mean = alone(cache.args, {zero.data(), out.data(), 0, 257, kMinusInfinity});
  for (uint32_t d = 0; d < 64; ++d) {
    double sum = 0;
    for (uint32_t p = 0; p < 257; ++p) sum += cache.value(p, d);
    EXPECT_NEAR(mean[d], sum / 257, 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::Values("reference", "avx2", "avx512", "amx", "neon"));

}  // namespace
}  // namespace mlxf::kernels
