#include "storage/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/test_file.h"

namespace mlxf::storage {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(ProbeTest, MeasuresEveryBackend) {
  const TestFile file(4 * kMiB + 5);
  for (const Backend backend : {Backend::kAuto, Backend::kPread, Backend::kBuffered}) {
    for (const auto memory : {ProbeOptions::Memory::kHuge, ProbeOptions::Memory::kSmall}) {
      for (const uint64_t piece_bytes : {uint64_t{0}, uint64_t{65536}}) {
        ProbeOptions options;
        options.backend = backend;
        options.block_bytes = 512 << 10;
        options.depth = 3;
        options.piece_bytes = piece_bytes;
        options.memory = memory;
        options.seconds = 0;
        const auto result = probe(file.path(), options);
        ASSERT_TRUE(result) << result.error().message;
        EXPECT_EQ(result->bytes, 12 * options.block_bytes);
        EXPECT_GT(result->bytes_per_second(), 0);
        if (backend != Backend::kAuto) {
          EXPECT_THAT(result->description, HasSubstr("pread, 3 threads"));
        }
      }
    }
  }
}

TEST(ProbeTest, PausesDoNotCount) {
  const TestFile file(4 * kMiB);
  ProbeOptions options;
  options.block_bytes = 64 << 10;
  options.depth = 4;
  options.seconds = 0;
  options.pause_seconds = 0.05;
  const auto start = Clock::now();
  const auto result = probe(file.path(), options);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->bytes, 16 * options.block_bytes);
  EXPECT_GE(std::chrono::duration<double>(Clock::now() - start).count(), 4 * 0.05 + result->seconds);
}

TEST(ProbeTest, RefusesWhatItCannotMeasure) {
  const TestFile file(10000);
  const auto told = [&](uint64_t block_bytes, uint32_t depth) {
    ProbeOptions options;
    options.block_bytes = block_bytes;
    options.depth = depth;
    const auto result = probe(file.path(), options);
    EXPECT_FALSE(result);
    return result ? std::string() : result.error().message;
  };
  EXPECT_THAT(told(5000, 1), HasSubstr("multiples of 4096"));
  EXPECT_THAT(told(0, 1), HasSubstr("multiples of 4096"));
  EXPECT_THAT(told(4096, 0), HasSubstr("at most 1024"));
  EXPECT_THAT(told(uint64_t{1} << 40, 1024), HasSubstr("1 GiB"));
  EXPECT_THAT(told(12288, 1), HasSubstr("shorter"));
}

}  // namespace
}  // namespace mlxf::storage
