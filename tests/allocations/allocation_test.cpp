// The promise that steady decoding takes no memory: neither from the heap nor from the system.
//
// This program's own malloc family, operator new (which calls it) and mmap count what all of its threads take, the
// bridge's Rust code included. A generation's first tokens may still grow buffers that later ones reuse; and the keys
// and values grow by pages of 64 positions, so a token that begins a page may take that page. Every other token takes
// nothing: resident or streamed, with every sampling rule, with text and without.
#include <execinfo.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "engine/session.h"
#include "kernels/kernel_table.h"
#include "model/families/families.h"
#include "model/weight_stream.h"
#include "platform/process.h"
#include "storage/open_storage.h"

namespace {

constexpr int kFramesMax = 32;
// Relaxed: the counts are read by the thread that joined or outlasted the work in question.
std::atomic<uint64_t> taken{0};
// Where the first block after arming came from; claimed by the thread that takes it.
std::atomic<bool> armed{false};
void* frames[kFramesMax];
int frame_count = 0;

void count() {
  taken.fetch_add(1, std::memory_order_relaxed);
  if (armed.load(std::memory_order_relaxed) && armed.exchange(false))
    frame_count = backtrace(frames, kFramesMax);
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* block, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  count();
  return __libc_malloc(bytes);
}
void* calloc(size_t elements, size_t bytes) {
  count();
  return __libc_calloc(elements, bytes);
}
void* realloc(void* block, size_t bytes) {
  count();
  return __libc_realloc(block, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, size_t alignment, size_t bytes) {
  count();
  *block = __libc_memalign(alignment, bytes);
  return *block == nullptr ? ENOMEM : 0;
}
void* mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  count();
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}
}

namespace mlxf::engine {
namespace {

const std::string kBundled = std::string(MLXF_SOURCE_DIR) + "/models/classics-moe-4bit";
const std::string kDense = std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/gemma3";
constexpr uint32_t kPromptTokens = 70;
constexpr uint32_t kWarmTokens = 8;
constexpr uint64_t kStreamedBytes = uint64_t{30}
                                    << 20;  // Of the bundled model's 48 MB, keys, values and buffers.

// Generates from a fixed prompt and returns, per token, the blocks taken since the token before.
std::vector<uint64_t> blocks_per_token(Engine& engine, const text::Tokenizer* tokenizer,
                                       const decode::SamplingParams& sampling, uint32_t tokens) {
  Session session(engine, tokenizer, 512);
  GenerateRequest request;
  for (uint32_t i = 0; i < kPromptTokens; ++i)
    request.prompt.push_back(static_cast<TokenId>(3 + i * 7 % 200));
  request.max_tokens = tokens;
  request.sampling = sampling;
  request.ignore_end = true;
  std::vector<uint64_t> at;
  at.reserve(tokens + 1);
  const auto result = session.generate(request, [&at](const GeneratedToken&) {
    at.push_back(taken.load(std::memory_order_relaxed));
    const bool begins_page = (kPromptTokens + at.size()) % kernels::kPagePositions <= 1;
    armed = at.size() >= kWarmTokens && !begins_page && frame_count == 0;
    return true;
  });
  armed = false;
  EXPECT_TRUE(result) << (result ? "" : result.error().message);
  std::vector<uint64_t> blocks;
  for (size_t i = 1; i < at.size(); ++i) blocks.push_back(at[i] - at[i - 1]);
  return blocks;
}

void expect_nothing_taken(Engine& engine, const text::Tokenizer* tokenizer,
                          const decode::SamplingParams& sampling) {
  frame_count = 0;
  constexpr uint32_t kTokens = 200;
  const std::vector<uint64_t> blocks = blocks_per_token(engine, tokenizer, sampling, kTokens);
  ASSERT_EQ(blocks.size(), kTokens - 1);
  // blocks[i] lies between the callbacks of tokens i and i + 1: the pass over token i, at position kPromptTokens + i.
  for (uint32_t i = kWarmTokens; i < blocks.size(); ++i)
    if ((kPromptTokens + i) % kernels::kPagePositions != 0) {
      EXPECT_EQ(blocks[i], 0u) << "token " << i;
    }
  if (frame_count > 0) backtrace_symbols_fd(frames, frame_count, STDERR_FILENO);
}

decode::SamplingParams greedy() {
  decode::SamplingParams sampling;
  sampling.temperature = 0.0f;
  return sampling;
}

std::unique_ptr<Engine> open(const std::string& path, uint64_t budget, bool tokenizer) {
  EngineOptions options;
  options.threads = 2;
  options.memory_budget = budget;
  options.context_tokens = 512;
  options.with_tokenizer = tokenizer;
  // A second passes between tokens, so that the system's memory is looked at after each.
  options.clock = [now = std::chrono::nanoseconds(1)]() mutable { return now += std::chrono::seconds(1); };
  auto engine = Engine::open(path, options);
  EXPECT_TRUE(engine) << (engine ? "" : engine.error().message);
  return engine ? std::move(*engine) : nullptr;
}

TEST(SteadyDecoding, TakesNothingWhenResident) {
  const auto engine = open(kBundled, 0, true);
  ASSERT_NE(engine, nullptr);
  expect_nothing_taken(*engine, nullptr, greedy());
  decode::SamplingParams sampling;  // Every rule at once.
  sampling.top_k = 200;
  sampling.top_p = 0.95f;
  sampling.min_p = 0.001f;
  sampling.typical_p = 0.99f;
  sampling.repetition_penalty = 1.1f;
  sampling.presence_penalty = 0.1f;
  sampling.frequency_penalty = 0.1f;
  sampling.logit_bias = {{5, 1.0f}};
  expect_nothing_taken(*engine, nullptr, sampling);
}

// Two that share pages, one of which began by going back into one.
TEST(SteadyDecoding, TakesNothingWhenPagesAreShared) {
  const auto engine = open(kBundled, 0, false);
  ASSERT_NE(engine, nullptr);
  model::Model& model = engine->model();
  std::vector<TokenId> prompt(150);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(3 + i * 7 % 200);
  const auto first = model.make_sequence(512), second = model.make_sequence(512);
  std::vector<float> logits(2 * uint64_t{model.spec().vocab});
  const model::Chunk chunk{first.get(), prompt, false};
  ASSERT_TRUE(model.forward({&chunk, 1}, logits.data()));
  ASSERT_TRUE(second->share(*first, 140));
  ASSERT_TRUE(first->truncate(100));
  frame_count = 0;
  for (uint32_t step = 0; step < 80; ++step) {
    const auto token = static_cast<TokenId>(5 + step);
    const std::array chunks = {model::Chunk{first.get(), {&token, 1}, false},
                               model::Chunk{second.get(), {&token, 1}, false}};
    const bool steady = step >= kWarmTokens && first->length() % kernels::kPagePositions != 0 &&
                        second->length() % kernels::kPagePositions != 0;
    const uint64_t before = taken.load(std::memory_order_relaxed);
    armed = steady && frame_count == 0;
    const Status done = model.forward(chunks, logits.data());
    armed = false;
    ASSERT_TRUE(done) << done.error().message;
    if (steady) {
      EXPECT_EQ(taken.load(std::memory_order_relaxed) - before, 0u) << "step " << step;
    }
  }
  if (frame_count > 0) backtrace_symbols_fd(frames, frame_count, STDERR_FILENO);
}

TEST(SteadyDecoding, TakesNothingWithText) {
  const auto engine = open(kBundled, 0, true);
  ASSERT_NE(engine, nullptr);
  expect_nothing_taken(*engine, &engine->tokenizer(), greedy());
}

TEST(SteadyDecoding, TakesNothingWhenExpertsAreStreamed) {
  const auto engine = open(kBundled, platform::own_memory_bytes() + kStreamedBytes, false);
  ASSERT_NE(engine, nullptr);
  ASSERT_NE(engine->model().weight_cache(), nullptr) << "nothing is streamed";
  expect_nothing_taken(*engine, nullptr, greedy());
  const uint64_t before = engine->model().weight_cache()->stats().read_bytes;
  expect_nothing_taken(*engine, nullptr, greedy());
  EXPECT_GT(engine->model().weight_cache()->stats().read_bytes, before) << "the cache holds all experts";
}

// A dense model so small that a budget for the process cannot make it stream: its weights alone are limited. In the end
// all of its layers have come and gone, which takes memory in its turn, and after that nothing does again.
TEST(SteadyDecoding, TakesNothingWhenLayersAreStreamed) {
  compute::ThreadPool pool(2);
  compute::Cpu cpu(kernels::select_kernels(), pool, {});
  const auto manifest = formats::open_model(kDense);
  ASSERT_TRUE(manifest);
  const auto sizes =
      model::measure_weights(*manifest, *model::make_spec(*manifest), storage::Storage::kAlign);
  ASSERT_TRUE(sizes);
  const auto storage = storage::open_storage({});
  ASSERT_TRUE(storage);
  const auto loaded = model::Model::load(*manifest, cpu,
                                         {.memory = {.storage = storage->get(),
                                                     .weight_bytes = sizes->floor(),
                                                     .granule_bytes = storage::Storage::kAlign}});
  ASSERT_TRUE(loaded) << loaded.error().message;
  model::Model& model = **loaded;
  ASSERT_GT(model.streamed_layer_bytes(), 0u) << "nothing is streamed";
  const auto sequence = model.make_sequence(512);
  std::vector<float> logits(model.spec().vocab);
  frame_count = 0;
  for (uint32_t position = 0; position < 200; ++position) {
    const auto token = static_cast<TokenId>(3 + position * 7 % 200);
    const model::Chunk chunk{sequence.get(), {&token, 1}, false};
    if (position == 80) model.resizable()->set_bytes(model.resizable()->room().most_bytes);
    if (position == 110) model.resizable()->set_bytes(model.resizable()->room().most_bytes / 2);
    const bool layers_move = position >= 80 && position < 140;
    const bool begins_page = position % kernels::kPagePositions == 0;
    const uint64_t before = taken.load(std::memory_order_relaxed);
    armed = position >= kWarmTokens && !layers_move && !begins_page && frame_count == 0;
    const Status done = model.forward({&chunk, 1}, logits.data());
    armed = false;
    ASSERT_TRUE(done) << done.error().message;
    if (position >= kWarmTokens && !layers_move && !begins_page) {
      EXPECT_EQ(taken.load(std::memory_order_relaxed) - before, 0u) << "position " << position;
    }
  }
  EXPECT_GT(model.resizable()->room().bytes, model.resizable()->room().floor_bytes);
  if (frame_count > 0) backtrace_symbols_fd(frames, frame_count, STDERR_FILENO);
}

}  // namespace
}  // namespace mlxf::engine

int main(int argc, char** argv) {
  void* warm[1];
  static_cast<void>(backtrace(warm, 1));  // Loads the unwinder, which takes memory.
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
