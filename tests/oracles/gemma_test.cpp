// gemma3n and gemma4 beyond their logits: hidden states, GGUF files, memory per token with shared keys and values, and
// per-layer embeddings read by row from the SSD.
//
// The GGUF files were written by the gguf package from the oracles (tools/reference/gguf_gemma.py), so their logits are
// the oracles'.
#include <gtest/gtest.h>

#include "model/families/families.h"
#include "model/weight_stream.h"
#include "oracles/testing_model.h"
#include "storage/faulty_storage.h"

namespace mlxf {
namespace {

using compute::Arithmetic;
using testing_model::data_folder;
using testing_model::LoadedModel;

constexpr uint64_t kGranule = storage::Storage::kAlign;

std::string oracle(const std::string& name) { return data_folder("oracles/" + name); }
std::string oracle_file(const std::string& name) { return oracle(name) + "/oracle.safetensors"; }

class GemmaTest : public testing::TestWithParam<std::string> {};

TEST_P(GemmaTest, HiddenStatesMatchTheReference) {
  const auto ids = testing_model::token_ids(oracle_file(GetParam()), "input_ids");
  const auto expected = testing_model::floats(oracle_file(GetParam()), "hidden");
  LoadedModel loaded(oracle(GetParam()), 1, Arithmetic::kF32, kernels::select_kernels(), true);
  ASSERT_NE(loaded.model, nullptr);
  std::vector<float> found;
  const auto sequence = loaded.model->make_sequence(128);
  std::vector<float> logits(loaded.model->spec().vocab);
  const model::Chunk chunk{sequence.get(), ids, false};
  ASSERT_TRUE(loaded.model->forward({&chunk, 1}, logits.data(),
                                    [&](uint32_t, const float* rows, uint32_t tokens, uint32_t width) {
                                      found.insert(found.end(), rows, rows + uint64_t{tokens} * width);
                                    }));
  // The reference's last state may be behind the final norm.
  const size_t layer = ids.size() * loaded.model->spec().hidden;
  ASSERT_EQ(found.size(), expected.size());
  for (size_t at = 0; at + layer < found.size(); at += layer) {
    const auto part = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + static_cast<int64_t>(at),
                                all.begin() + static_cast<int64_t>(at + layer));
    };
    EXPECT_LE(testing_model::relative_error(part(found), part(expected)), 2e-5) << at / layer;
  }
}

TEST_P(GemmaTest, GgufLogitsMatch) {
  const auto ids = testing_model::token_ids(oracle_file(GetParam()), "input_ids");
  LoadedModel loaded(data_folder("reference/gguf-" + GetParam() + "/model.gguf"), 2, Arithmetic::kF32,
                     kernels::select_kernels(), true);
  ASSERT_NE(loaded.model, nullptr);
  const double error = testing_model::relative_error(
      testing_model::logits_of(*loaded.model, ids), testing_model::floats(oracle_file(GetParam()), "logits"));
  RecordProperty("error", std::to_string(error * 1e6) + "e-6");
  EXPECT_LE(error, 2e-5);
}

// Layers that share keys and values keep none; the others keep their heads, padded to 16.
TEST_P(GemmaTest, MemoryPerTokenIsThatOfTheLayersWithKeysOfTheirOwn) {
  LoadedModel loaded(oracle(GetParam()), 1, Arithmetic::kInt8, kernels::select_kernels(), false);
  ASSERT_NE(loaded.model, nullptr);
  const model::ModelSpec& spec = loaded.model->spec();
  uint64_t expected = 0;
  uint32_t sharing = 0;
  for (const model::LayerSpec& layer : spec.layers) {
    const model::AttentionSpec& a = layer.attention();
    if (a.keys_of == model::kOwnKeys)
      expected += uint64_t{64} * a.kv_heads * ((a.head_dim + 15) / 16 * 16) * 2 * sizeof(uint16_t);
    else
      ++sharing;
  }
  EXPECT_EQ(sharing, GetParam() == "gemma4-ple" ? 3u : GetParam() == "gemma3n" ? 2u : 0u);
  const auto sequence = loaded.model->make_sequence(64);
  std::vector<float> logits(spec.vocab);
  const std::vector<TokenId> ids(64, 7);
  const model::Chunk chunk{sequence.get(), ids, false};
  ASSERT_TRUE(loaded.model->forward({&chunk, 1}, logits.data()));
  EXPECT_EQ(sequence->bytes(), expected);
}

TEST_P(GemmaTest, RollbackGivesTheBitsOfANewSequence) {
  const auto ids = testing_model::token_ids(oracle_file(GetParam()), "input_ids");
  LoadedModel loaded(oracle(GetParam()), 1, Arithmetic::kInt8, kernels::select_kernels(), false);
  ASSERT_NE(loaded.model, nullptr);
  const uint32_t vocab = loaded.model->spec().vocab;
  const std::vector<float> expected = testing_model::logits_of(*loaded.model, ids);
  const auto sequence = loaded.model->make_sequence(128);
  std::vector<float> logits(ids.size() * vocab);
  const model::Chunk all{sequence.get(), ids, true};
  ASSERT_TRUE(loaded.model->forward({&all, 1}, logits.data()));
  ASSERT_TRUE(sequence->truncate(40));
  const model::Chunk rest{sequence.get(), {ids.data() + 40, ids.size() - 40}, true};
  ASSERT_TRUE(loaded.model->forward({&rest, 1}, logits.data() + size_t{40} * vocab));
  EXPECT_EQ(logits, expected);
}

INSTANTIATE_TEST_SUITE_P(Gemma, GemmaTest, testing::Values("gemma4", "gemma4-ple", "gemma4-moe", "gemma3n"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- per-layer embeddings by row ----

class RowTest : public testing::TestWithParam<std::string> {};

// One byte too little for everything: the table goes and all else stays. An error at any of its reads names the row,
// leaves the sequence as it was, and the same call again gives the resident model's bits.
TEST_P(RowTest, OnlyTheTableIsReadAndAnyFaultIsClean) {
  auto ids = testing_model::token_ids(oracle_file("gemma4-ple"), "input_ids");
  ids.resize(12);
  ids[5] = ids[4];  // Equal neighbours are read once.
  compute::ThreadPool pool(1);
  compute::Cpu cpu(kernels::select_kernels(), pool, {.arithmetic = Arithmetic::kInt8});
  const auto manifest = formats::open_model(GetParam());
  ASSERT_TRUE(manifest) << manifest.error().message;
  const auto spec = model::make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto sizes = model::measure_weights(*manifest, *spec, kGranule);
  ASSERT_TRUE(sizes);
  ASSERT_GT(sizes->row_table, sizes->row_buffer);
  const auto resident = model::Model::load(*manifest, cpu, {});
  ASSERT_TRUE(resident);
  const std::vector<float> expected = testing_model::logits_of(**resident, ids);
  storage::FaultyStorage faulty({});
  const auto streamed = model::Model::load(
      *manifest, cpu,
      {.memory = {
           .storage = &faulty.storage(), .weight_bytes = sizes->total() - 1, .granule_bytes = kGranule}});
  ASSERT_TRUE(streamed) << streamed.error().message;
  const uint64_t first = faulty.started().size();
  EXPECT_EQ(testing_model::logits_of(**streamed, ids), expected);
  const uint64_t reads = faulty.started().size() - first;
  EXPECT_GE(reads, 8u);
  EXPECT_LE(reads, ids.size() - 1) << "more than one read for a token: something else is streamed";
  for (uint64_t k = 1; k <= reads; ++k) {
    SCOPED_TRACE("read " + std::to_string(k));
    faulty.set_plan({.error_at = faulty.started().size() + k, .ticks_max = static_cast<uint32_t>(k % 4)});
    const auto sequence = (*streamed)->make_sequence(64);
    std::vector<float> logits(expected.size());
    const model::Chunk chunk{sequence.get(), ids, true};
    const Status status = (*streamed)->forward({&chunk, 1}, logits.data());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    for (const char* part : {"per-layer embeddings", " row ", "model.", "at byte "})
      EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
    EXPECT_EQ(sequence->length(), 0u);
    faulty.set_plan({});
    ASSERT_TRUE((*streamed)->forward({&chunk, 1}, logits.data()));
    EXPECT_EQ(logits, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Gemma, RowTest,
                         testing::Values(oracle("gemma4-ple"),
                                         data_folder("reference/gguf-gemma4-ple/model.gguf")),
                         [](const auto& parameter) {
                           return std::string(parameter.param.ends_with(".gguf") ? "gguf" : "safetensors");
                         });

// ---- configurations ----

TEST(GemmaFamilies, WhatIsNotSupportedOrCannotBeIsRefusedByName) {
  struct Case {
    const char* oracle;
    const char* field;
    Json value;
    const char* says = nullptr;  // What the message names where it is not the field.
  };
  const Case cases[] = {
      {"gemma4", "use_bidirectional_attention", "all"},
      {"gemma4", "use_bidirectional_attention", true},
      {"gemma4", "hidden_activation", "relu"},
      {"gemma4", "num_kv_shared_layers", 6},
      {"gemma4", "layer_types", {"full_attention"}},
      {"gemma4", "per_layer_config", {{"5", {{"num_attention_heads", 2}}}}},
      {"gemma4", "per_layer_config", {{"5", {{"head_dim", -1}}}}},
      {"gemma4", "per_layer_config", {{"05", {{"head_dim", 64}}}}},
      {"gemma4", "per_layer_config", {{"6", {{"head_dim", 64}}}}},
      {"gemma4", "per_layer_config", {{"full_attention", {{"head_dim", 64}}}}},
      {"gemma4", "num_kv_shared_layers", "3"},
      {"gemma4-ple", "num_kv_shared_layers", 4},
      {"gemma4-ple", "hidden_size_per_layer_input", -3},
      {"gemma4-ple", "hidden_size_per_layer_input", "32"},
      {"gemma4-moe", "num_experts", 65536, "65536 experts"},
      {"gemma3n", "altup_active_idx", 4},
      {"gemma3n", "per_layer_config", {{"0", {{"intermediate_size", 64}}}}},
      {"gemma3n", "altup_num_inputs", 17},
      {"gemma3n", "activation_sparsity_pattern", {0.5}},
      {"gemma3n", "intermediate_size", {128, 128}},
      {"gemma3n", "rope_parameters", {{"full_attention", {{"rope_type", "spiral"}}}}, "spiral"},
      {"gemma3n", "rope_scaling", {{"rope_type", "spiral"}}, "spiral"},
  };
  for (const Case& c : cases) {
    auto manifest = formats::open_model(oracle(c.oracle));
    ASSERT_TRUE(manifest);
    manifest->config[c.field] = c.value;
    const auto spec = model::make_spec(*manifest);
    ASSERT_FALSE(spec) << c.oracle << " " << c.field << " " << c.value;
    EXPECT_NE(spec.error().message.find(c.says != nullptr ? c.says : c.field), std::string::npos)
        << spec.error().message;
  }
}

TEST(GemmaFamilies, KeysAreValuesInFullLayersAndSharingLayersMayBeTwiceAsWide) {
  auto manifest = formats::open_model(oracle("gemma4-ple"));
  ASSERT_TRUE(manifest);
  manifest->config["attention_k_eq_v"] = true;
  manifest->config["use_double_wide_mlp"] = true;
  const auto spec = model::make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto& layers = spec->layers;
  EXPECT_TRUE(layers[2].attention().values_are_keys);
  EXPECT_TRUE(layers[2].attention().v.name.empty());
  EXPECT_FALSE(layers[1].attention().values_are_keys);
  EXPECT_EQ(layers[3].attention().keys_of, 1u);
  EXPECT_EQ(layers[5].attention().keys_of, 2u);
  EXPECT_EQ(std::get_if<model::MlpSpec>(&layers[2].ffn)->width, 128u);
  EXPECT_EQ(std::get_if<model::MlpSpec>(&layers[3].ffn)->width, 256u);
}

// Configurations may name the experts' width twice; the reference reads one of them.
TEST(GemmaFamilies, TheExpertsWidthIsMoeIntermediateSize) {
  auto manifest = formats::open_model(oracle("gemma4-moe"));
  ASSERT_TRUE(manifest);
  manifest->config["expert_intermediate_size"] = 8;
  EXPECT_EQ(std::get_if<model::MoeSpec>(&model::make_spec(*manifest)->layers[0].ffn)->width, 64u);
  manifest->config.erase("moe_intermediate_size");
  manifest->config["expert_intermediate_size"] = 64;
  EXPECT_EQ(std::get_if<model::MoeSpec>(&model::make_spec(*manifest)->layers[0].ffn)->width, 64u);
}

// A text configuration of before transformers 5 scales the rope of full layers alone, beside what it says of both.
TEST(GemmaFamilies, OlderScalingIsThatOfTheFullLayers) {
  auto manifest = formats::open_model(oracle("gemma3n"));
  ASSERT_TRUE(manifest);
  manifest->config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  const auto spec = model::make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->ropes[0].scaling, model::RopeScaling::kLinear);
  EXPECT_EQ(spec->ropes[0].factor, 4.0f);
  EXPECT_EQ(spec->ropes[0].base, 1e6f);
  EXPECT_EQ(spec->ropes[1].scaling, model::RopeScaling::kNone);
}

// Before transformers 5 the full layers' heads had fields of their own.
TEST(GemmaFamilies, OlderAndNewerSpellingsOfFullLayersAgree) {
  auto manifest = formats::open_model(oracle("gemma4"));
  ASSERT_TRUE(manifest);
  manifest->config.erase("per_layer_config");
  manifest->config["global_head_dim"] = 64;
  const auto spec = model::make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->layers[5].attention().head_dim, 64u);
  EXPECT_EQ(spec->layers[4].attention().head_dim, 32u);
  EXPECT_EQ(spec->ropes[0].dims, 64u);
  EXPECT_EQ(spec->ropes[0].rotated_pairs, 8u);
}

}  // namespace
}  // namespace mlxf
