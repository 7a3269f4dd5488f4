// What stays in memory for a given amount of it: cases computed by hand, and the sizes against the files' own tables.
#include "model/weight_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

WeightSizes dense() {
  WeightSizes sizes;
  sizes.trunk = 100 * kMiB;
  sizes.layers = {30 * kMiB, 30 * kMiB, 40 * kMiB, 40 * kMiB, 40 * kMiB};
  sizes.ring_slot = 41 * kMiB;
  return sizes;
}

WeightSizes mixture() {
  WeightSizes sizes;
  sizes.trunk = 100 * kMiB;
  sizes.experts = 1000 * kMiB;
  sizes.expert_whole = 1010 * kMiB;
  sizes.expert_floor = 8 * kMiB;
  return sizes;
}

TEST(PlanResidency, KeepsEverythingThatFits) {
  EXPECT_EQ(dense().total(), 280 * kMiB);
  EXPECT_FALSE(plan_residency(dense(), 280 * kMiB, 0)->streams());
  EXPECT_TRUE(plan_residency(dense(), 280 * kMiB - 1, 0)->streams());
  EXPECT_FALSE(plan_residency(mixture(), 1100 * kMiB, 0)->streams());
  EXPECT_TRUE(plan_residency(mixture(), 1100 * kMiB - 1, 0)->streams());
}

TEST(PlanResidency, GivesTheExpertsAllThatTheTrunkLeaves) {
  for (const uint64_t bytes : {108 * kMiB, 500 * kMiB}) {
    const auto plan = plan_residency(mixture(), bytes, 0);
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_TRUE(plan->stream_experts);
    EXPECT_TRUE(plan->streamed_layers.empty());
    EXPECT_EQ(plan->cache_bytes, bytes - 100 * kMiB);
  }
}

TEST(PlanResidency, KeepsDenseLayersBesideARing) {
  struct Case {
    uint64_t bytes;
    std::vector<uint32_t> streamed;
  };
  // 182 is the floor: two slots. Then the second layer, 30, and the second and fourth, 70.
  for (const Case& c : {Case{182, {0, 1, 2, 3, 4}}, Case{211, {0, 1, 2, 3, 4}}, Case{212, {0, 2, 3, 4}},
                        Case{251, {0, 2, 3, 4}}, Case{252, {0, 2, 4}}, Case{279, {0, 2, 4}}}) {
    const auto plan = plan_residency(dense(), c.bytes * kMiB, 0);
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_FALSE(plan->stream_experts);
    EXPECT_EQ(plan->streamed_layers, c.streamed) << c.bytes;
    EXPECT_EQ(plan->cache_bytes, 82 * kMiB) << c.bytes;
  }
}

TEST(SpreadLayers, StandEvenlyInTheRoundOfLayersAndHead) {
  WeightSizes sizes;
  sizes.layers.assign(12, 100);
  // A head of four layers: between two streamed ones seven others, or three and the head.
  sizes.trunk = 400;
  EXPECT_EQ(spread_layers(sizes, 1), (std::vector<uint32_t>{11}));
  EXPECT_EQ(spread_layers(sizes, 2), (std::vector<uint32_t>{3, 11}));
  EXPECT_EQ(spread_layers(sizes, 4), (std::vector<uint32_t>{0, 4, 8, 11}));
  sizes.trunk = 0;
  EXPECT_EQ(spread_layers(sizes, 4), (std::vector<uint32_t>{2, 5, 8, 11}));
  // One that is longer than all steps.
  sizes.trunk = 100'000;
  EXPECT_EQ(spread_layers(sizes, 4), (std::vector<uint32_t>{0, 4, 8, 11}));
}

// Whatever the model: so many different layers, and between two of them never two more to compute than between others.
TEST(SpreadLayers, AreAsManyAsAskedForAndNeverFarApart) {
  for (uint32_t layers = 1; layers <= 40; ++layers)
    for (const uint64_t head : {0, 50, 430, 5000})
      for (uint32_t count = 1; count <= layers; ++count) {
        SCOPED_TRACE(std::to_string(count) + " of " + std::to_string(layers) + " layers, head " +
                     std::to_string(head));
        WeightSizes sizes;
        sizes.layers.assign(layers, 100);
        sizes.trunk = head;
        const std::vector<uint32_t> spread = spread_layers(sizes, count);
        ASSERT_EQ(spread.size(), count);
        EXPECT_EQ(spread.back(), layers - 1);
        uint32_t least = layers, most = 0;
        for (size_t i = 1; i < spread.size(); ++i) {
          ASSERT_GT(spread[i], spread[i - 1]);
          least = std::min(least, spread[i] - spread[i - 1]);
          most = std::max(most, spread[i] - spread[i - 1]);
        }
        if (count > 1) {
          EXPECT_LE(most, least + 1);
          EXPECT_LE(spread.front(), most);
        }
      }
}

TEST(PlanResidency, BelowTheFloorNamesTheSmallestBudgetThatWorks) {
  const auto two_slots = plan_residency(dense(), 182 * kMiB - 1, 20 * kMiB);
  ASSERT_FALSE(two_slots);
  EXPECT_EQ(two_slots.error().code, ErrorCode::kOutOfBudget);
  EXPECT_THAT(two_slots.error().message, HasSubstr("202 MiB at least"));
  EXPECT_THAT(two_slots.error().message, HasSubstr("--memory-budget"));
  EXPECT_THAT(plan_residency(mixture(), 0, 20 * kMiB).error().message, HasSubstr("128 MiB at least"));
}

// The embedding goes before anything that every token needs whole.
TEST(PlanResidency, ReadsTheEmbeddingByRowBeforeItStreamsAnythingElse) {
  WeightSizes sizes = mixture();
  sizes.embedding = 50 * kMiB;
  sizes.embedding_window = kMiB;
  EXPECT_EQ(sizes.total(), 1150 * kMiB);
  EXPECT_FALSE(plan_residency(sizes, 1150 * kMiB, 0)->streams());
  for (const uint64_t bytes : {1150 * kMiB - 1, 1101 * kMiB}) {
    const auto plan = plan_residency(sizes, bytes, 0);
    EXPECT_TRUE(plan->embedding_by_row);
    EXPECT_FALSE(plan->streams_records());
  }
  const auto less = plan_residency(sizes, 1101 * kMiB - 1, 0);
  EXPECT_TRUE(less->embedding_by_row);
  EXPECT_TRUE(less->stream_experts);
  EXPECT_EQ(less->cache_bytes, 1000 * kMiB - 1);
  EXPECT_EQ(sizes.floor(), 109 * kMiB);
  EXPECT_THAT(plan_residency(sizes, 109 * kMiB - 1, 0).error().message, HasSubstr("109 MiB at least"));

  WeightSizes layers = dense();
  layers.embedding = 20 * kMiB;
  layers.embedding_window = kMiB;
  EXPECT_FALSE(plan_residency(layers, 281 * kMiB, 0)->streams_records());
  const auto ring = plan_residency(layers, 254 * kMiB, 0);  // As 253 without an embedding.
  EXPECT_TRUE(ring->embedding_by_row);
  EXPECT_EQ(ring->streamed_layers.size(), 3u);
  EXPECT_EQ(ring->cache_bytes, 82 * kMiB);
}

// Of the tables that are read by row, that of the per-layer embeddings goes first: more bytes for as few reads.
TEST(PlanResidency, ReadsThePerLayerTableByRowBeforeTheEmbedding) {
  WeightSizes sizes = mixture();
  sizes.row_table = 200 * kMiB;
  sizes.row_buffer = 2 * kMiB;
  sizes.embedding = 50 * kMiB;
  sizes.embedding_window = kMiB;
  EXPECT_EQ(sizes.total(), 1350 * kMiB);
  EXPECT_FALSE(plan_residency(sizes, 1350 * kMiB, 0)->streams());
  for (const uint64_t bytes : {1350 * kMiB - 1, 1152 * kMiB}) {
    const auto plan = plan_residency(sizes, bytes, 0);
    EXPECT_TRUE(plan->streams());
    EXPECT_TRUE(plan->per_layer_by_row);
    EXPECT_FALSE(plan->embedding_by_row);
    EXPECT_FALSE(plan->streams_records());
  }
  for (const uint64_t bytes : {1152 * kMiB - 1, 1103 * kMiB}) {
    const auto plan = plan_residency(sizes, bytes, 0);
    EXPECT_TRUE(plan->per_layer_by_row);
    EXPECT_TRUE(plan->embedding_by_row);
    EXPECT_FALSE(plan->streams_records());
  }
  const auto less = plan_residency(sizes, 1103 * kMiB - 1, 0);
  EXPECT_TRUE(less->per_layer_by_row);
  EXPECT_TRUE(less->embedding_by_row);
  EXPECT_TRUE(less->stream_experts);
  EXPECT_EQ(less->cache_bytes, 1000 * kMiB - 1);
  EXPECT_EQ(sizes.floor(), 111 * kMiB);

  // The table alone, where the embedding is the head as well.
  sizes.embedding = sizes.embedding_window = 0;
  const auto tied = plan_residency(sizes, 1102 * kMiB - 1, 0);
  EXPECT_TRUE(tied->per_layer_by_row);
  EXPECT_FALSE(tied->embedding_by_row);
  EXPECT_TRUE(tied->stream_experts);
}

// Slots in whole huge pages can take more than a tiny model: then it is loaded or refused, never streamed.
TEST(PlanResidency, NeverAsksForMoreThanTheWholeModel) {
  WeightSizes sizes = dense();
  sizes.ring_slot = 500 * kMiB;
  EXPECT_EQ(sizes.floor(), sizes.total());
  EXPECT_TRUE(plan_residency(sizes, 280 * kMiB, 0));
  EXPECT_THAT(plan_residency(sizes, 279 * kMiB, 0).error().message, HasSubstr("280 MiB at least"));
}

struct Measured {
  formats::ModelManifest manifest;
  ModelSpec spec;
  WeightSizes sizes;
  explicit Measured(const std::string& path)
      : manifest(formats::open_model(MLXF_SOURCE_DIR + path).value()),
        spec(make_spec(manifest).value()),
        sizes(measure_weights(manifest, spec, 4096).value()) {}
  // Bytes of the tensors of two dimensions and more, those whose name holds `part`, with scales and biases.
  [[nodiscard]] uint64_t bytes_in_file(const std::string& part) const {
    uint64_t total = 0;
    for (const formats::TensorEntry& tensor : manifest.tensors)
      if (tensor.shape.size() >= 2 && tensor.name.find(part) != std::string::npos) total += tensor.bytes;
    return total;
  }
};

TEST(MeasureWeights, CountsTheBytesInTheFiles) {
  for (const char* name :
       {"llama", "llama-tied", "mistral", "phi3", "qwen2", "qwen3", "gemma2", "gemma3", "mixtral",
        "qwen2_moe", "qwen3_moe", "olmoe", "gemma4", "gemma4-ple", "gemma4-moe", "gemma3n"}) {
    const Measured m(std::string("/tests/data/oracles/") + name);
    // gemma3n's coefficients are a few numbers, kept like vectors.
    EXPECT_EQ(m.sizes.total(), m.bytes_in_file("") - m.bytes_in_file("_coefs.")) << name;
    EXPECT_LE(m.sizes.floor(), m.sizes.total()) << name;
  }
  const Measured bundled("/models/classics-moe-4bit");
  EXPECT_EQ(bundled.sizes.total(), bundled.bytes_in_file(""));
  EXPECT_EQ(bundled.sizes.experts, bundled.bytes_in_file("switch_mlp") + bundled.bytes_in_file("experts"));
  EXPECT_GE(bundled.sizes.expert_whole, bundled.sizes.experts);
  // 8 layers of 48 experts, of which 4 are chosen.
  EXPECT_EQ(bundled.sizes.active_experts * 12, bundled.sizes.experts);
  // Three times weights of 32 KiB, scales and biases of 2 KiB: blocks of 4 KiB, one or two more than they fill.
  EXPECT_EQ(bundled.sizes.expert_reads, 9u);
  EXPECT_EQ(bundled.sizes.expert_read_bytes % 4096, 0u);
  EXPECT_GE(bundled.sizes.expert_read_bytes, uint64_t{3} * (32 + 4 + 4) * 1024);
  EXPECT_LE(bundled.sizes.expert_read_bytes, uint64_t{3} * (36 + 8 + 8) * 1024);
}

TEST(MeasureWeights, OnlyATableThatIsNotTheHeadIsReadByRow) {
  const Measured separate("/tests/data/oracles/llama"), tied("/tests/data/oracles/llama-tied");
  EXPECT_EQ(separate.sizes.embedding, separate.bytes_in_file("embed_tokens"));
  EXPECT_GT(separate.sizes.embedding_window, 0u);
  EXPECT_EQ(tied.sizes.embedding, 0u);
  EXPECT_EQ(tied.sizes.embedding_window, 0u);
  EXPECT_GE(tied.sizes.trunk, tied.bytes_in_file("embed_tokens"));
}

TEST(MeasureWeights, CountsEveryDenseLayer) {
  const Measured m("/tests/data/oracles/llama");
  ASSERT_EQ(m.sizes.layers.size(), m.spec.layers.size());
  for (size_t i = 0; i < m.sizes.layers.size(); ++i)
    EXPECT_EQ(m.sizes.layers[i], m.bytes_in_file("layers." + std::to_string(i) + ".")) << i;
  EXPECT_GE(m.sizes.ring_slot, m.sizes.layers[0]);
  EXPECT_EQ(m.sizes.ring_slot % 4096, 0u);
  EXPECT_EQ(m.sizes.experts, 0u);
}

}  // namespace
}  // namespace mlxf::model
