#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

formats::ModelManifest open_oracle(const std::string& name) {
  auto manifest = formats::open_model(MLXF_SOURCE_DIR "/tests/data/oracles/" + name);
  EXPECT_TRUE(manifest) << manifest.error().message;
  return *std::move(manifest);
}

const LatentAttentionSpec& mixer(const ModelSpec& spec, size_t layer) {
  return *std::get_if<LatentAttentionSpec>(&spec.layers[layer].mixer);
}
const MoeSpec& mixture(const ModelSpec& spec, size_t layer) {
  return *std::get_if<MoeSpec>(&spec.layers[layer].ffn);
}

struct Option {
  const char* oracle;
  const char* field;
  Json value;
};

TEST(DeepSeek, OptionsThatAreNotThereAreRefusedByName) {
  const Option table[] = {
      {"deepseek_v3", "scoring_func", "softmax"},
      {"deepseek_v2", "scoring_func", "sigmoid"},
      {"deepseek_v3", "topk_method", "greedy"},
      {"deepseek_v2", "topk_method", "noaux_tc"},
      {"deepseek_v2", "moe_layer_freq", 2},
      {"deepseek_v3", "hidden_act", "relu2"},
      {"deepseek_v3", "kv_lora_rank", 1 << 20},
      {"deepseek_v3", "kv_lora_rank", nullptr},
      {"deepseek_v3", "qk_nope_head_dim", 0},
      {"deepseek_v3", "v_head_dim", -1},
      {"deepseek_v3", "q_lora_rank", 0},
      {"deepseek_v3", "n_group", 3},
      {"deepseek_v3", "n_group", 16},
      {"deepseek_v3", "topk_group", 5},
      {"deepseek_v3", "n_shared_experts", -1},
      {"deepseek_v3", "first_k_dense_replace", "all"},
  };
  for (const Option& option : table) {
    formats::ModelManifest manifest = open_oracle(option.oracle);
    manifest.config[option.field] = option.value;
    // A null is as good as none where there is a default.
    const auto spec = make_spec(manifest);
    if (option.value.is_null()) {
      EXPECT_TRUE(spec);
      continue;
    }
    ASSERT_FALSE(spec) << option.field << " " << option.value;
    EXPECT_NE(spec.error().message.find(option.field), std::string::npos) << spec.error().message;
  }
}

TEST(DeepSeek, LatentProductsInFp8ThatCannotBeCutAreRefused) {
  formats::ModelManifest manifest = open_oracle("deepseek_v3");
  for (formats::TensorEntry& tensor : manifest.tensors)
    if (tensor.name == "model.layers.2.self_attn.kv_b_proj.weight") tensor.dtype = DType::kF8E4M3;
  const auto spec = make_spec(manifest);
  ASSERT_FALSE(spec);
  EXPECT_NE(spec.error().message.find("model.layers.2.self_attn.kv_b_proj"), std::string::npos);
}

TEST(DeepSeek, QueriesHaveALatentOfTheirOwnUnlessNull) {
  formats::ModelManifest manifest = open_oracle("deepseek_v3");
  EXPECT_EQ(mixer(*make_spec(manifest), 0).query_rank, 48u);
  manifest.config["q_lora_rank"] = nullptr;
  const auto plain = make_spec(manifest);
  ASSERT_TRUE(plain);
  EXPECT_EQ(mixer(*plain, 0).query_rank, 0u);
  EXPECT_EQ(mixer(*plain, 0).q.name, "model.layers.0.self_attn.q_proj");
  EXPECT_TRUE(mixer(*plain, 0).q_a.name.empty());
}

TEST(DeepSeek, LogitsAreScaledByYarnsSquareAndCosinesByTheQuotient) {
  formats::ModelManifest manifest = open_oracle("deepseek_v3");
  manifest.config["rope_parameters"]["mscale"] = 0.5;
  const auto spec = make_spec(manifest);
  ASSERT_TRUE(spec);
  const double all = 0.1 * std::log(40.0) + 1.0;
  EXPECT_FLOAT_EQ(mixer(*spec, 0).scale, static_cast<float>(all * all / std::sqrt(48.0)));
  EXPECT_FLOAT_EQ(spec->ropes[0].attention_factor, static_cast<float>((0.05 * std::log(40.0) + 1.0) / all));
  manifest.config["rope_parameters"].erase("mscale_all_dim");
  const auto without = make_spec(manifest);
  ASSERT_TRUE(without);
  EXPECT_FLOAT_EQ(mixer(*without, 0).scale, 1.0f / std::sqrt(48.0f));
}

TEST(DeepSeek, DenseLayersAndGroupsFollowTheConfiguration) {
  formats::ModelManifest manifest = open_oracle("deepseek_v2");
  manifest.config["first_k_dense_replace"] = 2;
  manifest.config["topk_method"] = "group_limited_greedy";
  manifest.config["n_group"] = 4;
  manifest.config["topk_group"] = 2;
  manifest.config["norm_topk_prob"] = true;
  manifest.config["n_shared_experts"] = nullptr;
  const auto spec = make_spec(manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_TRUE(std::holds_alternative<MlpSpec>(spec->layers[1].ffn));
  const MoeSpec& moe = mixture(*spec, 2);
  EXPECT_EQ(moe.groups.count, 4u);
  EXPECT_EQ(moe.groups.used, 2u);
  EXPECT_EQ(moe.groups.score, ExpertGroups::Score::kLargest);
  EXPECT_FALSE(moe.normalise_top_k) << "the reference has the option for this version and does not read it";
  EXPECT_FALSE(moe.shared.has_value());
  const MoeSpec third = mixture(*make_spec(open_oracle("deepseek_v3")), 1);
  EXPECT_EQ(third.groups.score, ExpertGroups::Score::kTwoLargest);
  EXPECT_TRUE(third.normalise_top_k);
  EXPECT_EQ(third.routed_scale, 2.5f);
  EXPECT_EQ(third.choice_bias.name, "model.layers.1.mlp.gate.e_score_correction_bias");
}

}  // namespace
}  // namespace mlxf::model
