// The oracles of latent attention and of gemma4 in the other layouts that their weights are published in: the tensors
// of tests/data/oracles under the names and in the shapes of mlx-lm and (latent attention) of llama.cpp, older and
// newer, with the metadata that llama.cpp's converter writes. The logits must be the reference's in all of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "oracles/checkpoint_tensors.h"
#include "oracles/testing_model.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;
using testing_model::data_folder;
using testing_model::read_oracle;
using testing_model::specs_of;
using testing_model::stack;
using testing_model::Tensor;
using testing_model::Tensors;
using testing_model::write_all;

struct Split {
  Tensor keys, values;  // [heads, rank, nope], [heads, value_dim, rank]
};

// [heads * (nope + value_dim), rank] in two, the keys' transposed.
Split split_latent_products(const Tensor& both, uint64_t heads, uint64_t nope) {
  const uint64_t rank = both.shape[1];
  const uint64_t value_dim = both.shape[0] / heads - nope;
  Split split{{{heads, rank, nope}, std::vector<uint8_t>(heads * rank * nope * 2)},
              {{heads, value_dim, rank}, {}}};
  for (uint64_t h = 0; h < heads; ++h) {
    const uint8_t* head = both.bytes.data() + h * (nope + value_dim) * rank * 2;
    for (uint64_t n = 0; n < nope; ++n)
      for (uint64_t r = 0; r < rank; ++r)
        std::copy_n(head + (n * rank + r) * 2, 2, split.keys.bytes.data() + ((h * rank + r) * nope + n) * 2);
    split.values.bytes.insert(split.values.bytes.end(), head + nope * rank * 2,
                              head + (nope + value_dim) * rank * 2);
  }
  return split;
}

// As mlx-lm's converter sanitises them.
Tensors mlx_tensors(const Tensors& tensors, const Json& config) {
  Tensors result;
  for (const auto& [name, tensor] : tensors) {
    const size_t experts = name.find("experts.0.");
    if (const size_t at = name.find("kv_b_proj"); at != std::string::npos) {
      const Split split =
          split_latent_products(tensor, config["num_attention_heads"], config["qk_nope_head_dim"]);
      result[name.substr(0, at) + "embed_q.weight"] = split.keys;
      result[name.substr(0, at) + "unembed_out.weight"] = split.values;
    } else if (experts != std::string::npos) {
      const std::string prefix = name.substr(0, experts);
      for (const char* matrix : {"gate_proj", "up_proj", "down_proj"})
        result[prefix + "switch_mlp." + matrix + ".weight"] = stack(tensors, prefix, matrix);
    } else if (name.find(".experts.") == std::string::npos) {
      result[name] = tensor;
    }
  }
  return result;
}

std::string gguf_name(std::string name) {
  const std::pair<const char*, const char*> kNames[] = {
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"model.layers.", "blk."},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_a_proj", "attn_q_a"},
      {"self_attn.q_a_layernorm", "attn_q_a_norm"},
      {"self_attn.q_b_proj", "attn_q_b"},
      {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
      {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
      {"self_attn.kv_b_proj", "attn_kv_b"},
      {"self_attn.embed_q", "attn_k_b"},
      {"self_attn.unembed_out", "attn_v_b"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
      {"mlp.gate.", "ffn_gate_inp."},
      {"mlp.switch_mlp.gate_proj", "ffn_gate_exps"},
      {"mlp.switch_mlp.up_proj", "ffn_up_exps"},
      {"mlp.switch_mlp.down_proj", "ffn_down_exps"},
      {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
      {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
      {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
  };
  for (const auto& [hub, gguf] : kNames)
    if (const size_t at = name.find(hub); at != std::string::npos)
      name.replace(at, std::string(hub).size(), gguf);
  return name;
}

// What llama.cpp's converter writes; before it split the keys and values, without the "_mla" keys.
formats::GgufPairs gguf_metadata(const Json& config, bool split) {
  formats::GgufPairs pairs{{"general.architecture", std::string("deepseek2")}};
  const auto count = [&](const char* key, uint32_t value) {
    pairs.push_back({std::string("deepseek2.") + key, value});
  };
  const auto number = [&](const char* key, float value) {
    pairs.push_back({std::string("deepseek2.") + key, value});
  };
  const auto field = [&](const char* name) { return config[name].get<uint32_t>(); };
  const uint32_t rope = field("qk_rope_head_dim"), rank = field("kv_lora_rank");
  const uint32_t key = field("qk_nope_head_dim") + rope;
  count("block_count", field("num_hidden_layers"));
  count("context_length", field("max_position_embeddings"));
  count("embedding_length", field("hidden_size"));
  count("feed_forward_length", field("intermediate_size"));
  count("attention.head_count", field("num_attention_heads"));
  count("attention.head_count_kv", split ? 1 : field("num_attention_heads"));
  number("attention.layer_norm_rms_epsilon", config["rms_norm_eps"]);
  count("attention.q_lora_rank", field("q_lora_rank"));
  count("attention.kv_lora_rank", rank);
  count("attention.key_length", split ? rank + rope : key);
  count("attention.value_length", split ? rank : field("v_head_dim"));
  if (split) {
    count("attention.key_length_mla", key);
    count("attention.value_length_mla", field("v_head_dim"));
  }
  count("rope.dimension_count", rope);
  count("leading_dense_block_count", field("first_k_dense_replace"));
  count("expert_count", field("n_routed_experts"));
  count("expert_used_count", field("num_experts_per_tok"));
  count("expert_shared_count", field("n_shared_experts"));
  count("expert_feed_forward_length", field("moe_intermediate_size"));
  count("expert_group_count", field("n_group"));
  count("expert_group_used_count", field("topk_group"));
  number("expert_weights_scale", config["routed_scaling_factor"]);
  if (config["norm_topk_prob"] == true) pairs.push_back({"deepseek2.expert_weights_norm", true});
  count("expert_gating_func", config["model_type"] == "deepseek_v3" ? 2 : 1);
  const Json& ropes = config["rope_parameters"];
  number("rope.freq_base", ropes["rope_theta"]);
  if (ropes["rope_type"] == "yarn") {
    pairs.push_back({"deepseek2.rope.scaling.type", std::string("yarn")});
    number("rope.scaling.factor", ropes["factor"]);
    count("rope.scaling.original_context_length", ropes["original_max_position_embeddings"]);
    number("rope.scaling.yarn_beta_fast", ropes["beta_fast"]);
    number("rope.scaling.yarn_beta_slow", ropes["beta_slow"]);
    number("rope.scaling.yarn_log_multiplier", 0.1f * ropes["mscale_all_dim"].get<float>());
  }
  return pairs;
}

class LatentLayoutsTest : public testing::TestWithParam<const char*> {
 protected:
  const std::string oracle_ = data_folder(std::string("oracles/") + GetParam());
  const std::string scratch_ = testing::TempDir() + "layouts_" + GetParam();
  const Tensors tensors_ = read_oracle(oracle_);
  Json config_;

  void SetUp() override {
    fs::remove_all(scratch_);
    fs::create_directories(scratch_);
    const auto manifest = formats::open_model(oracle_);
    ASSERT_TRUE(manifest);
    config_ = manifest->config;
  }
  void TearDown() override { fs::remove_all(scratch_); }

  void expect_reference_logits(const std::string& path) const {
    const auto ids = testing_model::token_ids(oracle_ + "/oracle.safetensors", "input_ids");
    const auto expected = testing_model::floats(oracle_ + "/oracle.safetensors", "logits");
    testing_model::LoadedModel loaded(path, 2, compute::Arithmetic::kF32, kernels::select_kernels(), true);
    ASSERT_NE(loaded.model, nullptr);
    EXPECT_LE(testing_model::relative_error(testing_model::logits_of(*loaded.model, ids), expected), 2e-5);
  }
};

TEST_P(LatentLayoutsTest, MlxNames) {
  const Tensors tensors = mlx_tensors(tensors_, config_);
  const auto specs = specs_of(tensors);
  write_all(formats::SafetensorsWriter::create(scratch_ + "/model.safetensors", specs), specs, tensors);
  std::ofstream(scratch_ + "/config.json") << dump_json(config_);
  expect_reference_logits(scratch_);
}

TEST_P(LatentLayoutsTest, Gguf) {
  for (const bool split : {true, false}) {
    SCOPED_TRACE(split ? "attn_k_b and attn_v_b" : "attn_kv_b");
    Tensors tensors;
    for (const auto& [name, tensor] : mlx_tensors(tensors_, config_)) {
      const bool key_or_value =
          name.find("embed_q") != std::string::npos || name.find("unembed_out") != std::string::npos;
      if (split || !key_or_value) tensors[gguf_name(name)] = tensor;
    }
    for (const auto& [name, tensor] : tensors_)
      if (!split && name.find("kv_b_proj") != std::string::npos) tensors[gguf_name(name)] = tensor;
    const auto specs = specs_of(tensors);
    const std::string path = scratch_ + (split ? "/split.gguf" : "/whole.gguf");
    write_all(formats::GgufWriter::create(path, gguf_metadata(config_, split), specs), specs, tensors);
    expect_reference_logits(path);
  }
}

INSTANTIATE_TEST_SUITE_P(DeepSeek, LatentLayoutsTest, testing::Values("deepseek_v2", "deepseek_v3"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// gemma4's tensors under other names; the folder goes when the test ends.
class GemmaLayoutsTest : public testing::Test {
 protected:
  const std::string scratch_ = testing::TempDir() + "layouts_gemma4_" + std::to_string(getpid());

  void TearDown() override { fs::remove_all(scratch_); }

  // The logits of the first 40 tokens of `oracle`'s prompt over these tensors.
  [[nodiscard]] std::vector<float> logits(const std::string& oracle, const Json& config,
                                          const Tensors& tensors) {
    fs::remove_all(scratch_);
    fs::create_directories(scratch_);
    const auto specs = specs_of(tensors);
    write_all(formats::SafetensorsWriter::create(scratch_ + "/model.safetensors", specs), specs, tensors);
    std::ofstream(scratch_ + "/config.json") << dump_json(config);
    testing_model::LoadedModel loaded(scratch_, 2, compute::Arithmetic::kF32, kernels::select_kernels(),
                                      true);
    if (loaded.model == nullptr) return {};
    auto ids = testing_model::token_ids(oracle + "/oracle.safetensors", "input_ids");
    ids.resize(40);
    return testing_model::logits_of(*loaded.model, ids);
  }
};

// Beside the towers for images and sound, experts in stacks of their own for gate and up.
TEST_F(GemmaLayoutsTest, MlxNames) {
  const std::string oracle = data_folder("oracles/gemma4-moe");
  const Json config = formats::open_model(oracle)->config;
  const Tensors plain = read_oracle(oracle);
  Tensors tensors;
  for (const auto& [name, tensor] : plain) {
    const std::string own = "language_model." + name;
    const size_t experts = own.find("experts.");
    if (experts == std::string::npos) {
      tensors[own] = tensor;
      continue;
    }
    const std::string prefix = own.substr(0, experts) + "experts.switch_glu.";
    if (own.find("gate_up_proj") == std::string::npos) {
      tensors[prefix + "down_proj.weight"] = tensor;
      continue;
    }
    const uint64_t half = tensor.bytes.size() / tensor.shape[0] / 2;
    for (const auto& [part, matrix] :
         {std::pair{uint64_t{0}, "gate_proj.weight"}, {half, "up_proj.weight"}}) {
      Tensor& stacked = tensors[prefix + matrix];
      stacked.shape = {tensor.shape[0], tensor.shape[1] / 2, tensor.shape[2]};
      for (uint64_t e = 0; e < tensor.shape[0]; ++e) {
        const auto begin = tensor.bytes.begin() + static_cast<int64_t>(e * 2 * half + part);
        stacked.bytes.insert(stacked.bytes.end(), begin, begin + static_cast<int64_t>(half));
      }
    }
  }
  EXPECT_EQ(tensors.size(), plain.size() + 6);
  const Json outer = {{"model_type", "gemma4"}, {"text_config", config}};
  const std::vector<float> expected = logits(oracle, config, plain);
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(logits(oracle, outer, tensors), expected);
}

// With attention_k_eq_v the full layers have no v_proj: the same bits as with one that equals k_proj.
TEST_F(GemmaLayoutsTest, KeysThatAreValues) {
  const std::string oracle = data_folder("oracles/gemma4");
  Json config = formats::open_model(oracle)->config;
  Tensors tensors = read_oracle(oracle);
  const std::string full = "model.layers.5.self_attn.";
  const std::vector<float> other = logits(oracle, config, tensors);
  tensors[full + "v_proj.weight"] = tensors.at(full + "k_proj.weight");
  const std::vector<float> expected = logits(oracle, config, tensors);
  EXPECT_FALSE(expected.empty());
  EXPECT_NE(expected, other);
  tensors.erase(full + "v_proj.weight");
  config["attention_k_eq_v"] = true;
  EXPECT_EQ(logits(oracle, config, tensors), expected);
}

// Memory per token: one row of the latent and the rotated key per layer, whatever the number of heads.
TEST(LatentCache, TakesOneRowPerPositionAndLayer) {
  for (const auto& [arithmetic, element_bytes] :
       {std::pair{compute::Arithmetic::kF32, 4u}, {compute::Arithmetic::kInt8, 2u}}) {
    testing_model::LoadedModel loaded(data_folder("oracles/deepseek_v3"), 1, arithmetic,
                                      kernels::select_kernels(), false);
    ASSERT_NE(loaded.model, nullptr);
    const auto sequence = loaded.model->make_sequence(4096);
    ASSERT_TRUE(sequence->reserve(128));
    EXPECT_EQ(sequence->bytes(), uint64_t{128} * 4 * (64 + 16) * element_bytes);
  }
}

// Rolled back and continued is the same as never having seen what was taken back.
TEST(LatentCache, RollsBack) {
  const std::string folder = data_folder("oracles/deepseek_v2");
  const auto ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  testing_model::LoadedModel loaded(folder, 2, compute::Arithmetic::kInt8, kernels::select_kernels(), false);
  ASSERT_NE(loaded.model, nullptr);
  const std::vector<float> expected = testing_model::logits_of(*loaded.model, ids);
  const auto sequence = loaded.model->make_sequence(4096);
  const uint32_t vocab = loaded.model->spec().vocab;
  std::vector<float> logits(ids.size() * vocab);
  const std::vector<TokenId> others(ids.rbegin(), ids.rend());
  const model::Chunk first{sequence.get(), {ids.data(), 10}, true};
  ASSERT_TRUE(loaded.model->forward({&first, 1}, logits.data()));
  const model::Chunk wrong{sequence.get(), {others.data(), 60}, false};
  std::vector<float> unused(vocab);
  ASSERT_TRUE(loaded.model->forward({&wrong, 1}, unused.data()));
  ASSERT_TRUE(sequence->truncate(10));
  const model::Chunk rest{sequence.get(), {ids.data() + 10, ids.size() - 10}, true};
  ASSERT_TRUE(loaded.model->forward({&rest, 1}, logits.data() + 10 * vocab));
  EXPECT_EQ(logits, expected);
}

}  // namespace
}  // namespace mlxf
