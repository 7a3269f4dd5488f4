// What the comparisons with other programs share: a loaded model with all that it borrows, its logits, and the
// measures of how far two sets of logits are apart.
//
// For tests alone, one thread. Logits are row-major f32 [tokens, vocab]; failures to load are test failures.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compute/cpu.h"
#include "formats/manifest.h"
#include "formats/safetensors_reader.h"
#include "kernels/kernel_table.h"
#include "model/model.h"

namespace mlxf::testing_model {

inline std::string data_folder(const std::string& name) {
  return std::string(MLXF_SOURCE_DIR) + "/tests/data/" + name;
}

struct LoadedModel {
  formats::ModelManifest manifest;
  compute::ThreadPool pool;
  compute::Cpu cpu;
  std::unique_ptr<model::Model> model;  // Null when loading failed, which is a test failure already.

  LoadedModel(const std::string& path, uint32_t threads, compute::Arithmetic arithmetic,
              const kernels::KernelTable& kernels, bool bf16_rope_frequencies)
      : pool(threads), cpu(kernels, pool, {.arithmetic = arithmetic}) {
    auto opened = formats::open_model(path);
    if (!opened) {
      ADD_FAILURE() << opened.error().message;
      return;
    }
    manifest = std::move(*opened);
    auto loaded = model::Model::load(manifest, cpu, {.bf16_rope_frequencies = bf16_rope_frequencies});
    if (!loaded) ADD_FAILURE() << loaded.error().message;
    if (loaded) model = std::move(*loaded);
  }
};

// The logits of `ids`, fed in pieces of the given sizes (the last one repeats).
inline std::vector<float> logits_of(model::Model& model, const std::vector<TokenId>& ids,
                                    const std::vector<uint32_t>& pieces = {512}) {
  const auto sequence = model.make_sequence(4096);
  const uint32_t vocab = model.spec().vocab;
  std::vector<float> logits(ids.size() * vocab);
  size_t at = 0;
  for (size_t i = 0; at < ids.size(); ++i) {
    const size_t n = std::min<size_t>(pieces[std::min(i, pieces.size() - 1)], ids.size() - at);
    const model::Chunk chunk{sequence.get(), {ids.data() + at, n}, true};
    const auto status = model.forward({&chunk, 1}, logits.data() + at * vocab);
    EXPECT_TRUE(status) << status.error().message;
    at += n;
  }
  return logits;
}

// Logits of `ids` and the experts that each of them was sent to, layer by layer, in no particular order of rank.
struct RoutedLogits {
  std::vector<float> logits;
  std::vector<std::vector<int32_t>> experts;  // [token]; empty where no layer routes.
};

inline RoutedLogits routed_logits_of(model::Model& model, const std::vector<TokenId>& ids) {
  RoutedLogits result;
  result.experts.resize(ids.size());
  model.observe_routing([&](uint32_t, uint32_t row, std::span<const int32_t> experts) {
    std::vector<int32_t> sorted(experts.begin(), experts.end());
    std::sort(sorted.begin(), sorted.end());
    result.experts[row].insert(result.experts[row].end(), sorted.begin(), sorted.end());
  });
  result.logits = logits_of(model, ids);
  return result;
}

inline std::vector<TokenId> token_ids(const std::string& file, const std::string& tensor) {
  const auto bytes = formats::read_safetensors_tensor(file, tensor);
  if (!bytes) {
    ADD_FAILURE() << bytes.error().message;
    return {};
  }
  std::vector<TokenId> values(bytes->size() / sizeof(TokenId));
  std::copy_n(bytes->data(), bytes->size(), reinterpret_cast<uint8_t*>(values.data()));
  return values;
}

inline std::vector<float> floats(const std::string& file, const std::string& tensor) {
  auto values = formats::load_tensor_f32(file, tensor);
  if (!values) {
    ADD_FAILURE() << values.error().message;
    return {};
  }
  return std::move(values->values);
}

// The largest difference, as a share of the largest expected value.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  if (got.size() != expected.size()) return HUGE_VAL;
  double error = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::fabs(static_cast<double>(got[i]) - expected[i]));
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return error / largest;
}

struct Closeness {
  double mean_kl = HUGE_VAL;  // KL(expected || got) in nats, over rows.
  double same_top1 = 0;       // Share of rows with the same largest logit.
  // The largest lead that `expected` gives its own choice over ours, where the two differ.
  double largest_gap = 0;
};

inline double log_sum_exp(const float* row, size_t n) {
  const double largest = *std::max_element(row, row + n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(row[i] - largest);
  return largest + std::log(sum);
}

// The rows [0, rows) for which `keep` is set, or all when it is empty.
inline Closeness compare(const std::vector<float>& got, const std::vector<float>& expected, size_t vocab,
                         const std::vector<bool>& keep = {}) {
  Closeness result;
  EXPECT_EQ(got.size(), expected.size());
  if (got.size() != expected.size() || got.empty()) return result;
  const size_t rows = expected.size() / vocab;
  double kl = 0;
  size_t same = 0;
  size_t compared = 0;
  for (size_t row = 0; row < rows; ++row) {
    if (!keep.empty() && !keep[row]) continue;
    ++compared;
    const float* ours = got.data() + row * vocab;
    const float* theirs = expected.data() + row * vocab;
    const double our_sum = log_sum_exp(ours, vocab);
    const double their_sum = log_sum_exp(theirs, vocab);
    for (size_t i = 0; i < vocab; ++i)
      kl += std::exp(theirs[i] - their_sum) * ((theirs[i] - their_sum) - (ours[i] - our_sum));
    const auto our_best = std::max_element(ours, ours + vocab) - ours;
    const auto their_best = std::max_element(theirs, theirs + vocab) - theirs;
    if (our_best == their_best) ++same;
    result.largest_gap =
        std::max(result.largest_gap, static_cast<double>(theirs[their_best]) - theirs[our_best]);
  }
  result.mean_kl = kl / static_cast<double>(compared);
  result.same_top1 = static_cast<double>(same) / static_cast<double>(compared);
  return result;
}

// A parameter's name as gtest wants it.
inline std::string test_name(std::string name) {
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

}  // namespace mlxf::testing_model
