// Dense models whose memory goes and comes while they run: the same bits, memory that is really given back, not a read
// more than streaming needs, and clean errors.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "model/memory_plan.h"
#include "oracles/streamed_model.h"
#include "platform/process.h"
#include "storage/faulty_storage.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;
using testing_model::ids_of;
using testing_model::kGranule;
using testing_model::Loaded;
using testing_model::message_of;
using testing_model::oracle;
using testing_model::sizes_of;

// Anonymous memory of this process as the system counts it page by page.
uint64_t mapped_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("Anonymous:", 0) == 0) return std::stoull(line.substr(10)) << 10;
  return 0;
}

// A dense model that is all in memory gives layers back when it is told to, really, and takes them again as they are
// streamed by: no read more than streaming needs, until nothing is read at all.
TEST(DenseSqueeze, ADenseModelInMemoryGivesLayersBackAndTakesThemAgain) {
  const std::string folder = oracle("gemma3");
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  const uint64_t layers = std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
  const Loaded model(folder, 1, {.weight_bytes = sizes.total(), .granule_bytes = kGranule});
  ASSERT_NE(model.model, nullptr);
  EXPECT_FALSE(model.model->streams());
  EXPECT_EQ(model.model->weight_cache(), nullptr);
  model::WeightStream* weights = model.model->resizable();
  ASSERT_NE(weights, nullptr);
  EXPECT_GE(weights->room().bytes, layers);
  EXPECT_LE(weights->room().bytes, layers + sizes.layers.size() * 4 * kGranule);
  EXPECT_EQ(weights->room().touched_bytes, weights->room().bytes);
  const auto sequence = model.model->make_sequence(256);
  std::vector<float> logits(model.model->spec().vocab);
  TokenId id = 5;
  const model::Chunk chunk{sequence.get(), {&id, 1}, false};
  const auto next_token = [&] {
    ASSERT_EQ(message_of(model.model->forward({&chunk, 1}, logits.data())), "");
  };
  next_token();
  EXPECT_EQ(model.storage->stats().reads, 0u);

  const uint64_t before = mapped_bytes(), all = weights->room().bytes;
  EXPECT_EQ(weights->set_bytes(0), weights->room().floor_bytes);
  const uint64_t after = mapped_bytes();
  EXPECT_GE(before, after + all * 9 / 10) << "memory that was given back is still held";
  EXPECT_TRUE(model.model->streams());
  const uint64_t per_token = model.model->streamed_layer_bytes();
  EXPECT_GE(per_token, layers);
  for (int token = 0; token < 3; ++token) next_token();
  uint64_t read = model.cache().stats().read_bytes;
  next_token();
  EXPECT_EQ(model.cache().stats().read_bytes - read, per_token);

  const uint64_t most = weights->room().most_bytes;
  weights->set_bytes(most);
  for (size_t token = 0; token < 3 * sizes.layers.size(); ++token) {
    read = model.cache().stats().read_bytes;
    next_token();
    EXPECT_LE(model.cache().stats().read_bytes - read, per_token);
    EXPECT_LE(weights->room().bytes, most);
  }
  EXPECT_EQ(model.cache().stats().read_bytes, read) << "all is in memory again";
  EXPECT_EQ(model.model->streamed_layer_bytes(), 0u);
}

// What is in memory can no longer be read when the files have changed: then it stays there.
TEST(DenseSqueeze, ADenseModelInMemoryWhoseFileHasChangedKeepsItsLayers) {
  const fs::path folder = testing::TempDir() + "mlxf-kept-" + std::to_string(getpid());
  fs::remove_all(folder);
  fs::copy(oracle("llama"), folder);
  const std::vector<TokenId> ids = ids_of(oracle("llama"));
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  const Loaded model(folder, 1, {.weight_bytes = sizes.total(), .granule_bytes = kGranule});
  ASSERT_NE(model.model, nullptr);
  const std::vector<float> expected = testing_model::logits_of(*model.model, ids);
  const fs::path file = folder / "model.safetensors";
  fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
  {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-100, std::ios::end);
    stream << "other bytes";
  }
  model::WeightStream* weights = model.model->resizable();
  ASSERT_NE(weights, nullptr);
  const uint64_t all = weights->room().bytes;
  EXPECT_EQ(weights->set_bytes(0), all);
  EXPECT_FALSE(model.model->streams());
  EXPECT_EQ(testing_model::logits_of(*model.model, ids), expected);
  fs::remove_all(folder);
}

// The k-th read fails while layers go and come: a clean error, and the same call again gives the right bits.
TEST(DenseSqueeze, ErrorsWhileLayersMoveAreClean) {
  for (const char* name : {"gemma3", "phi3"})
    for (const bool look_ahead : {true, false}) {
      const std::string folder = oracle(name);
      std::vector<TokenId> ids = ids_of(folder);
      ids.resize(40);
      const Loaded resident(folder, 1);
      const std::vector<float> expected = testing_model::logits_of(*resident.model, ids, {1});
      const model::WeightSizes sizes = sizes_of(folder, kGranule);
      uint64_t errors = 0;
      for (uint64_t k = 1; k < 60; k += look_ahead ? 1 : 3) {
        SCOPED_TRACE(folder + ", read " + std::to_string(k) + (look_ahead ? "" : ", no look-ahead"));
        storage::FaultyStorage faulty({});
        const Loaded model(folder, 1,
                           {.storage = &faulty.storage(),
                            .weight_bytes = sizes.total(),
                            .granule_bytes = kGranule,
                            .look_ahead = look_ahead});
        ASSERT_NE(model.model, nullptr);
        model::WeightStream* weights = model.model->resizable();
        const uint64_t most = weights->room().most_bytes;
        const auto sequence = model.model->make_sequence(64);
        const uint32_t vocab = model.model->spec().vocab;
        std::vector<float> logits(ids.size() * vocab);
        faulty.set_plan({.error_at = faulty.started().size() + k, .ticks_max = static_cast<uint32_t>(k % 4)});
        for (size_t at = 0; at < ids.size();) {
          if (at % 8 == 2) weights->set_bytes(at % 16 == 2 ? most / 3 : most);
          const model::Chunk chunk{sequence.get(), {ids.data() + at, 1}, true};
          const Status status = model.model->forward({&chunk, 1}, logits.data() + at * vocab);
          if (status) {
            ++at;
            continue;
          }
          ++errors;
          EXPECT_EQ(status.error().code, ErrorCode::kIo);
          EXPECT_NE(status.error().message.find("layer "), std::string::npos) << status.error().message;
          ASSERT_EQ(sequence->length(), at);
        }
        ASSERT_EQ(logits, expected);
      }
      EXPECT_GE(errors, look_ahead ? 1u : 15u);
    }
}

// Keys and values that outgrow their room take that of a dense model's layers, too.
TEST(DenseSqueeze, KeysAndValuesTakeTheirRoomFromDenseLayers) {
  const std::string folder = oracle("llama");
  const std::vector<TokenId> ids = ids_of(folder);
  const Loaded resident(folder, 2);
  const std::vector<float> expected = testing_model::logits_of(*resident.model, ids);
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  storage::FaultyStorage faulty({});
  const auto manifest = formats::open_model(folder);
  const auto spec = model::make_spec(*manifest);
  model::MemoryRequest request;
  // Above what loading takes, so that the plan does not depend on it.
  request.held_bytes = platform::own_memory_bytes() + (uint64_t{16} << 20);
  request.context_tokens = 128;
  request.threads = 2;
  // The least with which some layers stay: how long chunks are, and what they take, depends on the budget itself.
  request.budget_bytes = model::floor_budget(*spec, sizes, request);
  const auto all_streamed = [&] {
    const auto plan = model::plan_memory(*spec, sizes, request);
    return !plan || plan->residency.streamed_layers.size() == sizes.layers.size();
  };
  while (all_streamed()) request.budget_bytes += kGranule;
  const uint64_t budget = request.budget_bytes;
  const Loaded streamed(folder, 2,
                        {.budget_bytes = budget,
                         .held_bytes_min = request.held_bytes,
                         .storage = &faulty.storage(),
                         .granule_bytes = kGranule,
                         .context_tokens = 128});
  ASSERT_NE(streamed.model, nullptr);
  model::WeightStream* weights = streamed.model->resizable();
  ASSERT_NE(weights, nullptr);
  ASSERT_GT(weights->room().bytes, weights->room().floor_bytes);
  const uint64_t most = weights->room().bytes;
  const auto other = streamed.model->make_sequence(1 << 16);
  Status status;
  while (status) {
    ASSERT_TRUE(other->fill(64));
    const auto sequence = streamed.model->make_sequence(128);
    std::vector<float> logits(ids.size() * streamed.model->spec().vocab);
    const model::Chunk chunk{sequence.get(), ids, true};
    status = streamed.model->forward({&chunk, 1}, logits.data());
    if (status) {
      ASSERT_EQ(logits, expected);
    }
  }
  EXPECT_EQ(status.error().code, ErrorCode::kOutOfBudget) << status.error().message;
  EXPECT_LT(weights->room().bytes, most);
  EXPECT_EQ(weights->room().bytes, weights->room().floor_bytes) << "refused before all was given";
}

}  // namespace
}  // namespace mlxf
