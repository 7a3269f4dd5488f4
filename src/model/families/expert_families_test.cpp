#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

formats::ModelManifest open_oracle(const std::string& name) {
  auto manifest = formats::open_model(MLXF_SOURCE_DIR "/tests/data/oracles/" + name);
  EXPECT_TRUE(manifest) << manifest.error().message;
  return *std::move(manifest);
}

Result<ModelSpec> spec_with(const std::string& oracle, const Json& changes) {
  formats::ModelManifest manifest = open_oracle(oracle);
  for (const auto& [field, value] : changes.items()) manifest.config[field] = value;
  return make_spec(manifest);
}

struct Option {
  const char* oracle;
  const char* field;
  Json value;
};

TEST(ExpertFamilies, OptionsThatAreNotThereAreRefusedByName) {
  const Option table[] = {
      {"gpt_oss", "hidden_act", "gelu"},
      {"gpt_oss", "swiglu_limit", 5.0},
      {"gpt_oss", "num_experts_per_tok", 9},
      {"glm4_moe", "hidden_act", "relu"},
      {"glm4_moe", "n_group", 3},
      {"glm4_moe", "n_group", 8},
      {"glm4_moe", "topk_group", 2},
      {"glm4_moe", "n_shared_experts", -1},
      {"glm4_moe", "moe_intermediate_size", 0},
      {"minimax_m2", "scoring_func", "softmax"},
      {"minimax_m2", "shared_intermediate_size", 64},
      {"minimax_m2", "qk_norm_type", "per_head"},
      {"minimax_m2", "attn_type_list", Json::array({1, 0, 1, 1})},
      {"llama4", "hidden_act", "gelu"},
      {"llama4", "attention_chunk_size", 0},
      {"llama4", "floor_scale", 0},
      {"llama4", "layer_types", Json::array({"sliding_attention", "full_attention"})},
      {"llama4", "intermediate_size_mlp", -1},
  };
  for (const Option& option : table) {
    const auto spec = spec_with(option.oracle, {{option.field, option.value}});
    ASSERT_FALSE(spec) << option.oracle << " " << option.field << " " << option.value;
    EXPECT_NE(spec.error().message.find(option.field), std::string::npos) << spec.error().message;
  }
}

TEST(ExpertFamilies, GroupsAreTakenFromTheConfiguration) {
  const auto spec = spec_with("glm4_moe", {{"n_group", 4}, {"topk_group", 2}, {"norm_topk_prob", false}});
  ASSERT_TRUE(spec) << spec.error().message;
  const auto& moe = *std::get_if<MoeSpec>(&spec->layers[1].ffn);
  EXPECT_EQ(moe.groups.count, 4u);
  EXPECT_EQ(moe.groups.used, 2u);
  EXPECT_EQ(moe.groups.score, ExpertGroups::Score::kTwoLargest);
  EXPECT_FALSE(moe.normalise_top_k);
  EXPECT_FLOAT_EQ(moe.routed_scale, 1.5f);
  EXPECT_TRUE(std::holds_alternative<MlpSpec>(spec->layers[0].ffn));
  EXPECT_EQ(spec->ropes[0].dims, 16u);
}

// Older configurations say in rotary_dim what newer ones say in rope_parameters.
TEST(ExpertFamilies, RotaryDimIsReadWhereThereAreNoRopeParameters) {
  EXPECT_EQ(spec_with("minimax_m2", Json::object())->ropes[0].dims, 32u);
  const auto older = spec_with("minimax_m2", {{"rope_parameters", nullptr}, {"rope_theta", 1e6}});
  ASSERT_TRUE(older) << older.error().message;
  EXPECT_EQ(older->ropes[0].dims, 16u);
  EXPECT_FLOAT_EQ(older->ropes[0].base, 1e6f);
}

TEST(ExpertFamilies, LayersOfLlama4FollowTheirLists) {
  const auto spec = spec_with("llama4", {{"no_rope_layers", {1, 0, 1, 1}}, {"layer_types", nullptr}});
  ASSERT_TRUE(spec) << spec.error().message;
  for (uint32_t i = 0; i < 4; ++i) {
    const AttentionSpec& a = spec->layers[i].attention();
    EXPECT_EQ(a.rope, i == 1 ? kNoRope : 0u) << i;
    EXPECT_EQ(a.chunk, i == 1 ? 0u : 32u) << i;
    EXPECT_EQ(a.qk_norm, i == 1 ? QkNorm::kNone : QkNorm::kL2) << i;
    EXPECT_FLOAT_EQ(a.temperature, i == 1 ? 0.1f : 0.0f) << i;
  }
  const auto bare = spec_with("llama4", {{"use_qk_norm", false},
                                         {"attn_temperature_tuning", false},
                                         {"moe_layers", {1, 3}},
                                         {"attention_chunk_size", nullptr}});
  ASSERT_TRUE(bare) << bare.error().message;
  for (uint32_t i = 0; i < 4; ++i) {
    const AttentionSpec& a = bare->layers[i].attention();
    EXPECT_EQ(a.qk_norm, QkNorm::kNone);
    EXPECT_EQ(a.chunk, 0u);
    EXPECT_EQ(a.temperature, 0.0f);
    EXPECT_EQ(std::holds_alternative<MoeSpec>(bare->layers[i].ffn), i % 2 == 1) << i;
  }
}

TEST(ExpertFamilies, EveryOtherLayerOfGptOssSlidesByDefault) {
  const auto spec = spec_with("gpt_oss", {{"layer_types", nullptr}, {"rope_parameters", nullptr}});
  ASSERT_TRUE(spec) << spec.error().message;
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(spec->layers[i].attention().window, i % 2 == 0 ? 24u : 0u);
  EXPECT_EQ(spec->ropes[0].scaling, RopeScaling::kYarn);
  EXPECT_FALSE(spec->ropes[0].truncate);
  EXPECT_FLOAT_EQ(spec->ropes[0].base, 150000.0f);
}

}  // namespace
}  // namespace mlxf::model
