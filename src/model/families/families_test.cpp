#include "model/families/families.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "formats/gguf_writer.h"
#include "formats/manifest.h"

namespace mlxf::model {
namespace {

formats::ModelManifest open_oracle(const std::string& name) {
  auto manifest = formats::open_model(MLXF_SOURCE_DIR "/tests/data/oracles/" + name);
  EXPECT_TRUE(manifest) << manifest.error().message;
  return *std::move(manifest);
}

std::vector<uint32_t> windows(const ModelSpec& spec) {
  std::vector<uint32_t> list;
  for (const LayerSpec& layer : spec.layers) list.push_back(layer.attention().window);
  return list;
}

struct Hostile {
  const char* oracle;
  const char* field;
  Json value;
};

TEST(Families, ImpossibleSizesAreErrorsThatNameTheField) {
  const Hostile table[] = {
      {"llama", "num_hidden_layers", 0},
      {"llama", "num_hidden_layers", -1},
      {"llama", "num_hidden_layers", 1 << 30},
      {"llama", "num_hidden_layers", "4"},
      {"llama", "num_hidden_layers", nullptr},
      {"llama", "hidden_size", 0},
      {"llama", "hidden_size", int64_t{1} << 40},
      {"llama", "num_attention_heads", 0},
      {"llama", "num_attention_heads", 3},
      {"llama", "num_key_value_heads", 0},
      {"llama", "num_key_value_heads", 3},
      {"llama", "head_dim", 0},
      {"llama", "head_dim", int64_t{1} << 31},
      {"llama", "intermediate_size", 0},
      {"llama", "intermediate_size", 1 << 30},
      {"llama", "vocab_size", -5},
      {"llama", "rms_norm_eps", -1.0},
      {"llama", "max_position_embeddings", int64_t{1} << 40},
      {"mistral", "sliding_window", -24},
      {"qwen3_moe", "num_local_experts", 0},
      {"qwen3_moe", "num_experts_per_tok", 17},
      {"qwen3_moe", "num_experts_per_tok", 0},
      {"qwen3_moe", "moe_intermediate_size", 0},
      {"qwen2_moe", "shared_expert_intermediate_size", 0},
  };
  for (const Hostile& hostile : table) {
    formats::ModelManifest manifest = open_oracle(hostile.oracle);
    manifest.config[hostile.field] = hostile.value;
    const auto spec = make_spec(manifest);
    ASSERT_FALSE(spec) << hostile.field << " " << hostile.value;
    EXPECT_NE(spec.error().message.find(hostile.field), std::string::npos) << spec.error().message;
  }
}

TEST(Families, MoreExpertsThanTheFilesHoldAreRefusedBeforeTheyAreListed) {
  for (const char* oracle : {"qwen3_moe", "mixtral"}) {
    formats::ModelManifest manifest = open_oracle(oracle);
    manifest.config["num_local_experts"] = 65536;
    const auto spec = make_spec(manifest);
    ASSERT_FALSE(spec);
    EXPECT_NE(spec.error().message.find("layers.0."), std::string::npos) << spec.error().message;
    EXPECT_NE(spec.error().message.find("65536"), std::string::npos) << spec.error().message;
  }
}

TEST(Families, AnUnknownArchitectureIsRefusedWithTheListOfKnownOnes) {
  formats::ModelManifest manifest = open_oracle("llama");
  manifest.config["model_type"] = "mamba9";
  const auto spec = make_spec(manifest);
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().code, ErrorCode::kUnsupported);
  for (const char* part : {"mamba9", "llama", "qwen3_moe", "gemma3"})
    EXPECT_NE(spec.error().message.find(part), std::string::npos) << spec.error().message;
}

TEST(Families, UnknownRopeScalingIsRefusedByName) {
  formats::ModelManifest manifest = open_oracle("llama");
  manifest.config["rope_parameters"]["rope_type"] = "spiral";
  const auto spec = make_spec(manifest);
  ASSERT_FALSE(spec);
  EXPECT_NE(spec.error().message.find("spiral"), std::string::npos);
}

TEST(Families, OlderAndNewerRopeSpellingsAgree) {
  const formats::ModelManifest newer = open_oracle("llama");
  formats::ModelManifest older = newer;
  Json params = older.config["rope_parameters"];
  older.config.erase("rope_parameters");
  older.config["rope_theta"] = params["rope_theta"];
  params.erase("rope_theta");
  older.config["rope_scaling"] = params;
  const auto a = make_spec(newer);
  const auto b = make_spec(older);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->ropes[0].base, 500000.0f);
  EXPECT_EQ(a->ropes[0].base, b->ropes[0].base);
  EXPECT_EQ(a->ropes[0].scaling, RopeScaling::kLlama3);
  EXPECT_EQ(b->ropes[0].scaling, RopeScaling::kLlama3);
  EXPECT_EQ(a->ropes[0].factor, b->ropes[0].factor);
  EXPECT_EQ(a->ropes[0].original_positions, b->ropes[0].original_positions);
}

TEST(Families, WindowsFollowEachFamilysRule) {
  formats::ModelManifest qwen2 = open_oracle("qwen2");
  qwen2.config.erase("layer_types");
  qwen2.config["sliding_window"] = 24;
  qwen2.config["max_window_layers"] = 2;
  EXPECT_EQ(windows(*make_spec(qwen2)), (std::vector<uint32_t>{0, 0, 0, 0})) << "unless asked for";
  qwen2.config["use_sliding_window"] = true;
  EXPECT_EQ(windows(*make_spec(qwen2)), (std::vector<uint32_t>{0, 0, 24, 24}));

  formats::ModelManifest moe = open_oracle("qwen3_moe");
  moe.config["use_sliding_window"] = true;
  moe.config["sliding_window"] = 24;
  moe.config["max_window_layers"] = 28;
  EXPECT_EQ(windows(*make_spec(moe)), (std::vector<uint32_t>{24, 24, 24, 24}));

  formats::ModelManifest older = open_oracle("qwen2_moe");
  older.config.erase("layer_types");
  older.config["use_sliding_window"] = true;
  older.config["sliding_window"] = 24;
  older.config["max_window_layers"] = 3;
  EXPECT_EQ(windows(*make_spec(older)), (std::vector<uint32_t>{24, 0, 24, 0}));

  formats::ModelManifest gemma = open_oracle("gemma3");
  gemma.config.erase("layer_types");
  EXPECT_EQ(windows(*make_spec(gemma)), (std::vector<uint32_t>{24, 24, 24, 24, 24, 0, 24}));
}

TEST(Families, SparseLayersFollowTheStepAndTheExceptions) {
  formats::ModelManifest manifest = open_oracle("qwen3_moe");
  manifest.config["decoder_sparse_step"] = 2;
  manifest.config["mlp_only_layers"] = Json::array({3});
  const auto spec = make_spec(manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  for (const uint32_t layer : {0u, 2u, 3u})
    EXPECT_TRUE(std::holds_alternative<MlpSpec>(spec->layers[layer].ffn)) << layer;
  EXPECT_TRUE(std::holds_alternative<MoeSpec>(spec->layers[1].ffn));
}

TEST(Families, AMultimodalGemmaMayLeaveOutWhatIsUsual) {
  formats::ModelManifest manifest = open_oracle("gemma3");
  Json text = manifest.config;
  for (const char* field : {"num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
                            "max_position_embeddings", "query_pre_attn_scalar"})
    text.erase(field);
  manifest.config = {{"model_type", "gemma3"}, {"text_config", text}};
  const auto spec = make_spec(manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->layers[0].attention().heads, 8u);
  EXPECT_EQ(spec->layers[0].attention().kv_heads, 4u);
  EXPECT_EQ(spec->layers[0].attention().head_dim, 256u);
  EXPECT_EQ(spec->layers[0].attention().scale, 1.0f / 16.0f);
  EXPECT_EQ(spec->vocab, 262208u);
  EXPECT_EQ(spec->context_max, 131072u);
}

// A GGUF of metadata and one embedding: specs are made from headers.
Result<ModelSpec> gguf_spec(const formats::GgufPairs& pairs, std::vector<std::string> vectors = {}) {
  const std::string path =
      testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".gguf";
  std::vector<formats::TensorSpec> tensors = {{"token_embd.weight", DType::kF32, {8, 64}}};
  for (std::string& name : vectors) tensors.push_back({std::move(name), DType::kF32, {8}});
  auto writer = formats::GgufWriter::create(path, pairs, tensors, formats::Overwrite::kReplace);
  if (!writer) return tl::unexpected<Error>(writer.error());
  for (const formats::TensorSpec& tensor : tensors) {
    const std::vector<uint8_t> zeros(4 * tensor.shape[0] * (tensor.shape.size() == 2 ? tensor.shape[1] : 1));
    RETURN_IF_ERROR(writer->append(tensor.name, zeros));
  }
  RETURN_IF_ERROR(writer->finish());
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(path));
  return make_spec(manifest);
}

formats::GgufPairs gguf_metadata(const std::string& architecture, uint32_t layers) {
  const std::string p = architecture + ".";
  return {{"general.architecture", architecture},     {p + "block_count", layers},
          {p + "embedding_length", uint32_t{64}},     {p + "feed_forward_length", uint32_t{128}},
          {p + "attention.head_count", uint32_t{4}},  {p + "attention.head_count_kv", uint32_t{2}},
          {p + "attention.key_length", uint32_t{16}}, {p + "context_length", uint32_t{4096}}};
}

TEST(Families, GgufLlamaRotatesNeighbours) {
  const auto spec = gguf_spec(gguf_metadata("llama", 2), {"rope_freqs.weight"});
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->ropes[0].layout, RopeLayout::kInterleaved);
  EXPECT_EQ(spec->ropes[0].divisors.name, "rope_freqs.weight");
  EXPECT_EQ(spec->head.name, "token_embd") << "without output.weight the head is tied";
  EXPECT_EQ(spec->layers[1].attention().q.name, "blk.1.attn_q");
}

TEST(Families, GgufAttentionMayBeOneMatrix) {
  const auto spec = gguf_spec(gguf_metadata("qwen2", 1), {"blk.0.attn_qkv.weight", "blk.0.attn_qkv.bias"});
  ASSERT_TRUE(spec) << spec.error().message;
  const AttentionSpec& a = spec->layers[0].attention();
  const uint32_t q = 4 * 16, kv = 2 * 16;
  for (const auto& [matrix, bias, begin, rows] :
       {std::tuple{&a.q, &a.q_bias, 0u, q}, {&a.k, &a.k_bias, q, kv}, {&a.v, &a.v_bias, q + kv, kv}}) {
    EXPECT_EQ(matrix->name, "blk.0.attn_qkv");
    EXPECT_EQ(matrix->row_begin, begin);
    EXPECT_EQ(matrix->rows, rows);
    EXPECT_EQ(matrix->stored_rows, q + 2 * kv);
    EXPECT_EQ(bias->name, "blk.0.attn_qkv.bias");
    EXPECT_EQ(bias->first, begin);
    EXPECT_EQ(bias->size, rows);
    EXPECT_EQ(bias->stored, q + 2 * kv);
  }
}

TEST(Families, GgufGemma4RefusesAScaledRope) {
  formats::GgufPairs pairs = gguf_metadata("gemma4", 2);
  pairs.push_back({"gemma4.attention.sliding_window", uint32_t{24}});
  ASSERT_TRUE(gguf_spec(pairs));
  pairs.push_back({"gemma4.rope.scaling.type", std::string("linear")});
  pairs.push_back({"gemma4.rope.scaling.factor", 4.0f});
  const auto spec = gguf_spec(pairs);
  ASSERT_FALSE(spec);
  EXPECT_NE(spec.error().message.find("rope.scaling.type"), std::string::npos) << spec.error().message;
}

TEST(Families, GgufPhi3TakesLongRopeFromTensorsAndItsFactorFromTheMetadata) {
  formats::GgufPairs pairs = gguf_metadata("phi3", 2);
  pairs.push_back({"phi3.rope.scaling.original_context_length", uint32_t{2048}});
  pairs.push_back({"phi3.rope.scaling.attn_factor", 1.19f});
  pairs.push_back({"phi3.attention.sliding_window", uint32_t{0}});
  const auto spec = gguf_spec(pairs, {"rope_factors_long.weight", "rope_factors_short.weight"});
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->ropes[0].scaling, RopeScaling::kLongRope);
  EXPECT_EQ(spec->ropes[0].attention_factor, 1.19f);
  EXPECT_EQ(spec->layers[0].attention().window, 0u) << "0 is how GGUF says none";
  EXPECT_EQ(spec->ropes[0].original_positions, 2048.0f);
  EXPECT_EQ(spec->ropes[0].long_divisors.name, "rope_factors_long.weight");
}

TEST(Families, TheDeepestGgufGemmasScaleQueriesByTheirWidth) {
  formats::GgufPairs pairs = gguf_metadata("gemma2", 46);
  const auto largest = gguf_spec(pairs);
  ASSERT_TRUE(largest) << largest.error().message;
  pairs[2].second = uint32_t{128};  // embedding_length, so that width / heads and head_dim differ.
  const auto other = gguf_spec(pairs);
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(largest->layers[0].attention().scale, 1.0f / std::sqrt(16.0f));
  EXPECT_EQ(other->layers[0].attention().scale, 1.0f / std::sqrt(32.0f));
  EXPECT_FALSE(other->layers[0].mixer_norm.add_one) << "GGUF holds whole norm weights";
}

TEST(Families, GgufWithoutItsSizesIsRefused) {
  const auto spec = gguf_spec({{"general.architecture", std::string("qwen3")}});
  ASSERT_FALSE(spec);
  EXPECT_NE(spec.error().message.find("hidden_size"), std::string::npos) << spec.error().message;
}

}  // namespace
}  // namespace mlxf::model
