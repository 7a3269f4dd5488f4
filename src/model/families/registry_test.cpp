#include <gtest/gtest.h>

#include <cmath>

#include "model/blocks/rope.h"
#include "model/families/families.h"

namespace mlxf::model {
namespace {

formats::ModelManifest oracle(const std::string& name) {
  auto manifest = formats::open_model(MLXF_SOURCE_DIR "/tests/data/oracles/" + name);
  EXPECT_TRUE(manifest) << manifest.error().message;
  return std::move(*manifest);
}

TEST(Families, AnUnknownArchitectureIsNamedWithThoseKnown) {
  formats::ModelManifest manifest = oracle("llama");
  manifest.config["model_type"] = "hyena";
  const auto spec = make_spec(manifest);
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(spec.error().message.find("hyena"), std::string::npos);
  EXPECT_NE(spec.error().message.find("qwen3_moe"), std::string::npos);
}

TEST(Families, HostileDimensionsAreRefusedByField) {
  for (const char* field : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                            "intermediate_size", "vocab_size", "head_dim"})
    for (const Json& value :
         {Json(0), Json(-1), Json(int64_t{1} << 31), Json(1.5), Json("64"), Json(INT64_MAX)}) {
      formats::ModelManifest manifest = oracle("llama");
      manifest.config[field] = value;
      const auto spec = make_spec(manifest);
      ASSERT_FALSE(spec) << field << " = " << value.dump();
      EXPECT_NE(spec.error().message.find(field), std::string::npos) << spec.error().message;
    }
  formats::ModelManifest manifest = oracle("llama");
  manifest.config["num_key_value_heads"] = 3;
  EXPECT_FALSE(make_spec(manifest));
  manifest = oracle("mixtral");
  manifest.config["num_experts_per_tok"] = 9;
  EXPECT_FALSE(make_spec(manifest));
}

TEST(Families, WindowsFollowTheConfiguration) {
  const auto gemma = make_spec(oracle("gemma3"));
  ASSERT_TRUE(gemma);
  for (size_t i = 0; i < gemma->layers.size(); ++i)
    EXPECT_EQ(gemma->layers[i].attention().window, i == 5 ? 0u : 24u) << i;
  const auto mistral = make_spec(oracle("mistral"));
  ASSERT_TRUE(mistral);
  EXPECT_NE(mistral->layers[0].attention().window, 0u);
}

TEST(Rope, RotatesPairsByTheirAngle) {
  RopeSpec spec;
  spec.dims = 4;
  spec.base = 100.0f;
  const auto rope = Rope::make(spec, {});
  ASSERT_TRUE(rope);
  float table[4];
  rope->fill_row(3, 128, table);
  float head[] = {1, 2, 3, 4};
  rope->rotate(table, head);
  EXPECT_NEAR(head[0], std::cos(3.0) - 3 * std::sin(3.0), 1e-6);
  EXPECT_NEAR(head[2], 3 * std::cos(3.0) + std::sin(3.0), 1e-6);
  EXPECT_NEAR(head[1], 2 * std::cos(0.3) - 4 * std::sin(0.3), 1e-6);
}

}  // namespace
}  // namespace mlxf::model
