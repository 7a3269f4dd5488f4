// The families of gated delta nets in the layouts of other programs, and how their sequences go back.
//
// Each oracle is rewritten as its multimodal wrapper is stored, as mlx-lm writes it and as llama.cpp's converter does
// (orders of rows and heads, transformed vectors, names), and must give the logits of the original. Rollback and failed
// passes are compared with sequences that never had them, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "oracles/testing_model.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;
using formats::FloatTensor;
using testing_model::LoadedModel;

const char* const kOracles[] = {"qwen3_next", "qwen3_5", "qwen3_5_moe"};
// Of all three.
constexpr uint32_t kKeyHeads = 2, kValueHeads = 4, kDim = 32, kLayers = 4, kExperts = 8;
constexpr uint32_t kGroup = kValueHeads / kKeyHeads, kKeyWidth = kKeyHeads * kDim;

using Tensors = std::map<std::string, FloatTensor>;
using Order = std::vector<uint32_t>;

std::string folder_of(const std::string& name) { return testing_model::data_folder("oracles/" + name); }

Tensors read_all(const std::string& name) {
  Tensors tensors;
  const std::string file = folder_of(name) + "/model.safetensors";
  const auto header = formats::read_safetensors_header(file);
  EXPECT_TRUE(header);
  for (const formats::TensorEntry& entry : *header) {
    auto tensor = formats::load_tensor_f32(file, entry.name);
    EXPECT_TRUE(tensor);
    tensors[entry.name] = *std::move(tensor);
  }
  return tensors;
}

Json config_of(const std::string& name) {
  std::ifstream stream(folder_of(name) + "/config.json");
  return Json::parse(stream);
}

bool ends_with(const std::string& name, std::string_view end) { return name.ends_with(end); }

FloatTensor rows(const FloatTensor& tensor, const Order& order) {
  FloatTensor result{tensor.shape, {}};
  result.shape[0] = order.size();
  const uint64_t width = tensor.values.size() / tensor.shape[0];
  for (const uint32_t row : order)
    result.values.insert(result.values.end(), tensor.values.begin() + static_cast<int64_t>(row * width),
                         tensor.values.begin() + static_cast<int64_t>((row + 1) * width));
  return result;
}

FloatTensor columns(const FloatTensor& tensor, const Order& order) {
  FloatTensor result = tensor;
  for (uint64_t row = 0; row < tensor.shape[0]; ++row)
    for (uint64_t i = 0; i < order.size(); ++i)
      result.values[row * order.size() + i] = tensor.values[row * order.size() + order[i]];
  return result;
}

void append(Order& order, uint32_t begin, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) order.push_back(begin + i);
}

// Heads of `dim` in llama.cpp's order: each key head's first value head, then each one's second.
Order tiled(uint32_t dim) {
  Order order;
  for (uint32_t g = 0; g < kGroup; ++g)
    for (uint32_t k = 0; k < kKeyHeads; ++k) append(order, (k * kGroup + g) * dim, dim);
  return order;
}

// q and k as they are, then the value heads tiled.
Order with_tiled_values() {
  Order order;
  append(order, 0, 2 * kKeyWidth);
  for (const uint32_t row : tiled(kDim)) order.push_back(2 * kKeyWidth + row);
  return order;
}

FloatTensor stack(const Tensors& tensors, const std::string& prefix, const std::string& matrix) {
  FloatTensor result;
  for (uint32_t e = 0; e < kExperts; ++e) {
    const FloatTensor& one = tensors.at(prefix + "experts." + std::to_string(e) + "." + matrix + ".weight");
    result.shape = {kExperts, one.shape[0], one.shape[1]};
    result.values.insert(result.values.end(), one.values.begin(), one.values.end());
  }
  return result;
}

// Replaces the experts one by one with `names`: stacked gate, up and down.
void stack_experts(Tensors& tensors, const std::string& prefix, const std::array<std::string, 3>& names) {
  if (!tensors.contains(prefix + "experts.0.up_proj.weight")) return;
  const char* const matrices[] = {"gate_proj", "up_proj", "down_proj"};
  for (size_t i = 0; i < 3; ++i) tensors[prefix + names[i]] = stack(tensors, prefix, matrices[i]);
  std::erase_if(tensors, [&](const auto& entry) {
    return entry.first.starts_with(prefix + "experts.") &&
           entry.first.find("_proj.weight") != std::string::npos;
  });
}

bool is_shifted_norm(const std::string& name) {
  return ends_with(name, "layernorm.weight") || ends_with(name, "q_norm.weight") ||
         ends_with(name, "k_norm.weight") || name == "model.norm.weight";
}

void write_folder(const fs::path& folder, const Tensors& tensors, const Json& config) {
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, DType::kF32, tensor.shape});
  auto writer = formats::SafetensorsWriter::create(folder / "model.safetensors", specs);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const auto& [name, tensor] : tensors)
    ASSERT_TRUE(writer->append(name, {reinterpret_cast<const uint8_t*>(tensor.values.data()),
                                      tensor.values.size() * sizeof(float)}));
  ASSERT_TRUE(writer->finish());
  std::ofstream(folder / "config.json") << config.dump();
}

class DeltaNetTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mlxf-delta-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    name_ = GetParam();
    const std::string file = folder_of(name_) + "/oracle.safetensors";
    ids_ = testing_model::token_ids(file, "input_ids");
    expected_ = testing_model::floats(file, "logits");
  }
  void TearDown() override { fs::remove_all(folder_); }
  void expect_the_same_logits(const std::string& path) const {
    const LoadedModel loaded(path, 1, compute::Arithmetic::kF32, kernels::select_kernels(), true);
    ASSERT_NE(loaded.model, nullptr);
    EXPECT_LE(testing_model::relative_error(testing_model::logits_of(*loaded.model, ids_), expected_), 2e-5);
  }
  // 200 tokens, across borders of the state.
  [[nodiscard]] std::vector<TokenId> long_text() const {
    std::vector<TokenId> ids;
    while (ids.size() < 200) ids.push_back(ids_[ids.size() * 7 % ids_.size()]);
    return ids;
  }

  fs::path folder_;
  std::string name_;
  std::vector<TokenId> ids_;
  std::vector<float> expected_;
};

// model.language_model., text_config, fused experts, and layers for the prediction of further tokens.
TEST_P(DeltaNetTest, LoadsAsTheWrapperStoresIt) {
  Tensors renamed;
  for (Tensors tensors = read_all(name_); auto& [name, tensor] : tensors) {
    const bool inside = name.starts_with("model.");
    renamed[inside ? "model.language_model." + name.substr(6) : name] = std::move(tensor);
  }
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string mlp = "model.language_model.layers." + std::to_string(i) + ".mlp.";
    stack_experts(renamed, mlp, {"gate", "up", "experts.down_proj"});
    if (!renamed.contains(mlp + "experts.down_proj")) continue;
    const FloatTensor gate = renamed[mlp + "gate"], up = renamed[mlp + "up"];
    FloatTensor fused{{kExperts, 2 * gate.shape[1], gate.shape[2]}, {}};
    const auto size = static_cast<int64_t>(gate.shape[1] * gate.shape[2]);
    for (int64_t e = 0; e < kExperts; ++e)
      for (const FloatTensor* half : {&gate, &up})
        fused.values.insert(fused.values.end(), half->values.begin() + e * size,
                            half->values.begin() + (e + 1) * size);
    renamed[mlp + "experts.gate_up_proj"] = fused;
    renamed.erase(mlp + "gate");
    renamed.erase(mlp + "up");
  }
  renamed["mtp.layers.0.self_attn.q_proj.weight"] = {{2, 2}, {1, 2, 3, 4}};
  renamed["model.visual.patch_embed.proj.weight"] = {{2, 2}, {1, 2, 3, 4}};
  write_folder(folder_, renamed, Json{{"model_type", "qwen3_5"}, {"text_config", config_of(name_)}});
  expect_the_same_logits(folder_);
}

TEST_P(DeltaNetTest, LoadsAsMlxWritesIt) {
  Tensors renamed;
  for (Tensors tensors = read_all(name_); auto& [name, tensor] : tensors) {
    if (is_shifted_norm(name))
      for (float& value : tensor.values) value += 1.0f;
    if (ends_with(name, "conv1d.weight")) std::swap(tensor.shape[1], tensor.shape[2]);
    const bool wrapped = name_ != "qwen3_next";
    renamed[(wrapped ? "language_model." : "") + name] = std::move(tensor);
  }
  for (uint32_t i = 0; i < kLayers; ++i)
    for (const char* prefix : {"model.layers.", "language_model.model.layers."})
      stack_experts(
          renamed, prefix + std::to_string(i) + ".mlp.",
          {"switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight", "switch_mlp.down_proj.weight"});
  write_folder(folder_, renamed, config_of(name_));
  expect_the_same_logits(folder_);
}

// ---- as llama.cpp's converter writes it ----

// Row orders of qwen3_next's projection by key head.
Order rows_of_part(uint32_t begin, uint32_t count) {
  Order order;
  constexpr uint32_t kPerKeyHead = 2 * kDim + 2 * kGroup * kDim;
  for (uint32_t h = 0; h < kKeyHeads; ++h) append(order, h * kPerKeyHead + begin, count);
  return order;
}

using Transform = std::function<FloatTensor(FloatTensor)>;
struct GgufTensor {
  const char* hf;
  const char* gguf;
  Transform transform;
};

FloatTensor each(FloatTensor tensor, const std::function<float(float)>& f) {
  for (float& value : tensor.values) value = f(value);
  return tensor;
}

std::vector<GgufTensor> gguf_layer_tensors(const std::string& name) {
  const bool next = name == "qwen3_next";
  const auto same = [](FloatTensor t) { return t; };
  const auto shifted = [](FloatTensor t) { return each(std::move(t), [](float x) { return x + 1.0f; }); };
  const auto heads = [next](uint32_t dim) -> Transform {
    return [=](FloatTensor t) { return next ? t : rows(t, tiled(dim)); };
  };
  const auto flat = [](FloatTensor t) {
    t.shape = {t.values.size()};
    return t;
  };
  Order qkv = rows_of_part(0, kDim);
  for (const Order& part : {rows_of_part(kDim, kDim), rows_of_part(2 * kDim, kGroup * kDim)})
    qkv.insert(qkv.end(), part.begin(), part.end());
  const Order z = rows_of_part(2 * kDim + kGroup * kDim, kGroup * kDim);
  return {
      {"input_layernorm.weight", "attn_norm.weight", shifted},
      {"post_attention_layernorm.weight", "post_attention_norm.weight", shifted},
      {"self_attn.q_proj.weight", "attn_q.weight", same},
      {"self_attn.k_proj.weight", "attn_k.weight", same},
      {"self_attn.v_proj.weight", "attn_v.weight", same},
      {"self_attn.o_proj.weight", "attn_output.weight", same},
      {"self_attn.q_norm.weight", "attn_q_norm.weight", shifted},
      {"self_attn.k_norm.weight", "attn_k_norm.weight", shifted},
      {"linear_attn.in_proj_qkvz.weight", "attn_qkv.weight", [=](FloatTensor t) { return rows(t, qkv); }},
      {"linear_attn.in_proj_qkvz.weight", "attn_gate.weight", [=](FloatTensor t) { return rows(t, z); }},
      {"linear_attn.in_proj_ba.weight", "ssm_ba.weight", same},
      {"linear_attn.in_proj_qkv.weight", "attn_qkv.weight",
       [](FloatTensor t) { return rows(t, with_tiled_values()); }},
      {"linear_attn.in_proj_z.weight", "attn_gate.weight", heads(kDim)},
      {"linear_attn.in_proj_b.weight", "ssm_beta.weight", heads(1)},
      {"linear_attn.in_proj_a.weight", "ssm_alpha.weight", heads(1)},
      {"linear_attn.conv1d.weight", "ssm_conv1d.weight",
       [next](FloatTensor t) {
         t.shape = {t.shape[0], t.shape[2]};
         return next ? t : rows(t, with_tiled_values());
       }},
      {"linear_attn.dt_bias", "ssm_dt.bias", heads(1)},
      {"linear_attn.A_log", "ssm_a",
       [=](FloatTensor t) { return each(heads(1)(std::move(t)), [](float x) { return -std::exp(x); }); }},
      {"linear_attn.norm.weight", "ssm_norm.weight", same},
      {"linear_attn.out_proj.weight", "ssm_out.weight",
       [next](FloatTensor t) { return next ? t : columns(t, tiled(kDim)); }},
      {"mlp.gate_proj.weight", "ffn_gate.weight", same},
      {"mlp.up_proj.weight", "ffn_up.weight", same},
      {"mlp.down_proj.weight", "ffn_down.weight", same},
      {"mlp.gate.weight", "ffn_gate_inp.weight", same},
      {"mlp.gate_exps", "ffn_gate_exps.weight", same},
      {"mlp.up_exps", "ffn_up_exps.weight", same},
      {"mlp.down_exps", "ffn_down_exps.weight", same},
      {"mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", same},
      {"mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", same},
      {"mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", same},
      {"mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", flat},
  };
}

formats::GgufPairs gguf_metadata(const std::string& name) {
  const std::string arch = name == "qwen3_next" ? "qwen3next" : name == "qwen3_5" ? "qwen35" : "qwen35moe";
  formats::GgufPairs pairs = {{"general.architecture", arch}, {"tokenizer.ggml.model", std::string("none")}};
  const auto add = [&](const char* key, formats::GgufValue value) {
    pairs.emplace_back(arch + "." + key, std::move(value));
  };
  const std::pair<const char*, uint32_t> counts[] = {
      {"block_count", kLayers + 1},  // One of them predicts further tokens.
      {"nextn_predict_layers", 1},
      {"context_length", 4096},
      {"embedding_length", 64},
      {"feed_forward_length", 128},
      {"attention.head_count", 4},
      {"attention.head_count_kv", 2},
      {"attention.key_length", kDim},
      {"attention.value_length", kDim},
      {"rope.dimension_count", 8},
      {"full_attention_interval", 4},
      {"ssm.conv_kernel", 4},
      {"ssm.state_size", kDim},
      {"ssm.group_count", kKeyHeads},
      {"ssm.time_step_rank", kValueHeads},
      {"ssm.inner_size", kValueHeads * kDim},
      {"vocab_size", 256}};
  for (const auto& [key, value] : counts) add(key, value);
  if (name != "qwen3_5") {
    add("expert_count", kExperts);
    add("expert_used_count", uint32_t{2});
    add("expert_feed_forward_length", uint32_t{64});
    add("expert_shared_feed_forward_length", uint32_t{64});
  }
  add("rope.freq_base", 10000.0f);
  add("attention.layer_norm_rms_epsilon", 1e-5f);
  if (name != "qwen3_next") add("rope.dimension_sections", std::vector<int32_t>{11, 11, 10, 0});
  return pairs;
}

Tensors gguf_tensors(const std::string& name) {
  Tensors tensors = read_all(name), result;
  const auto shifted = [](FloatTensor t) { return each(std::move(t), [](float x) { return x + 1.0f; }); };
  result["token_embd.weight"] = tensors.at("model.embed_tokens.weight");
  result["output.weight"] = tensors.at("lm_head.weight");
  result["output_norm.weight"] = shifted(tensors.at("model.norm.weight"));
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    stack_experts(tensors, layer + "mlp.", {"gate_exps", "up_exps", "down_exps"});
    for (const GgufTensor& tensor : gguf_layer_tensors(name))
      if (const auto found = tensors.find(layer + tensor.hf); found != tensors.end())
        result["blk." + std::to_string(i) + "." + tensor.gguf] = tensor.transform(found->second);
  }
  return result;
}

TEST_P(DeltaNetTest, LoadsAsLlamaCppWritesIt) {
  const Tensors tensors = gguf_tensors(name_);
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, DType::kF32, tensor.shape});
  const fs::path file = folder_ / "model.gguf";
  auto writer = formats::GgufWriter::create(file, gguf_metadata(name_), specs);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const auto& [name, tensor] : tensors)
    ASSERT_TRUE(writer->append(name, {reinterpret_cast<const uint8_t*>(tensor.values.data()),
                                      tensor.values.size() * sizeof(float)}));
  ASSERT_TRUE(writer->finish());
  expect_the_same_logits(file);
}

// ---- going back ----

TEST_P(DeltaNetTest, GoesBackToABorderAndOnWithTheSameBits) {
  const LoadedModel loaded(folder_of(name_), 2, compute::Arithmetic::kInt8, kernels::select_kernels(), true);
  ASSERT_NE(loaded.model, nullptr);
  const std::vector<TokenId> ids = long_text();
  const uint32_t vocab = loaded.model->spec().vocab;
  const std::vector<float> expected = testing_model::logits_of(*loaded.model, ids);
  EXPECT_EQ(testing_model::logits_of(*loaded.model, ids, {130, 1}), expected);
  const auto sequence = loaded.model->make_sequence(4096);
  std::vector<float> logits(expected.size());
  const auto feed = [&](const std::vector<TokenId>& text, uint32_t begin, uint32_t end) {
    const model::Chunk chunk{sequence.get(), {text.data() + begin, end - begin}, true};
    const Status status = loaded.model->forward({&chunk, 1}, logits.data() + uint64_t{begin} * vocab);
    ASSERT_TRUE(status) << status.error().message;
  };
  std::vector<TokenId> wrong = ids;
  for (size_t i = 145; i < wrong.size(); ++i) wrong[i] = (wrong[i] + 1) % 256;
  feed(wrong, 0, 180);
  EXPECT_FALSE(sequence->truncate(145)) << "no state is kept there";
  EXPECT_EQ(sequence->length(), 180u);
  EXPECT_EQ(sequence->truncatable(145), 128u);
  ASSERT_TRUE(sequence->truncate(128));
  feed(ids, 128, 131);
  feed(ids, 131, 200);
  EXPECT_EQ(logits, expected);
  EXPECT_EQ(sequence->truncatable(191), 128u);
  EXPECT_EQ(sequence->truncatable(127), 0u) << "that border is no longer kept";
  ASSERT_TRUE(sequence->truncate(0));
  std::fill(logits.begin(), logits.end(), 0.0f);
  feed(ids, 0, 200);
  EXPECT_EQ(logits, expected);
}

INSTANTIATE_TEST_SUITE_P(Families, DeltaNetTest, testing::ValuesIn(kOracles),
                         [](const auto& parameter) { return std::string(parameter.param); });

}  // namespace
}  // namespace mlxf
