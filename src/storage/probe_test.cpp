#include "storage/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "storage/test_file.h"

namespace mlxf::storage {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr double kMB = 1e6;

// A disk in simulated time, one read after the other: none takes less than its bytes at `raw`, and `allowed` says how
// many bytes may have begun until a time. Delivers nothing.
struct SimulatedDisk {
  double raw = 1000 * kMB;
  std::function<double(double)> allowed = [](double) { return 1e18; };
  double now = 0;   // Seconds.
  double free = 0;  // From when on no read is under way.
  double begun = 0;
};

class SimulatedDevice final : public Device {
 public:
  explicit SimulatedDevice(SimulatedDisk& disk) : disk_(disk) {}
  std::string description() const override { return "simulated"; }
  void add_file(const platform::DirectFile&) override {}
  void start(const DeviceRead& read) override {
    double begin = std::max(disk_.now, disk_.free);
    disk_.begun += static_cast<double>(read.bytes);
    while (disk_.allowed(begin) < disk_.begun) begin += 1e-4;
    disk_.free = begin + static_cast<double>(read.bytes) / disk_.raw;
    pending_.push_back({disk_.free, {read.slot, static_cast<int64_t>(read.bytes)}});
  }
  void flush() override {}
  size_t reap(std::span<DeviceResult> results, TimePoint deadline) override {
    if (pending_.empty()) return 0;
    if (deadline == kNever) disk_.now = std::max(disk_.now, pending_.front().first);
    size_t count = 0;
    for (; count < results.size() && !pending_.empty() && pending_.front().first <= disk_.now; ++count) {
      results[count] = pending_.front().second;
      pending_.pop_front();
    }
    return count;
  }

 private:
  SimulatedDisk& disk_;
  std::deque<std::pair<double, DeviceResult>> pending_;
};

ProbeResult probe_simulated(SimulatedDisk& disk, ProbeOptions options) {
  const TestFile file(kMiB);
  options.block_bytes = 64 << 10;
  options.memory = ProbeOptions::Memory::kSmall;
  QueueOptions queue;
  queue.depth = options.depth;
  const auto now = [&disk] {
    return TimePoint(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(disk.now)));
  };
  const auto result = probe(std::make_unique<Storage>(std::make_unique<SimulatedDevice>(disk), queue), now,
                            file.path(), options);
  EXPECT_TRUE(result) << result.error().message;
  return result.value_or(ProbeResult());
}

TEST(ProbeTest, AnEvenDiskTakesNoLonger) {
  SimulatedDisk disk;
  const ProbeResult result = probe_simulated(disk, {});
  EXPECT_NEAR(result.bytes_per_second(), 1000 * kMB, 5 * kMB);
  EXPECT_DOUBLE_EQ(result.seconds, 0.5);
  EXPECT_LT(disk.now, 0.56);
  EXPECT_EQ(result.description, "simulated");
}

// Five times as fast as what it is held to, until what it had saved up is spent: half a second looks 20 % too fast.
TEST(ProbeTest, WhatWasSavedUpDoesNotCount) {
  SimulatedDisk disk;
  disk.allowed = [](double at) { return 20 * kMB + 200 * kMB * at; };
  const ProbeResult result = probe_simulated(disk, {});
  EXPECT_NEAR(result.bytes_per_second(), 200 * kMB, 4 * kMB);
  EXPECT_DOUBLE_EQ(result.seconds, 0.5);
  EXPECT_LT(disk.now, 0.76);
}

// A fifth faster for half a second.
TEST(ProbeTest, ALongAndLowBurstIsSeenByAProbeOfASecond) {
  SimulatedDisk disk;
  disk.raw = 240 * kMB;
  disk.allowed = [](double at) { return 20 * kMB + 200 * kMB * at; };
  ProbeOptions options;
  options.seconds = 1;
  const ProbeResult result = probe_simulated(disk, options);
  EXPECT_NEAR(result.bytes_per_second(), 200 * kMB, 8 * kMB);
  EXPECT_LT(disk.now, 1.8);
}

// A tenth of a second's bytes at once and then none until it is over, whenever the first of these slices began.
TEST(ProbeTest, AllowancesInSlicesCountAsTheirMean) {
  for (const double raw : {2000 * kMB, 300 * kMB})
    for (const double begin : {0.0, 0.01, 0.035, 0.07, 0.095}) {
      SimulatedDisk disk;
      disk.raw = raw;
      disk.allowed = [begin](double at) { return 20 * kMB * (1 + std::floor((at + begin) / 0.1)); };
      const ProbeResult result = probe_simulated(disk, {});
      EXPECT_NEAR(result.bytes_per_second(), 200 * kMB, 12 * kMB) << raw << " " << begin;
      EXPECT_LT(disk.now, 0.9);
    }
}

TEST(ProbeTest, ADiskThatDoesNotSettleIsGivenUpOn) {
  SimulatedDisk disk;
  disk.allowed = [](double at) { return 200 * kMB * (1 - std::exp(-2 * at)); };
  const ProbeResult result = probe_simulated(disk, {});
  EXPECT_DOUBLE_EQ(result.seconds, 0.5);
  EXPECT_GT(result.left_out_seconds, 0.8);
  EXPECT_LT(disk.now, 1.7);
  SimulatedDisk again;
  again.allowed = disk.allowed;
  ProbeOptions options;
  options.bytes_max = 100'000'000;
  EXPECT_LT(probe_simulated(again, options).left_out_seconds, 0.1);
  EXPECT_LT(again.begun, 102 * kMB);
}

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
