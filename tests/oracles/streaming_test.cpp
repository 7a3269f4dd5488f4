// The promise of streaming: the same bits as with everything in memory, or an error that says what could not be read.
//
// The tiny checkpoints of tests/data/oracles and the bundled model, with limits for the weights alone
// (model::MemoryOptions::weight_bytes) from the smallest that works upwards and slots in granules of 4 KiB, so that
// experts and layers really leave the cache; every backend, policy, chunking, and faults at every read.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "oracles/streamed_model.h"
#include "platform/process.h"
#include "storage/faulty_storage.h"
#include "weights/replay.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;
using storage::Backend;
using testing_model::ids_of;
using testing_model::kGranule;
using testing_model::Loaded;
using testing_model::message_of;
using testing_model::most_streamed;
using testing_model::oracle;
using testing_model::prompt_then_tokens;
using testing_model::sizes_of;

const char* const kOracles[] = {"llama",     "llama-tied",  "mistral",     "phi3",        "qwen2",
                                "qwen3",     "gemma2",      "gemma3",      "mixtral",     "qwen2_moe",
                                "qwen3_moe", "olmoe",       "deepseek_v2", "deepseek_v3", "qwen3_next",
                                "qwen3_5",   "qwen3_5_moe", "gpt_oss",     "glm4_moe",    "minimax_m2",
                                "llama4",    "gemma4",      "gemma4-ple",  "gemma4-moe",  "gemma3n"};
const std::string kBundled = std::string(MLXF_SOURCE_DIR) + "/models/classics-moe-4bit";

class StreamingTest : public testing::TestWithParam<const char*> {};

TEST_P(StreamingTest, GivesTheBitsOfTheResidentModel) {
  const std::string folder = oracle(GetParam());
  const std::vector<TokenId> ids = ids_of(folder);
  const Loaded resident(folder, 1);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<float> expected =
      testing_model::logits_of(*resident.model, ids, prompt_then_tokens(ids.size()));
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  ASSERT_LT(sizes.floor(), sizes.total());
  // Every option meets every other over the budgets, though not all at once.
  uint32_t run = 0;
  for (const uint64_t bytes : {sizes.floor(), (sizes.floor() + sizes.total()) / 2, most_streamed(sizes)})
    for (const weights::Policy policy : weights::kPolicies)
      for (const bool look_ahead : {true, false})
        for (const bool in_sevens : {false, true}) {
          const uint32_t threads = 1 + run / 3 % 2;
          const Backend backend = std::array{Backend::kAuto, Backend::kPread, Backend::kBuffered}[run % 3];
          ++run;
          SCOPED_TRACE(std::to_string(bytes) + " bytes, " + std::string(weights::policy_name(policy)) +
                       (look_ahead ? "" : ", no look-ahead") + (in_sevens ? ", in sevens" : "") + ", " +
                       std::to_string(threads) + " threads, " + std::string(storage::backend_name(backend)));
          const Loaded streamed(folder, threads,
                                {.weight_bytes = bytes,
                                 .granule_bytes = kGranule,
                                 .policy = policy,
                                 .look_ahead = look_ahead,
                                 .guess = run % 4 < 2},
                                backend);
          ASSERT_NE(streamed.model, nullptr);
          ASSERT_NE(streamed.model->weight_cache(), nullptr) << "nothing is streamed";
          EXPECT_LE(streamed.model->weight_bytes() + streamed.cache().bytes(),
                    bytes + (uint64_t{2} << 20));  // The resident weights' last huge page.
          ASSERT_EQ(
              testing_model::logits_of(*streamed.model, ids,
                                       in_sevens ? std::vector<uint32_t>{7} : prompt_then_tokens(ids.size())),
              expected);
          const weights::RecordCacheStats& stats = streamed.cache().stats();
          EXPECT_EQ(stats.needed, stats.hits + stats.late + stats.misses);
          if (bytes == sizes.floor()) {
            // More than everything once: something was read again. (A token of llama4 uses one expert of a layer.)
            EXPECT_GT(stats.read_bytes, sizes.total() - sizes.trunk - sizes.row_table - sizes.embedding)
                << "nothing ever left the cache";
          }
        }
}

// --activations int8: what is quantised in a slot after every read is what a resident model quantises while loading.
TEST_P(StreamingTest, GivesTheBitsOfTheResidentModelInInt8) {
  const std::string folder = oracle(GetParam());
  const std::vector<TokenId> ids = ids_of(folder);
  const Loaded resident(folder, 1, {}, Backend::kAuto, true);
  const Loaded floats(folder, 1);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<float> expected =
      testing_model::logits_of(*resident.model, ids, prompt_then_tokens(ids.size()));
  EXPECT_NE(testing_model::logits_of(*floats.model, ids, prompt_then_tokens(ids.size())), expected);
  for (const uint32_t threads : {1u, 2u}) {
    const Loaded streamed(folder, threads,
                          {.weight_bytes = sizes_of(folder, kGranule).floor(), .granule_bytes = kGranule},
                          Backend::kAuto, true);
    ASSERT_NE(streamed.model, nullptr);
    EXPECT_EQ(testing_model::logits_of(*streamed.model, ids, prompt_then_tokens(ids.size())), expected);
    ASSERT_NE(streamed.model->weight_cache(), nullptr);
    EXPECT_GT(streamed.cache().stats().misses + streamed.cache().stats().prefetched, 20u);
  }
}

// The embedding alone is read by row where that is all that does not fit.
TEST_P(StreamingTest, ReadsRowsOfTheEmbedding) {
  const std::string folder = oracle(GetParam());
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  if (sizes.embedding == 0) return;  // It is the head as well.
  const std::vector<TokenId> ids = ids_of(folder);
  const Loaded resident(folder, 1);
  const Loaded streamed(
      folder, 2,
      {.weight_bytes = sizes.total() - sizes.row_table + sizes.row_buffer - 1, .granule_bytes = kGranule});
  ASSERT_NE(streamed.model, nullptr);
  EXPECT_TRUE(streamed.model->streams());
  EXPECT_EQ(streamed.model->weight_cache(), nullptr);
  EXPECT_EQ(testing_model::logits_of(*streamed.model, ids, prompt_then_tokens(ids.size())),
            testing_model::logits_of(*resident.model, ids, prompt_then_tokens(ids.size())));
  EXPECT_GT(streamed.storage->stats().reads, 8u);
  EXPECT_LE(streamed.storage->stats().reads, ids.size());
}

// Memory goes and comes back between tokens, of models that began with little, with much and with all they need. Never
// a differing bit, and never more than there is.
TEST_P(StreamingTest, ChangesItsSizeBetweenTokens) {
  const std::string folder = oracle(GetParam());
  const std::vector<TokenId> ids = ids_of(folder);
  const Loaded resident(folder, 1);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<uint32_t> pieces = {5, 1, 1, 1, 1, 3, 1};
  const std::vector<float> expected = testing_model::logits_of(*resident.model, ids, pieces);
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  uint32_t run = 0;
  for (const uint64_t bytes : {sizes.floor(), most_streamed(sizes), sizes.total()})
    for (const Backend backend : {Backend::kAuto, Backend::kPread, Backend::kBuffered}) {
      const uint32_t threads = 1 + ++run % 2;
      SCOPED_TRACE(std::to_string(bytes) + " bytes, " + std::to_string(threads) + " threads, " +
                   std::string(storage::backend_name(backend)));
      const Loaded streamed(folder, threads,
                            {.weight_bytes = bytes, .granule_bytes = kGranule, .look_ahead = run % 4 != 0},
                            backend);
      ASSERT_NE(streamed.model, nullptr);
      model::WeightStream* weights = streamed.model->resizable();
      if (weights == nullptr) {
        EXPECT_TRUE(bytes == sizes.total() && sizes.experts != 0) << "a mixture in memory keeps it";
        continue;
      }
      const uint64_t most = std::min(weights->room().most_bytes, 2 * sizes.total());
      const uint64_t wanted[] = {0, most, most / 2, 0, most / 3, most, most, most * 9 / 10};
      const auto sequence = streamed.model->make_sequence(4096);
      const uint32_t vocab = streamed.model->spec().vocab;
      std::vector<float> logits(ids.size() * vocab);
      size_t at = 0;
      for (uint32_t step = 0; at < ids.size(); ++step) {
        const size_t count = std::min<size_t>(pieces[std::min<size_t>(step, 6)], ids.size() - at);
        const model::Chunk chunk{sequence.get(), {ids.data() + at, count}, true};
        ASSERT_EQ(message_of(streamed.model->forward({&chunk, 1}, logits.data() + at * vocab)), "");
        at += count;
        if (step % 4 != 3) continue;
        const uint64_t aim = wanted[step / 4 % std::size(wanted)];
        const uint64_t now = weights->set_bytes(aim);
        EXPECT_EQ(now, weights->room().bytes);
        EXPECT_LE(now, std::max(aim, weights->room().floor_bytes));
      }
      EXPECT_EQ(logits, expected);
      EXPECT_TRUE(streamed.model->streams());
    }
}

INSTANTIATE_TEST_SUITE_P(Families, StreamingTest, testing::ValuesIn(kOracles),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

TEST(Streaming, TheBundledModelGivesTheBitsOfTheResidentOne) {
  std::vector<TokenId> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(300 + i * 37 % 1000);
  const Loaded resident(kBundled, 2);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<float> expected =
      testing_model::logits_of(*resident.model, ids, prompt_then_tokens(ids.size()));
  const uint64_t granule = weights::RecordCache::kGranuleBytes;
  const model::WeightSizes sizes = sizes_of(kBundled, granule);
  for (const auto& [bytes, policy, backend] :
       {std::tuple{sizes.floor(), weights::Policy::kLfu, Backend::kAuto},
        {(sizes.floor() + sizes.total()) / 2, weights::Policy::kLru, Backend::kPread}}) {
    const Loaded streamed(kBundled, 2, {.weight_bytes = bytes, .policy = policy, .guess = true}, backend);
    ASSERT_NE(streamed.model, nullptr);
    ASSERT_NE(streamed.model->weight_cache(), nullptr);
    EXPECT_EQ(testing_model::logits_of(*streamed.model, ids, prompt_then_tokens(ids.size())), expected);
    EXPECT_GT(streamed.cache().stats().misses, 48u);
    EXPECT_GT(streamed.cache().stats().prefetched, 0u);
  }
}

// A replay of the trace that a run recorded counts the hits of that run: the two share the policies, and the replay
// does what the cache does with them.
void expect_replay_counts_the_engines_hits(const std::string& path, uint64_t granule, uint64_t bytes,
                                           size_t tokens) {
  const std::string trace_path =
      testing::TempDir() + "mlxf-hits-" + std::to_string(getpid()) + ".safetensors";
  for (const weights::Policy policy : weights::kPolicies) {
    SCOPED_TRACE(path + ", " + std::string(weights::policy_name(policy)) + ", " + std::to_string(bytes) +
                 " bytes");
    const Loaded streamed(
        path, 2, {.weight_bytes = bytes, .granule_bytes = granule, .policy = policy, .look_ahead = false});
    ASSERT_NE(streamed.model, nullptr);
    ASSERT_NE(streamed.model->weight_cache(), nullptr);
    const auto shape = model::trace_shape(streamed.manifest, streamed.model->spec());
    ASSERT_TRUE(shape);
    auto writer = weights::TraceWriter::create(trace_path, *shape, tokens, formats::Overwrite::kReplace);
    ASSERT_TRUE(writer) << writer.error().message;
    streamed.model->observe_routing([&](uint32_t layer, uint32_t row, std::span<const int32_t> experts) {
      writer->observe(layer, row, experts);
    });
    const auto sequence = streamed.model->make_sequence(4096);
    std::vector<float> logits(streamed.model->spec().vocab);
    for (size_t i = 0; i < tokens; ++i) {
      const auto token = static_cast<TokenId>((7 + i * i * 31) % streamed.model->spec().vocab);
      const model::Chunk chunk{sequence.get(), {&token, 1}, false};
      ASSERT_EQ(message_of(streamed.model->forward({&chunk, 1}, logits.data())), "");
      ASSERT_EQ(message_of(writer->end_pass(1)), "");
    }
    ASSERT_EQ(message_of(writer->finish()), "");
    const auto trace = weights::load_trace(trace_path);
    ASSERT_TRUE(trace) << trace.error().message;
    ASSERT_EQ(weights::pools_of(trace->shape).records.size(), 1u);
    const weights::RecordCacheStats& stats = streamed.cache().stats();
    const weights::ReplayResult replayed = weights::replay(*trace, policy, {streamed.cache().slots_for(0)});
    EXPECT_EQ(replayed.needed, stats.needed);
    EXPECT_EQ(replayed.hits, stats.hits);
    EXPECT_EQ(replayed.hit_bytes, stats.hit_bytes);
    EXPECT_GT(stats.hits, 0u);
    EXPECT_GT(stats.misses, streamed.cache().slots_for(0)) << "nothing left the cache";
  }
  fs::remove(trace_path);
}

TEST(Streaming, AReplayCountsTheEnginesHits) {
  const model::WeightSizes tiny = sizes_of(oracle("qwen3_moe"), kGranule);
  for (const uint64_t part : {2, 4})
    expect_replay_counts_the_engines_hits(oracle("qwen3_moe"), kGranule,
                                          tiny.trunk + tiny.expert_floor + (tiny.total() - tiny.trunk) / part,
                                          200);
  const uint64_t granule = weights::RecordCache::kGranuleBytes;
  const model::WeightSizes bundled = sizes_of(kBundled, granule);
  expect_replay_counts_the_engines_hits(kBundled, granule, (bundled.floor() + bundled.total()) / 2, 200);
}

TEST(Streaming, BelowTheFloorNamesWhatWorks) {
  for (const char* name : {"llama", "mixtral"}) {
    const std::string folder = oracle(name);
    const model::WeightSizes sizes = sizes_of(folder, kGranule);
    const auto manifest = formats::open_model(folder);
    compute::ThreadPool pool(1);
    compute::Cpu cpu(kernels::select_kernels(), pool, {});
    storage::FaultyStorage faulty({});
    const auto loaded = model::Model::load(
        *manifest, cpu,
        {.memory = {
             .storage = &faulty.storage(), .weight_bytes = sizes.floor() - 1, .granule_bytes = kGranule}});
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, ErrorCode::kOutOfBudget);
    EXPECT_NE(loaded.error().message.find("1 MiB at least"), std::string::npos) << loaded.error().message;
  }
}

// Reading goes on while layers are computed that need nothing of it: more pieces than fit the queue are read by
// computing alone.
TEST(Streaming, ComputingKeepsTheDiskBusy) {
  storage::FaultyStorage faulty({}, {.depth = 1, .piece_bytes = storage::Storage::kAlign});
  const std::string folder = oracle("gemma3");
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  Loaded streamed(folder, 1,
                  {.storage = &faulty.storage(), .weight_bytes = sizes.floor(), .granule_bytes = kGranule});
  ASSERT_NE(streamed.model, nullptr);
  ASSERT_GT(streamed.model->streamed_layer_bytes(), 0u);
  const auto sequence = streamed.model->make_sequence(64);
  std::vector<float> logits(streamed.model->spec().vocab);
  const TokenId id = 5;
  const model::Chunk chunk{sequence.get(), {&id, 1}, false};
  ASSERT_TRUE(streamed.model->forward({&chunk, 1}, logits.data()));
  // The layers that the next token begins with are being read.
  const size_t begun = faulty.started().size();
  streamed.pool.parallel_for(2, [](uint32_t, uint32_t) {});
  EXPECT_GT(faulty.started().size(), begun);
}

// What plan expects of a prompt's chunks (plan/forecast.cpp): each finds what the cache holds beside the slots of two
// layers, through which the rest goes.
TEST(Streaming, ASweepFindsWhatTheCacheHoldsBesideTwoLayers) {
  constexpr uint32_t kChunk = 192, kLayers = 8, kExperts = 8 * 48;
  const model::WeightSizes sizes = sizes_of(kBundled, kGranule);
  for (const double part : {0.5, 0.75, 0.95}) {
    const auto bytes = sizes.trunk + sizes.embedding_window +
                       static_cast<uint64_t>(part * static_cast<double>(sizes.experts));
    const Loaded streamed(kBundled, 2, {.weight_bytes = bytes, .granule_bytes = kGranule});
    ASSERT_NE(streamed.model, nullptr);
    ASSERT_NE(streamed.model->weight_cache(), nullptr);
    std::vector<TokenId> ids(kChunk);
    std::vector<float> logits(streamed.model->spec().vocab);
    const auto run_chunk = [&](uint32_t seed) {
      for (TokenId& id : ids)
        id = static_cast<TokenId>(((seed = seed * 1664525u + 1013904223u) >> 8) % logits.size());
      const auto sequence = streamed.model->make_sequence(kChunk);
      const model::Chunk chunk{sequence.get(), ids, false};
      ASSERT_EQ(message_of(streamed.model->forward({&chunk, 1}, logits.data())), "");
    };
    for (const uint32_t seed : {1u, 2u}) run_chunk(seed);
    const uint64_t before = streamed.cache().stats().read_bytes;
    for (const uint32_t seed : {3u, 4u, 5u}) run_chunk(seed);
    const double read = static_cast<double>(streamed.cache().stats().read_bytes - before) / 3 /
                        static_cast<double>(sizes.experts);
    const double held = static_cast<double>(streamed.cache().slots_for(0)) / kExperts,
                 in_turn = 2.0 / kLayers;
    EXPECT_NEAR(read, 1 - (held - in_turn) / (1 - in_turn), 0.08) << held << " of the experts are held";
  }
}

// A prompt's tokens may choose far from all experts. The next prompt finds what the cache holds all the same, where a
// policy that lets go of what was needed longest ago, in passes that come round, would find nothing.
TEST(Streaming, ASweepThroughAPartOfTheExpertsFindsWhatTheCacheHolds) {
  const model::WeightSizes sizes = sizes_of(kBundled, kGranule);
  const auto bytes =
      sizes.trunk + sizes.embedding_window + static_cast<uint64_t>(0.4 * static_cast<double>(sizes.experts));
  const Loaded streamed(kBundled, 2, {.weight_bytes = bytes, .granule_bytes = kGranule});
  ASSERT_NE(streamed.model, nullptr);
  std::vector<TokenId> ids(model::WeightStream::kSweepRows);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(100 + i % 16 * 37);
  std::vector<float> logits(streamed.model->spec().vocab);
  const auto reads_of_chunk = [&] {
    const uint64_t before = streamed.cache().stats().misses, needed = streamed.cache().stats().needed;
    const auto sequence = streamed.model->make_sequence(64);
    const model::Chunk chunk{sequence.get(), ids, false};
    EXPECT_EQ(message_of(streamed.model->forward({&chunk, 1}, logits.data())), "");
    const auto missed = static_cast<double>(streamed.cache().stats().misses - before);
    const auto all = static_cast<double>(streamed.cache().stats().needed - needed);
    return std::pair(missed, all);
  };
  reads_of_chunk();
  reads_of_chunk();
  const auto [missed, needed] = reads_of_chunk();
  const auto held = static_cast<double>(streamed.cache().slots_for(0));
  EXPECT_LT(needed, 0.75 * 8 * 48) << "or it would be a sweep through all of them";
  ASSERT_GT(needed, 1.1 * held) << "or the cache would hold all of it";
  EXPECT_LT(missed, needed - held + 2 * needed / 8);
}

// Streamed layers of a dense model stand between those that stay, and the disk is given the next ones' reads as soon as
// a slot was computed: while those that stay, the head and the next token's beginning are.
TEST(Streaming, DenseLayersAreReadAheadThroughTheWholeToken) {
  const std::string folder = oracle("gemma3");
  const model::WeightSizes sizes = sizes_of(folder, kGranule);
  const std::vector<uint32_t> streamed_layers =
      model::plan_residency(sizes, most_streamed(sizes), 0)->streamed_layers;
  ASSERT_EQ(streamed_layers.size(), 3u);
  ASSERT_EQ(sizes.layers.size(), 7u);
  for (size_t i = 1; i < streamed_layers.size(); ++i)
    EXPECT_GT(streamed_layers[i] - streamed_layers[i - 1], 1u);
  storage::FaultyStorage faulty({}, {.depth = 1024});
  Loaded streamed(
      folder, 1,
      {.storage = &faulty.storage(), .weight_bytes = most_streamed(sizes), .granule_bytes = kGranule});
  ASSERT_NE(streamed.model, nullptr);
  const auto sequence = streamed.model->make_sequence(64);
  std::vector<float> logits(streamed.model->spec().vocab);
  const TokenId id = 5;
  const model::Chunk chunk{sequence.get(), {&id, 1}, false};
  ASSERT_TRUE(streamed.model->forward({&chunk, 1}, logits.data()));
  for (int token = 0; token < 3; ++token) {
    const weights::RecordCacheStats before = streamed.cache().stats();
    std::vector<uint32_t> reads_began_in;
    size_t begun = 0;
    // A layer's reads begin as soon as its slot is free, which is when a streamed one was computed.
    ASSERT_TRUE(streamed.model->forward({&chunk, 1}, logits.data(),
                                        [&](uint32_t layer, const float*, uint32_t, uint32_t) {
                                          const size_t now = faulty.started().size();
                                          if (layer > 0 && now > begun) reads_began_in.push_back(layer - 1);
                                          begun = now;
                                        }));
    EXPECT_EQ(reads_began_in, streamed_layers);
    const weights::RecordCacheStats& after = streamed.cache().stats();
    EXPECT_EQ(after.misses, before.misses);
    EXPECT_EQ(after.prefetched - before.prefetched, 3u);
    // Both slots are given to the next token's first layers.
    EXPECT_EQ(after.prefetched - after.prefetch_used, 2u);
  }
}

// A context that outgrows the room kept for it takes the cache's; when that is at its least, the next token is refused,
// nothing has changed, and a shorter context goes on.
TEST(Streaming, KeysAndValuesTakeTheirRoomFromTheCache) {
  const Loaded resident(kBundled, 2);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<TokenId> ids = {300, 301, 302, 303};
  const std::vector<float> expected = testing_model::logits_of(*resident.model, ids);
  storage::FaultyStorage faulty({});
  const Loaded streamed(kBundled, 2,
                        {.budget_bytes = platform::own_memory_bytes() + (uint64_t{40} << 20),
                         .storage = &faulty.storage(),
                         .context_tokens = 64});
  ASSERT_NE(streamed.model, nullptr);
  ASSERT_NE(streamed.model->weight_cache(), nullptr);
  const uint64_t most = streamed.cache().bytes();
  const auto other = streamed.model->make_sequence(1 << 20);
  Status status;
  uint64_t last = most;
  for (int step = 0; status && step < 100; ++step) {
    ASSERT_TRUE(other->fill(512));
    const auto sequence = streamed.model->make_sequence(128);
    std::vector<float> logits(ids.size() * streamed.model->spec().vocab);
    const model::Chunk chunk{sequence.get(), ids, true};
    status = streamed.model->forward({&chunk, 1}, logits.data());
    EXPECT_LE(streamed.cache().bytes(), last);
    last = streamed.cache().bytes();
    if (status) {
      ASSERT_EQ(logits, expected);
      EXPECT_LE(streamed.cache().bytes() + other->bytes(), most + (uint64_t{1} << 20));
    } else {
      EXPECT_EQ(status.error().code, ErrorCode::kOutOfBudget) << status.error().message;
      EXPECT_EQ(sequence->length(), 0u);
      EXPECT_EQ(sequence->bytes(), 0u) << "a refusal took memory";
    }
  }
  ASSERT_FALSE(status) << "the context never met the budget";
  EXPECT_LT(last, most);
  ASSERT_TRUE(other->truncate(64));
  EXPECT_EQ(testing_model::logits_of(*streamed.model, ids), expected);
}

// ---- faults ----

struct Fault {
  const char* name;
  const char* what;  // What a message names.
  bool look_ahead;   // Read ahead: what fails is read again, and only a second failure would be an error.
};
class StreamingFaultTest : public testing::TestWithParam<Fault> {};

// Read k of a run fails, for every k: an error that names what, which file and where; the sequence is as it was, and
// the same call again gives the right bits.
TEST_P(StreamingFaultTest, AnErrorAtAnyReadIsCleanAndCanBeRetried) {
  const std::string folder = oracle(GetParam().name);
  std::vector<TokenId> ids = ids_of(folder);
  ids.resize(16);
  const Loaded resident(folder, 1);
  ASSERT_NE(resident.model, nullptr);
  const std::vector<float> expected = testing_model::logits_of(*resident.model, ids, {12, 1});
  storage::FaultyStorage faulty({});
  const Loaded streamed(folder, 1,
                        {.storage = &faulty.storage(),
                         .weight_bytes = sizes_of(folder, kGranule).floor(),
                         .granule_bytes = kGranule,
                         .look_ahead = GetParam().look_ahead,
                         .guess = true});
  ASSERT_NE(streamed.model, nullptr);
  const uint32_t vocab = streamed.model->spec().vocab;
  std::vector<float> logits(ids.size() * vocab);
  uint64_t errors = 0, tried = 0, rows = 0;
  bool all_tried = false;
  for (uint64_t k = 1; !all_tried; ++k) {
    SCOPED_TRACE("read " + std::to_string(k));
    const auto sequence = streamed.model->make_sequence(4096);
    const uint64_t before = faulty.started().size();
    faulty.set_plan({.error_at = before + k, .ticks_max = static_cast<uint32_t>(k % 4)});
    std::fill(logits.begin(), logits.end(), 0.0f);
    for (size_t at = 0; at < ids.size();) {
      const size_t count = at == 0 ? 12 : 1;
      const model::Chunk chunk{sequence.get(), {ids.data() + at, count}, true};
      const Status status = streamed.model->forward({&chunk, 1}, logits.data() + at * vocab);
      if (status) {
        at += count;
        continue;
      }
      ++errors;
      ASSERT_EQ(status.error().code, ErrorCode::kIo);
      const std::string& message = status.error().message;
      const bool row = message.find("tensor model.embed_tokens") != std::string::npos &&
                       message.find(".weight row ") != std::string::npos;
      rows += row ? 1 : 0;
      for (const char* part :
           {row ? "" : "layer ", row ? "" : GetParam().what, "model.safetensors", "at byte "})
        EXPECT_NE(message.find(part), std::string::npos) << message;
      ASSERT_EQ(sequence->length(), at);
      faulty.set_plan({});
    }
    ASSERT_EQ(logits, expected);
    all_tried = faulty.started().size() < before + k;
    if (!all_tried) ++tried;
  }
  EXPECT_GE(tried, 20u);
  EXPECT_GT(rows, 0u);
  if (!GetParam().look_ahead) {
    EXPECT_EQ(errors, tried);
  }
}

// 64 tokens of the bundled model, the k-th read after each recovery failing: every error is clean, every token right.
TEST(Streaming, TheBundledModelSurvivesErrorsAtEveryKthRead) {
  const Loaded resident(kBundled, 2);
  ASSERT_NE(resident.model, nullptr);
  std::vector<TokenId> ids;
  for (int i = 0; i < 64; ++i) ids.push_back(300 + i * 37 % 1000);
  const std::vector<float> expected = testing_model::logits_of(*resident.model, ids, {1});
  const model::WeightSizes sizes = sizes_of(kBundled, weights::RecordCache::kGranuleBytes);
  for (const auto& fault :
       {std::pair<uint64_t, bool>{7, false}, {60, false}, {401, false}, {7, true}, {60, true}}) {
    const uint64_t k = fault.first;
    const bool look_ahead = fault.second;
    SCOPED_TRACE("every " + std::to_string(k) + "th read" + (look_ahead ? ", look-ahead" : ""));
    storage::FaultyStorage faulty({.interrupted_per_mille = 20, .short_per_mille = 50, .ticks_max = 3});
    const Loaded streamed(kBundled, 2,
                          {.storage = &faulty.storage(),
                           .weight_bytes = (sizes.floor() + sizes.total()) / 2,
                           .look_ahead = look_ahead,
                           .guess = true});
    ASSERT_NE(streamed.model, nullptr);
    const auto sequence = streamed.model->make_sequence(128);
    const uint32_t vocab = streamed.model->spec().vocab;
    std::vector<float> logits(ids.size() * vocab);
    uint64_t errors = 0, faults = 0;
    const storage::FaultPlan calm{.short_per_mille = 50, .ticks_max = 3};
    storage::FaultPlan plan = calm;
    const auto arm = [&] {
      plan.error_at = faulty.started().size() + k;
      faulty.set_plan(plan);
      ++faults;
    };
    arm();
    for (size_t at = 0; at < ids.size();) {
      const model::Chunk chunk{sequence.get(), {ids.data() + at, 1}, true};
      const Status status = streamed.model->forward({&chunk, 1}, logits.data() + at * vocab);
      if (status) {
        ++at;
        // After a recovery, or a guess that failed and was forgiven.
        if (faulty.started().size() >= plan.error_at) arm();
        continue;
      }
      ++errors;
      ASSERT_EQ(status.error().code, ErrorCode::kIo);
      for (const char* part : {"layer ", "expert ", ".safetensors", "at byte "})
        ASSERT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
      ASSERT_EQ(sequence->length(), at);
      faulty.set_plan(calm);
    }
    EXPECT_GE(faults, 10u);
    EXPECT_GE(errors, look_ahead ? 1 : faults - 1);
    ASSERT_EQ(logits, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Faults, StreamingFaultTest,
    testing::Values(Fault{"llama", "layer ", false}, Fault{"llama", "layer ", true},
                    Fault{"qwen3_moe", "expert ", false}, Fault{"qwen3_moe", "expert ", true},
                    Fault{"qwen3_5", "layer ", true}, Fault{"qwen3_next", "expert ", false},
                    Fault{"llama4", "expert ", true}, Fault{"gemma3n", "layer ", false},
                    Fault{"gemma3n", "layer ", true}),
    [](const auto& parameter) {
      return std::string(parameter.param.name) + (parameter.param.look_ahead ? "_look_ahead" : "");
    });

// What can happen to a model's file while it is in use.
class ChangedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mlxf-streaming-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    for (const auto& entry : fs::directory_iterator(oracle("qwen3_moe")))
      fs::copy(entry.path(), folder_ / entry.path().filename());
    // Files in a checkout may be read-only.
    fs::permissions(file(), fs::perms::owner_write, fs::perm_options::add);
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] fs::path file() const { return folder_ / "model.safetensors"; }

  // Decodes until `change` and then until an error; every token before is right.
  template <typename Change>
  void expect_changed(const Change& change) {
    const std::vector<TokenId> ids = ids_of(oracle("qwen3_moe"));
    for (const Backend backend : {Backend::kAuto, Backend::kPread}) {
      const Loaded streamed(folder_, 1,
                            {.weight_bytes = sizes_of(folder_, kGranule).floor(), .granule_bytes = kGranule},
                            backend);
      ASSERT_NE(streamed.model, nullptr);
      const auto sequence = streamed.model->make_sequence(4096);
      std::vector<float> logits(ids.size() * streamed.model->spec().vocab);
      const model::Chunk chunk{sequence.get(), {ids.data(), 10}, true};
      ASSERT_EQ(message_of(streamed.model->forward({&chunk, 1}, logits.data())), "");
      change();
      for (int attempt = 0; attempt < 2; ++attempt) {
        const model::Chunk next{sequence.get(), {ids.data() + 10, 3}, true};
        const Status status = streamed.model->forward({&next, 1}, logits.data());
        ASSERT_FALSE(status);
        EXPECT_EQ(status.error().code, ErrorCode::kChanged) << status.error().message;
        EXPECT_NE(status.error().message.find("model.safetensors"), std::string::npos);
        EXPECT_EQ(sequence->length(), 10u);
      }
      fs::copy_file(oracle("qwen3_moe") + "/model.safetensors", file(), fs::copy_options::overwrite_existing);
      fs::permissions(file(), fs::perms::owner_write, fs::perm_options::add);
    }
  }

 private:
  fs::path folder_;
};

TEST_F(ChangedFileTest, TruncatedIsAnError) {
  expect_changed([&] { fs::resize_file(file(), fs::file_size(file()) / 3); });
}

TEST_F(ChangedFileTest, ReplacedIsAnError) {
  expect_changed([&] {
    const fs::path other = file().string() + ".new";
    fs::copy_file(file(), other);
    fs::rename(other, file());
  });
}

TEST_F(ChangedFileTest, RewrittenInPlaceIsAnError) {
  expect_changed([&] {
    std::fstream stream(file(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-100, std::ios::end);
    stream << "other bytes";
  });
}

TEST_F(ChangedFileTest, RemovedIsAnError) {
  expect_changed([&] { fs::remove(file()); });
}

}  // namespace
}  // namespace mlxf
