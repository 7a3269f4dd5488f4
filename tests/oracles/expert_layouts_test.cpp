// The oracles of gpt_oss, glm4_moe, minimax_m2 and llama4 in the other layouts that their weights are published in: the
// tensors of tests/data/oracles under the names and in the shapes of mlx-lm and of llama.cpp, with the metadata that
// llama.cpp's converter writes, and gpt-oss's mxfp4 as it is shipped. The logits must be the same in all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "model/families/families.h"
#include "model/weight_stream.h"
#include "oracles/checkpoint_tensors.h"
#include "oracles/testing_model.h"
#include "storage/open_storage.h"
#include "tensor/float16.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;
using compute::Arithmetic;
using formats::GgufPairs;
using testing_model::data_folder;
using testing_model::specs_of;
using testing_model::Tensor;
using testing_model::Tensors;
using testing_model::write_all;

// [slices, in, out] to [slices, rows, in], the rows first, first + step … of the transposed slices.
Tensor transposed(const Tensor& tensor, uint64_t first, uint64_t step, uint64_t rows) {
  const uint64_t slices = tensor.shape[0], in = tensor.shape[1], out = tensor.shape[2];
  Tensor result{{slices, rows, in}, std::vector<uint8_t>(slices * rows * in * 2)};
  for (uint64_t s = 0; s < slices; ++s)
    for (uint64_t r = 0; r < rows; ++r)
      for (uint64_t i = 0; i < in; ++i)
        std::copy_n(tensor.bytes.data() + ((s * in + i) * out + first + r * step) * 2, 2,
                    result.bytes.data() + ((s * rows + r) * in + i) * 2);
  return result;
}

// Every second value.
Tensor alternate(const Tensor& tensor, uint64_t first) {
  Tensor result{{tensor.shape[0], tensor.shape[1] / 2}, {}};
  for (uint64_t i = first; i < tensor.shape[0] * tensor.shape[1]; i += 2)
    result.bytes.insert(result.bytes.end(), tensor.bytes.data() + i * 2, tensor.bytes.data() + i * 2 + 2);
  return result;
}

// As mlx-lm's converter sanitises them.
Tensors mlx_tensors(const Tensors& tensors) {
  Tensors result;
  const auto ends = [](const std::string& name, const char* end) { return name.ends_with(end); };
  for (const auto& [name, tensor] : tensors) {
    const std::string stem = name.substr(0, name.find("gate_up_proj"));
    if (ends(name, "experts.gate_up_proj")) {
      const uint64_t width = tensor.shape[2] / 2;
      const bool alternates = name.find("feed_forward") == std::string::npos;  // gpt_oss
      result[stem + "gate_proj.weight"] = transposed(tensor, 0, alternates ? 2 : 1, width);
      result[stem + "up_proj.weight"] = transposed(tensor, alternates ? 1 : width, alternates ? 2 : 1, width);
    } else if (ends(name, "experts.down_proj")) {
      result[name + ".weight"] = transposed(tensor, 0, 1, tensor.shape[2]);
    } else if (ends(name, "gate_up_proj_bias")) {
      result[stem + "gate_proj.bias"] = alternate(tensor, 0);
      result[stem + "up_proj.bias"] = alternate(tensor, 1);
    } else if (ends(name, "down_proj_bias")) {
      result[name.substr(0, name.size() - 5) + ".bias"] = tensor;
    } else if (const size_t at = name.find("experts.0."); at != std::string::npos) {
      const std::string prefix = name.substr(0, at), matrix = name.substr(at + 10, name.rfind('.') - at - 10);
      const std::string called = matrix == "w1"   ? "gate_proj"
                                 : matrix == "w2" ? "down_proj"
                                 : matrix == "w3" ? "up_proj"
                                                  : matrix;
      result[prefix + "switch_mlp." + called + ".weight"] = testing_model::stack(tensors, prefix, matrix);
    } else if (name.find(".experts.") == std::string::npos) {
      result[name] = tensor;
    }
  }
  return result;
}

std::string gguf_name(std::string name, bool post_norm) {
  const std::pair<const char*, const char*> kNames[] = {
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"model.layers.", "blk."},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", post_norm ? "post_attention_norm" : "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.sinks", "attn_sinks.weight"},
      {"block_sparse_moe.", "mlp."},
      {"feed_forward.", "mlp."},
      {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
      {"mlp.e_score_correction_bias", "exp_probs_b.bias"},
      {"mlp.gate.", "ffn_gate_inp."},
      {"mlp.router.", "ffn_gate_inp."},
      {"mlp.switch_mlp.", "mlp.experts."},
      {"mlp.experts.gate_proj", "ffn_gate_exps"},
      {"mlp.experts.up_proj", "ffn_up_exps"},
      {"mlp.experts.down_proj", "ffn_down_exps"},
      {"mlp.shared_experts.", "mlp.shared_expert."},
      {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
      {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
      {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
  };
  for (const auto& [hub, gguf] : kNames)
    if (const size_t at = name.find(hub); at != std::string::npos)
      name.replace(at, std::string(hub).size(), gguf);
  return name;
}

// What llama.cpp's converter writes.
GgufPairs gguf_metadata(const std::string& family, const Json& config) {
  const std::string architecture = family == "gpt_oss"      ? "gpt-oss"
                                   : family == "glm4_moe"   ? "glm4moe"
                                   : family == "minimax_m2" ? "minimax-m2"
                                                            : "llama4";
  GgufPairs pairs{{"general.architecture", architecture}};
  const auto count = [&](const std::string& key, uint32_t value) {
    pairs.push_back({architecture + "." + key, value});
  };
  const auto number = [&](const std::string& key, float value) {
    pairs.push_back({architecture + "." + key, value});
  };
  const auto field = [&](const char* name) { return config[name].get<uint32_t>(); };
  count("block_count", field("num_hidden_layers") + (family == "glm4_moe" ? 1 : 0));
  count("context_length", field("max_position_embeddings"));
  count("embedding_length", field("hidden_size"));
  count("feed_forward_length", field(family == "llama4" ? "intermediate_size_mlp" : "intermediate_size"));
  count("expert_feed_forward_length",
        field(family == "glm4_moe" ? "moe_intermediate_size" : "intermediate_size"));
  count("attention.head_count", field("num_attention_heads"));
  count("attention.head_count_kv", field("num_key_value_heads"));
  count("attention.key_length", field("head_dim"));
  count("attention.value_length", field("head_dim"));
  number("attention.layer_norm_rms_epsilon", config["rms_norm_eps"]);
  number("rope.freq_base", config["rope_parameters"]["rope_theta"]);
  count("rope.dimension_count", field("head_dim") / (family == "glm4_moe" ? 2 : 1));
  count("expert_count", field(family == "glm4_moe" ? "n_routed_experts" : "num_local_experts"));
  count("expert_used_count", field("num_experts_per_tok"));
  if (family == "gpt_oss") {
    count("attention.sliding_window", field("sliding_window"));
    pairs.push_back({architecture + ".rope.scaling.type", std::string("yarn")});
    number("rope.scaling.factor", config["rope_parameters"]["factor"]);
    count("rope.scaling.original_context_length",
          config["rope_parameters"]["original_max_position_embeddings"]);
    number("rope.scaling.yarn_beta_fast", 32.0f);
    number("rope.scaling.yarn_beta_slow", 1.0f);
  } else if (family == "glm4_moe") {
    count("nextn_predict_layers", 1);
    count("expert_shared_count", field("n_shared_experts"));
    count("leading_dense_block_count", field("first_k_dense_replace"));
    count("expert_group_count", field("n_group"));
    count("expert_group_used_count", field("topk_group"));
    count("expert_gating_func", 2);
    number("expert_weights_scale", config["routed_scaling_factor"]);
    pairs.push_back({architecture + ".expert_weights_norm", config["norm_topk_prob"] == true});
  } else if (family == "minimax_m2") {
    count("expert_gating_func", 2);
  } else {
    count("interleave_moe_layer_step", field("interleave_moe_layer_step"));
  }
  return pairs;
}

class ExpertLayoutsTest : public testing::TestWithParam<const char*> {
 protected:
  const std::string family_ = GetParam();
  const std::string oracle_ = data_folder("oracles/" + family_);
  const std::string scratch_ = testing::TempDir() + "expert_layouts_" + family_;
  const std::vector<TokenId> ids_ = testing_model::token_ids(oracle_ + "/oracle.safetensors", "input_ids");
  const Tensors tensors_ = testing_model::read_oracle(oracle_);
  Json config_;

  void SetUp() override {
    fs::remove_all(scratch_);
    fs::create_directories(scratch_);
    const auto manifest = formats::open_model(oracle_);
    ASSERT_TRUE(manifest);
    config_ = manifest->config;
  }
  void TearDown() override { fs::remove_all(scratch_); }

  [[nodiscard]] std::string write_folder(const std::string& name, const Tensors& tensors,
                                         const Json& config) const {
    const std::string folder = scratch_ + "/" + name;
    fs::create_directories(folder);
    const auto specs = specs_of(tensors);
    write_all(formats::SafetensorsWriter::create(folder + "/model.safetensors", specs), specs, tensors);
    std::ofstream(folder + "/config.json") << dump_json(config);
    return folder;
  }
  [[nodiscard]] std::string write_gguf(const Tensors& mlx, const Json& config) const {
    Tensors tensors;
    const bool post_norm = family_ == "gpt_oss" || family_ == "glm4_moe";
    for (const auto& [name, tensor] : mlx) tensors[gguf_name(name, post_norm)] = tensor;
    const auto specs = specs_of(tensors);
    const std::string path = scratch_ + "/model.gguf";
    write_all(formats::GgufWriter::create(path, gguf_metadata(family_, config), specs), specs, tensors);
    return path;
  }
  [[nodiscard]] std::vector<float> logits(const std::string& path,
                                          Arithmetic arithmetic = Arithmetic::kF32) const {
    testing_model::LoadedModel loaded(path, 2, arithmetic, kernels::select_kernels(), true);
    return loaded.model == nullptr ? std::vector<float>{} : testing_model::logits_of(*loaded.model, ids_);
  }
  void expect_reference_logits(const std::string& path) const {
    const auto expected = testing_model::floats(oracle_ + "/oracle.safetensors", "logits");
    EXPECT_LE(testing_model::relative_error(logits(path), expected), 2e-5);
  }
};

TEST_P(ExpertLayoutsTest, MlxNames) {
  expect_reference_logits(write_folder("mlx", mlx_tensors(tensors_), config_));
}

// Text models inside of multimodal checkpoints.
TEST_P(ExpertLayoutsTest, Wrapped) {
  Tensors wrapped;
  for (const auto& [name, tensor] : tensors_) wrapped["language_model." + name] = tensor;
  expect_reference_logits(
      write_folder("wrapped", wrapped, {{"model_type", family_}, {"text_config", config_}}));
}

TEST_P(ExpertLayoutsTest, Gguf) {
  if (family_ != "llama4") return expect_reference_logits(write_gguf(mlx_tensors(tensors_), config_));
  // llama.cpp has no key for the length of chunks and what temperatures begin at: they are the published models'.
  Json config = config_;
  config["attention_chunk_size"] = config["floor_scale"] = 8192;
  const auto expected = logits(write_folder("chunks", tensors_, config));
  EXPECT_GT(testing_model::relative_error(expected, logits(oracle_)), 1e-3);
  EXPECT_LE(testing_model::relative_error(logits(write_gguf(mlx_tensors(tensors_), config)), expected), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Families, ExpertLayoutsTest,
                         testing::Values("gpt_oss", "glm4_moe", "minimax_m2", "llama4"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- mxfp4 ----

// A matrix in mxfp4: a byte for two elements, and one scale for 32.
struct Mxfp4 {
  uint64_t experts, rows, cols;
  std::vector<uint8_t> blocks, scales;

  Mxfp4(uint64_t expert_count, uint64_t row_count, uint64_t col_count, uint32_t& random)
      : experts(expert_count), rows(row_count), cols(col_count) {
    const auto next = [&random] { return random = random * 1664525u + 1013904223u, random >> 24; };
    for (uint64_t i = 0; i < experts * rows * cols / 2; ++i) blocks.push_back(static_cast<uint8_t>(next()));
    for (uint64_t i = 0; i < experts * rows * cols / 32; ++i)
      scales.push_back(static_cast<uint8_t>(120 + next() % 4));
  }
  [[nodiscard]] float value(uint64_t row, uint64_t col) const {
    constexpr float kValues[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    const uint64_t at = row * cols + col;
    const int code = blocks[at / 2] >> (at % 2 * 4) & 15;
    return std::ldexp(code < 8 ? kValues[code] : -kValues[code - 8], scales[at / 32] - 127);
  }
  // [experts, cols, rows] in bf16, which holds every value.
  [[nodiscard]] Tensor plain() const {
    Tensor tensor{{experts, cols, rows}, {}};
    for (uint64_t e = 0; e < experts; ++e)
      for (uint64_t col = 0; col < cols; ++col)
        for (uint64_t row = 0; row < rows; ++row) {
          const uint16_t half = bf16_from_f32(value(e * rows + row, col));
          tensor.bytes.insert(tensor.bytes.end(),
                              {static_cast<uint8_t>(half), static_cast<uint8_t>(half >> 8)});
        }
    return tensor;
  }
  // Rows first, first + step … of every expert, as MLX (u32) or llama.cpp (scale, then both halves of 32) write them.
  [[nodiscard]] Mxfp4 every(uint64_t first, uint64_t step) const {
    Mxfp4 part = *this;
    part.rows = rows / step;
    part.blocks.clear();
    part.scales.clear();
    for (uint64_t row = first; row < experts * rows; row += step) {
      part.blocks.insert(part.blocks.end(), blocks.data() + row * cols / 2,
                         blocks.data() + (row + 1) * cols / 2);
      part.scales.insert(part.scales.end(), scales.data() + row * cols / 32,
                         scales.data() + (row + 1) * cols / 32);
    }
    return part;
  }
  [[nodiscard]] Tensor gguf() const {
    Tensor tensor{{experts, rows, cols}, {}, DType::kMXFP4};
    for (size_t group = 0; group < scales.size(); ++group) {
      tensor.bytes.push_back(scales[group]);
      const auto code = [&](size_t i) { return blocks[group * 16 + i / 2] >> (i % 2 * 4) & 15; };
      for (size_t i = 0; i < 16; ++i)
        tensor.bytes.push_back(static_cast<uint8_t>(code(i) | code(i + 16) << 4));
    }
    return tensor;
  }
};

struct GptOssMxfp4Test : ExpertLayoutsTest {};

TEST_P(GptOssMxfp4Test, AsShippedIsWhatItsValuesAre) {
  Tensors plain = tensors_, shipped = tensors_, mlx, gguf;
  uint32_t random = 1;
  for (const auto& [name, tensor] : tensors_) {
    const bool gate_up = name.ends_with("experts.gate_up_proj");
    if (!gate_up && !name.ends_with("experts.down_proj")) continue;
    const Mxfp4 codes(tensor.shape[0], tensor.shape[2], tensor.shape[1], random);
    plain[name] = codes.plain();
    shipped.erase(name);
    shipped[name + "_blocks"] = {{codes.experts, codes.rows, codes.cols / 32, 16}, codes.blocks, DType::kU8};
    shipped[name + "_scales"] = {{codes.experts, codes.rows, codes.cols / 32}, codes.scales, DType::kU8};
    const std::string stem = name.substr(0, name.rfind('.') + 1);
    for (uint64_t i = 0; i < (gate_up ? 2u : 1u); ++i) {
      const Mxfp4 part = gate_up ? codes.every(i, 2) : codes;
      const std::string matrix = stem + (!gate_up ? "down_proj" : i == 0 ? "gate_proj" : "up_proj");
      mlx[matrix + ".weight"] = {{part.experts, part.rows, part.cols / 8}, part.blocks, DType::kU32};
      mlx[matrix + ".scales"] = {{part.experts, part.rows, part.cols / 32}, part.scales, DType::kU8};
      gguf[matrix + ".weight"] = part.gguf();
    }
  }
  for (const auto& [name, tensor] : mlx_tensors(tensors_)) {
    mlx.try_emplace(name, tensor);
    gguf.try_emplace(name, tensor);
  }
  const std::vector<float> expected = logits(write_folder("plain", plain, config_));
  const std::string folder = write_folder("shipped", shipped, config_);
  EXPECT_LE(testing_model::relative_error(logits(folder), expected), 1e-5);
  EXPECT_LE(testing_model::relative_error(logits(write_gguf(gguf, config_)), expected), 1e-5);
  Json quantised = config_;
  quantised["quantization"] = {{"group_size", 32}, {"bits", 4}, {"mode", "mxfp4"}};
  const std::vector<float> coarse = logits(folder, Arithmetic::kInt8);
  EXPECT_EQ(logits(write_folder("mlx", mlx, quantised), Arithmetic::kInt8), coarse);

  // Streamed, gate and up of an expert come from the same bytes.
  const auto manifest = formats::open_model(folder);
  ASSERT_TRUE(manifest);
  const auto spec = model::make_spec(*manifest);
  ASSERT_TRUE(spec);
  const auto sizes = model::measure_weights(*manifest, *spec, storage::Storage::kAlign);
  ASSERT_TRUE(sizes);
  compute::ThreadPool pool(1);
  compute::Cpu cpu(kernels::select_kernels(), pool, {.arithmetic = Arithmetic::kInt8});
  auto storage = storage::open_storage({});
  ASSERT_TRUE(storage);
  const auto streamed = model::Model::load(*manifest, cpu,
                                           {.memory = {.storage = storage->get(),
                                                       .weight_bytes = sizes->floor(),
                                                       .granule_bytes = storage::Storage::kAlign},
                                            .bf16_rope_frequencies = true});
  ASSERT_TRUE(streamed) << streamed.error().message;
  ASSERT_NE((*streamed)->weight_cache(), nullptr);
  EXPECT_EQ(testing_model::logits_of(**streamed, ids_, {9}), coarse);
  EXPECT_GT((*streamed)->weight_cache()->stats().misses, 40u);
}

INSTANTIATE_TEST_SUITE_P(GptOss, GptOssMxfp4Test, testing::Values("gpt_oss"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- caches that forget ----

// Chunks give their memory back once a rollback can no longer reach them, and rolling back gives the same bits.
TEST(ChunkedCache, FreesWhatIsBehindAndRollsBack) {
  const std::string folder = data_folder("oracles/llama4");
  auto ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  while (ids.size() < 400) ids.push_back(static_cast<TokenId>(ids[ids.size() - 72] * 7 % 251));
  testing_model::LoadedModel loaded(folder, 2, Arithmetic::kInt8, kernels::select_kernels(), false);
  ASSERT_NE(loaded.model, nullptr);
  const std::vector<float> expected = testing_model::logits_of(*loaded.model, ids);
  EXPECT_EQ(testing_model::logits_of(*loaded.model, ids, {1}), expected);
  const auto sequence = loaded.model->make_sequence(4096);
  const uint32_t vocab = loaded.model->spec().vocab;
  std::vector<float> logits(ids.size() * vocab), unused(vocab);
  const std::vector<TokenId> others(ids.rbegin(), ids.rend());
  const model::Chunk first{sequence.get(), {ids.data(), 330}, true};
  ASSERT_TRUE(loaded.model->forward({&first, 1}, logits.data()));
  // Of three chunked layers the two pages that a rollback of 64 positions needs, of the full one all six.
  const uint64_t page = uint64_t{2} * 2 * 64 * 32 * 2;
  EXPECT_EQ(sequence->bytes(), (3 * 2 + 6) * page);
  const model::Chunk wrong{sequence.get(), {others.data(), 60}, false};
  ASSERT_TRUE(loaded.model->forward({&wrong, 1}, unused.data()));
  EXPECT_FALSE(sequence->truncate(200));
  ASSERT_TRUE(sequence->truncate(330));
  const model::Chunk rest{sequence.get(), {ids.data() + 330, ids.size() - 330}, true};
  ASSERT_TRUE(loaded.model->forward({&rest, 1}, logits.data() + uint64_t{330} * vocab));
  EXPECT_EQ(logits, expected);
}

}  // namespace
}  // namespace mlxf
