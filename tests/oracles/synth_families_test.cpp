// The synthetic models of the newer families: their keys and tensors against files of llama.cpp's converter, and that
// they compute, to the same bits whether resident or streamed.
//
// Each is shrunk to four layers of a few hundred elements; tests/oracles/context_memory_test.cpp has the real sizes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "convert/synth.h"
#include "formats/test_bytes.h"
#include "model/families/families.h"
#include "model/weight_stream.h"
#include "oracles/testing_model.h"
#include "storage/open_storage.h"

namespace mlxf {
namespace {

using formats::testing::TempFolder;
using testing_model::data_folder;
using Names = std::set<std::string>;

convert::ModelShape shrunk(const char* name) {
  convert::ModelShape shape = *convert::find_shape(name);
  const bool gemma = shape.family == convert::ShapeFamily::kGemma4;
  shape.layers = 4;
  shape.width = shape.dense_ffn_width = 256;
  shape.ffn_width = gemma ? 64 : 256;  // Gemma's are no multiple of 256 either.
  shape.heads = 4;
  if (shape.full_kv_heads != 0) shape.full_kv_heads = shape.full_kv_heads == shape.kv_heads ? 2 : 1;
  if (shape.latent.rank == 0) shape.kv_heads = 2;
  shape.head_dim = 64;
  shape.vocabulary = convert::VocabularyKind::kSmall;
  if (shape.experts != 0) shape.experts = 16;
  shape.experts_used = std::min(shape.experts_used, 2u);
  shape.dense_layers = std::min(shape.dense_layers, 1u);
  if (shape.shared_width != 0) shape.shared_width = shape.ffn_width;
  if (shape.expert_groups > 1) {
    shape.expert_groups = 4;
    shape.expert_groups_used = 2;
  }
  shape.full_interval = std::min(shape.full_interval, 2u);
  if (shape.window != 0) shape.window = 24;
  if (shape.full_head_dim != 0) shape.full_head_dim = 128;
  if (shape.rope_dims != 0) shape.rope_dims = 32;
  if (shape.kv_shared_layers != 0) shape.kv_shared_layers = 2;
  if (shape.per_layer_width != 0) shape.per_layer_width = 64;
  if (shape.latent.rank != 0)
    shape.latent = {.query_rank = 64, .rank = 128, .nope_dim = 32, .rope_dim = 32, .value_dim = 64};
  if (shape.delta.taps != 0) shape.delta = {.key_heads = 2, .value_heads = 4, .head_dim = 64, .taps = 4};
  return shape;
}

struct Case {
  const char* shape;
  const char* reference;  // A converted file of the same architecture.
  // What only one of the two has.
  Names our_keys, their_keys, our_tensors, their_tensors;
};

void PrintTo(const Case& which, std::ostream* out) { *out << which.shape; }

const Case kCases[] = {
    {"deepseek-v3", "llamacpp-deepseek_v3", {"expert_gating_func"}, {}, {}, {}},
    {"qwen3-next-80b-a3b",
     "llamacpp-fused-qwen3_next",
     {},
     {},
     {"attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight"},
     {"ffn_gate_up_exps.weight"}},
    {"qwen3.5-35b-a3b", "llamacpp-qwen3_5_moe", {}, {}, {}, {}},
    {"gpt-oss-120b", "llamacpp-gpt_oss", {}, {}, {}, {}},
    {"gpt-oss-20b", "llamacpp-gpt_oss", {}, {}, {}, {}},
    {"glm-4.5-air", "llamacpp-glm4_moe", {}, {"nextn_predict_layers"}, {}, {}},
    {"llama4-scout", "llamacpp-llama4", {}, {}, {"rope_freqs.weight"}, {}},
    {"gemma4-26b-a4b", "gguf-gemma4-moe", {"final_logit_softcapping"}, {}, {}, {}},
    {"gemma4-e4b", "gguf-gemma4-ple", {"final_logit_softcapping"}, {}, {}, {}},
};

class SynthFamilyTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    convert::SynthOptions options;
    options.shape = shrunk(GetParam().shape);
    options.out = path_;
    const Status written = convert::synthesise(options, {});
    ASSERT_TRUE(written) << written.error().message;
  }
  TempFolder folder_;
  const std::string path_ = folder_ / "model.gguf";
};

// Of the architecture, without its prefix.
Names keys_of(const formats::ModelManifest& manifest) {
  const std::string prefix = *manifest.metadata.find_string("general.architecture") + ".";
  Names names;
  for (const std::string_view key : manifest.metadata.keys())
    if (key.starts_with(prefix)) names.emplace(key.substr(prefix.size()));
  return names;
}

std::string without_layer(const std::string& name) {
  return name.starts_with("blk.") ? name.substr(name.find('.', 4) + 1) : name;
}

// One tensor of each name, layers aside.
std::map<std::string, const formats::TensorEntry*> tensors_of(const formats::ModelManifest& manifest) {
  std::map<std::string, const formats::TensorEntry*> tensors;
  for (const formats::TensorEntry& tensor : manifest.tensors) tensors[without_layer(tensor.name)] = &tensor;
  return tensors;
}

Names only_in(const Names& one, const Names& other) {
  Names only;
  std::set_difference(one.begin(), one.end(), other.begin(), other.end(), std::inserter(only, only.end()));
  return only;
}

TEST_P(SynthFamilyTest, HasTheKeysAndTensorsOfAConvertedFile) {
  const auto ours = formats::open_model(path_);
  const auto theirs =
      formats::open_model(data_folder("reference/" + std::string(GetParam().reference)) + "/model.gguf");
  ASSERT_TRUE(ours && theirs);
  EXPECT_EQ(ours->metadata.find_string("general.architecture"),
            theirs->metadata.find_string("general.architecture"));
  Names extra = only_in(keys_of(*ours), keys_of(*theirs));
  extra.erase("vocab_size");  // Which the converter writes for some architectures.
  EXPECT_EQ(extra, GetParam().our_keys);
  EXPECT_EQ(only_in(keys_of(*theirs), keys_of(*ours)), GetParam().their_keys);
  const auto our_tensors = tensors_of(*ours);
  const auto their_tensors = tensors_of(*theirs);
  Names our_names, their_names;
  for (const auto& [name, tensor] : our_tensors) our_names.insert(name);
  for (const auto& [name, tensor] : their_tensors) their_names.insert(name);
  EXPECT_EQ(only_in(our_names, their_names), GetParam().our_tensors);
  EXPECT_EQ(only_in(their_names, our_names), GetParam().their_tensors);
  for (const auto& [name, tensor] : our_tensors) {
    const auto found = their_tensors.find(name);
    if (found == their_tensors.end()) continue;
    EXPECT_EQ(tensor->shape.size(), found->second->shape.size()) << name;
    // The script behind the Gemma files leaves routers in 16 bits, where llama.cpp's converter does not.
    if (name != "ffn_gate_inp.weight") {
      EXPECT_EQ(tensor->dtype == DType::kF32, found->second->dtype == DType::kF32) << name;
    }
  }
}

struct Loaded {
  formats::ModelManifest manifest;
  std::unique_ptr<storage::Storage> storage;
  compute::ThreadPool pool{2};
  compute::Cpu cpu{kernels::select_kernels(), pool, {.arithmetic = compute::Arithmetic::kInt8}};
  std::unique_ptr<model::Model> model;

  // Weights may take that many bytes; 0: all are resident.
  explicit Loaded(const std::string& path, uint64_t weight_bytes = 0) {
    auto opened = formats::open_model(path);
    auto device = storage::open_storage({});
    if (!opened || !device) {
      ADD_FAILURE() << (opened ? device.error().message : opened.error().message);
      return;
    }
    manifest = std::move(*opened);
    storage = std::move(*device);
    model::MemoryOptions memory;
    if (weight_bytes != 0)
      memory = {
          .storage = storage.get(), .weight_bytes = weight_bytes, .granule_bytes = storage::Storage::kAlign};
    auto loaded = model::Model::load(manifest, cpu, {.memory = memory});
    if (!loaded) ADD_FAILURE() << loaded.error().message;
    if (loaded) model = std::move(*loaded);
  }
};

TEST_P(SynthFamilyTest, ComputesTheSameBitsResidentAndStreamed) {
  std::vector<TokenId> ids(80);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i * 397 % 31000);
  const Loaded resident(path_);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<float> logits = testing_model::logits_of(*resident.model, ids, {72, 1});
  const auto spec = model::make_spec(resident.manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto sizes = model::measure_weights(resident.manifest, *spec, storage::Storage::kAlign);
  ASSERT_TRUE(sizes) << sizes.error().message;
  const Loaded streamed(path_, sizes->floor());
  ASSERT_NE(streamed.model, nullptr);
  ASSERT_NE(streamed.model->weight_cache(), nullptr) << "nothing is streamed";
  EXPECT_EQ(testing_model::logits_of(*streamed.model, ids, {72, 1}), logits);

  // Random, finite, of a spread like real ones, and other ones for each token.
  const size_t vocab = spec->vocab;
  std::set<size_t> choices;
  for (size_t row = 0; row < ids.size(); ++row) {
    const float* values = logits.data() + row * vocab;
    double squares = 0.0;
    for (size_t i = 0; i < vocab; ++i) {
      ASSERT_TRUE(std::isfinite(values[i])) << "token " << row;
      squares += double{values[i]} * values[i] / static_cast<double>(vocab);
    }
    EXPECT_GT(std::sqrt(squares), 1.0) << "token " << row;
    EXPECT_LT(std::sqrt(squares), 4.0) << "token " << row;
    choices.insert(static_cast<size_t>(std::max_element(values, values + vocab) - values));
  }
  EXPECT_GT(choices.size(), ids.size() * 3 / 4);
}

// A dense model's layers lie side by side while they are resident, as stored while they are streamed, and side by side
// again once they have come to stay.
TEST(SynthDense, GivesTheSameBitsWhileLayersComeAndGo) {
  const TempFolder folder;
  convert::SynthOptions options;
  options.shape = shrunk("qwen3-0.6b");
  options.out = folder / "model.gguf";
  const Status written = convert::synthesise(options, {});
  ASSERT_TRUE(written) << written.error().message;
  std::vector<TokenId> ids(40);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i * 397 % 31000);
  const Loaded whole(options.out);
  ASSERT_NE(whole.model, nullptr);
  const std::vector<float> logits = testing_model::logits_of(*whole.model, ids, {32, 1});
  // Another order of additions in the norms and in attention: not the same bits, but the same model.
  compute::ThreadPool pool(1);
  compute::Cpu scalar(kernels::reference_kernels(), pool, {.arithmetic = compute::Arithmetic::kInt8});
  auto by_row = model::Model::load(whole.manifest, scalar, {});
  ASSERT_TRUE(by_row) << by_row.error().message;
  EXPECT_LT(testing_model::relative_error(testing_model::logits_of(**by_row, ids, {32, 1}), logits), 0.02);

  const auto spec = model::make_spec(whole.manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto sizes = model::measure_weights(whole.manifest, *spec, storage::Storage::kAlign);
  ASSERT_TRUE(sizes) << sizes.error().message;
  const Loaded moving(options.out, sizes->total());
  ASSERT_NE(moving.model, nullptr);
  EXPECT_FALSE(moving.model->streams());
  EXPECT_EQ(testing_model::logits_of(*moving.model, ids, {32, 1}), logits);
  model::WeightStream* weights = moving.model->resizable();
  ASSERT_NE(weights, nullptr);
  weights->set_bytes(0);
  EXPECT_TRUE(moving.model->streams());
  EXPECT_EQ(testing_model::logits_of(*moving.model, ids, {32, 1}), logits);
  weights->set_bytes(weights->room().most_bytes);
  for (int round = 0; round < 3; ++round)
    EXPECT_EQ(testing_model::logits_of(*moving.model, ids, {32, 1}), logits);
  EXPECT_EQ(moving.model->streamed_layer_bytes(), 0u) << "all is in memory again";
}

INSTANTIATE_TEST_SUITE_P(Shapes, SynthFamilyTest, testing::ValuesIn(kCases), [](const auto& parameter) {
  return testing_model::test_name(parameter.param.shape);
});

}  // namespace
}  // namespace mlxf
