// What the tests of streaming share: an oracle's checkpoint loaded with a limit for its weights, sizes and texts.
//
// For tests alone, one thread. Slots come in granules of 4 KiB, so that experts and layers of models of a few hundred
// KiB really leave memory; failures to load are test failures.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/families/families.h"
#include "model/weight_stream.h"
#include "oracles/testing_model.h"
#include "storage/open_storage.h"

namespace mlxf::testing_model {

constexpr uint64_t kGranule = storage::Storage::kAlign;

inline std::string message_of(const Status& status) { return status ? "" : status.error().message; }

// A model whose weights may take `memory.weight_bytes`; 0: all are resident.
struct Loaded {
  formats::ModelManifest manifest;
  std::unique_ptr<storage::Storage> storage;
  compute::ThreadPool pool;
  compute::Cpu cpu;
  std::unique_ptr<model::Model> model;

  Loaded(const std::string& path, uint32_t threads, model::MemoryOptions memory = {},
         storage::Backend backend = storage::Backend::kAuto, bool int8_rows = false)
      : pool(threads), cpu(kernels::select_kernels(), pool, {.arithmetic = compute::Arithmetic::kInt8}) {
    if (memory.weight_bytes != 0 && memory.storage == nullptr) {
      auto opened = storage::open_storage({.backend = backend});
      if (!opened) {
        ADD_FAILURE() << opened.error().message;
        return;
      }
      storage = std::move(*opened);
      memory.storage = storage.get();
    }
    auto found = formats::open_model(path);
    if (!found) {
      ADD_FAILURE() << found.error().message;
      return;
    }
    manifest = std::move(*found);
    auto loaded = model::Model::load(manifest, cpu, {.memory = memory, .int8_rows = int8_rows});
    if (!loaded) ADD_FAILURE() << loaded.error().message;
    if (loaded) model = std::move(*loaded);
  }
  [[nodiscard]] weights::RecordCache& cache() const { return *model->weight_cache(); }
};

inline model::WeightSizes sizes_of(const std::string& path, uint64_t granule) {
  const auto manifest = formats::open_model(path);
  EXPECT_TRUE(manifest);
  const auto spec = model::make_spec(*manifest);
  EXPECT_TRUE(spec);
  const auto sizes = model::measure_weights(*manifest, *spec, granule);
  EXPECT_TRUE(sizes) << sizes.error().message;
  return *sizes;
}

// The most with which experts or layers are still streamed.
inline uint64_t most_streamed(const model::WeightSizes& sizes) {
  return sizes.total() - sizes.row_table + sizes.row_buffer - sizes.embedding + sizes.embedding_window - 1;
}

inline std::string oracle(const std::string& name) { return testing_model::data_folder("oracles/" + name); }

// 80 tokens of the oracle's own text: a prompt and 8 that are decoded one by one.
inline std::vector<TokenId> ids_of(const std::string& folder) {
  std::vector<TokenId> ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  const auto more = testing_model::token_ids(folder + "/oracle.safetensors", "greedy");
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}
inline std::vector<uint32_t> prompt_then_tokens(size_t tokens) {
  return {static_cast<uint32_t>(tokens - 8), 1};
}

}  // namespace mlxf::testing_model
