// Traces written and read again, and files that are no trace.
#include "weights/routing_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace mlxf::weights {
namespace {

using formats::Overwrite;
using testing::HasSubstr;

class RoutingTraceTest : public testing::Test {
 protected:
  ~RoutingTraceTest() override { std::filesystem::remove(path_); }
  const std::string path_ = testing::TempDir() + "mlxf-trace-" + std::to_string(getpid()) + ".safetensors";

  template <typename T>
  static std::span<const uint8_t> bytes(const std::vector<T>& values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
  }
  void write(std::vector<uint64_t> shape, const std::vector<int32_t>& ids,
             const std::vector<int32_t>& experts = {}, const std::vector<int64_t>& sizes = {}) const {
    std::vector<formats::TensorSpec> tensors;
    if (!sizes.empty()) tensors.push_back({"expert_bytes", DType::kI64, {sizes.size()}});
    if (!experts.empty()) tensors.push_back({"experts", DType::kI32, {experts.size()}});
    tensors.push_back({"routing", DType::kI32, std::move(shape)});
    auto file = formats::SafetensorsWriter::create(path_, tensors, {}, Overwrite::kReplace);
    ASSERT_TRUE(file) << file.error().message;
    if (!sizes.empty()) {
      ASSERT_TRUE(file->append("expert_bytes", bytes(sizes)));
    }
    if (!experts.empty()) {
      ASSERT_TRUE(file->append("experts", bytes(experts)));
    }
    ASSERT_TRUE(file->append("routing", bytes(ids)));
    ASSERT_TRUE(file->finish());
  }
  [[nodiscard]] std::string failure() const {
    const auto trace = load_trace(path_);
    return trace ? "" : trace.error().message;
  }
};

TEST_F(RoutingTraceTest, WhatWasObservedIsRead) {
  const TraceShape shape{2, {5, 7}, {100, 200}};
  auto writer = TraceWriter::create(path_, shape, 3, Overwrite::kRefuse);
  ASSERT_TRUE(writer) << writer.error().message;
  const auto observe = [&](uint32_t layer, uint32_t row, std::vector<int32_t> ids) {
    writer->observe(layer, row, ids);
  };
  observe(0, 0, {4, 1});
  observe(0, 1, {0, 2});
  observe(1, 0, {6, 5});
  observe(1, 1, {3, 4});
  ASSERT_TRUE(writer->end_pass(2));
  observe(0, 0, {3, 0});
  observe(1, 0, {1, 2});
  ASSERT_TRUE(writer->end_pass(1));
  ASSERT_FALSE(std::filesystem::exists(path_)) << "there before it was complete";
  ASSERT_TRUE(writer->finish());
  const auto trace = load_trace(path_);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->shape, shape);
  EXPECT_EQ(trace->tokens, 3u);
  EXPECT_EQ(trace->ids, (std::vector<int32_t>{1, 4, 5, 6, 0, 2, 3, 4, 0, 3, 1, 2}));
  EXPECT_FALSE(TraceWriter::create(path_, shape, 3, Overwrite::kRefuse))
      << "an existing trace was not refused";
}

TEST_F(RoutingTraceTest, AnUnfinishedTraceLeavesNoFile) {
  const TraceShape shape{1, {2}, {}};
  {
    auto writer = TraceWriter::create(path_, shape, 2, Overwrite::kRefuse);
    ASSERT_TRUE(writer);
    const std::vector<int32_t> ids = {1};
    writer->observe(0, 0, ids);
    ASSERT_TRUE(writer->end_pass(1));
    EXPECT_FALSE(writer->finish()) << "a token is missing";
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(RoutingTraceTest, ExpertsAreCountedWhereTheFileDoesNotSay) {
  write({2, 2, 1}, {0, 3, 2, 1});
  const auto trace = load_trace(path_);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->shape.experts, (std::vector<uint32_t>{3, 4}));
  EXPECT_TRUE(trace->shape.expert_bytes.empty());
}

TEST_F(RoutingTraceTest, FilesThatAreNoTraceAreRefused) {
  write({4}, {0, 1, 2, 3});
  EXPECT_THAT(failure(), HasSubstr("3 dimensions"));
  write({0, 2, 1}, {});
  EXPECT_THAT(failure(), HasSubstr("[tokens, layers, top_k]"));
  write({1, 2, 2}, {0, 1, 5, 5});
  EXPECT_THAT(failure(), HasSubstr("layer 1: the same expert twice"));
  write({2, 1, 2}, {0, 1, -1, 5});
  EXPECT_THAT(failure(), HasSubstr("token 1, layer 0: expert -1"));
  write({1, 1, 1}, {1 << 20});
  EXPECT_THAT(failure(), HasSubstr("expert 1048576"));
  write({1, 1, 1}, {4}, {4});
  EXPECT_THAT(failure(), HasSubstr("expert 4, but there are 4"));
  write({1, 1, 1}, {0}, {4, 4});
  EXPECT_THAT(failure(), HasSubstr("one value per layer"));
  write({1, 1, 1}, {0}, {-4});
  EXPECT_THAT(failure(), HasSubstr("experts: -4"));
  write({1, 1, 1}, {0}, {4}, {-1});
  EXPECT_THAT(failure(), HasSubstr("expert_bytes: -1"));
  EXPECT_FALSE(load_trace(std::string(MLXF_SOURCE_DIR) + "/tests/data/classics/logits.safetensors"));
}

}  // namespace
}  // namespace mlxf::weights
