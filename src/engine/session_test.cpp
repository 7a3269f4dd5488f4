#include "engine/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "model/weight_stream.h"
#include "platform/process.h"

namespace mlxf::engine {
namespace {

using testing::HasSubstr;

constexpr const char* kBundled = MLXF_SOURCE_DIR "/models/classics-moe-4bit";

std::unique_ptr<Engine> open(const std::string& path) {
  EngineOptions options;
  options.threads = 2;
  auto engine = Engine::open(path, options);
  EXPECT_TRUE(engine) << engine.error().message;
  return std::move(*engine);
}

// Opened once: the tests only read it.
class BundledModel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    engine_ = open(kBundled).release();
    tokenizer_ = new text::Tokenizer(text::load_tokenizer(engine_->manifest()).value());
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    delete engine_;
  }
  static GenerateRequest request(const std::string& prompt, uint32_t tokens) {
    GenerateRequest r;
    r.prompt = tokenizer_->encode(prompt).value();
    r.max_tokens = tokens;
    r.sampling.seed = 11;
    return r;
  }
  static Engine* engine_;
  static text::Tokenizer* tokenizer_;
};
Engine* BundledModel::engine_ = nullptr;
text::Tokenizer* BundledModel::tokenizer_ = nullptr;

TEST_F(BundledModel, GivesTheSameAnswerForTheSameSeed) {
  Session session(*engine_, tokenizer_, 128);
  const GenerateRequest wanted = request("The old man walked along", 24);
  const auto first = session.generate(wanted);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(first->tokens.size(), 24u);
  EXPECT_EQ(first->finish, FinishReason::kLength);
  EXPECT_EQ(first->text, tokenizer_->decode(first->tokens).value());
  session.clear();
  EXPECT_EQ(session.generate(wanted)->tokens, first->tokens);
  GenerateRequest other = wanted;
  other.sampling.seed = 12;
  EXPECT_NE(session.generate(other)->tokens, first->tokens);
}

TEST_F(BundledModel, ReusesWhatTheCacheHoldsWithoutChangingTheAnswer) {
  Session session(*engine_, tokenizer_, 256);
  const auto first = session.generate(request("It was a dark night, and the wind", 16));
  GenerateRequest next = request("It was a dark night, and the wind", 12);
  const size_t prompt = next.prompt.size();
  next.prompt.insert(next.prompt.end(), first->tokens.begin(), first->tokens.end());
  next.prompt.push_back(5);
  const auto warm = session.generate(next);
  // The last generated token was never fed back, so the cache ends before it.
  EXPECT_EQ(warm->cached_tokens, prompt + first->tokens.size() - 1);
  Session cold(*engine_, tokenizer_, 256);
  const auto fresh = cold.generate(next);
  EXPECT_EQ(fresh->cached_tokens, 0u);
  EXPECT_EQ(warm->tokens, fresh->tokens);
  // The same prompt again: all of it is cached but the last token, whose logits are needed.
  EXPECT_EQ(cold.generate(next)->cached_tokens, next.prompt.size() - 1);
}

TEST_F(BundledModel, EndsBeforeAStopStringThatSpansTokens) {
  Session session(*engine_, tokenizer_, 256);
  GenerateRequest wanted = request("The old man walked along", 40);
  const std::string whole = session.generate(wanted)->text;
  ASSERT_GT(whole.size(), 40u);
  wanted.stop = {whole.substr(20, 9)};
  std::string streamed;
  const auto cut = session.generate(wanted, [&](const GeneratedToken& token) {
    streamed += token.text;
    return true;
  });
  EXPECT_EQ(cut->text, whole.substr(0, whole.find(wanted.stop[0])));
  EXPECT_EQ(streamed, cut->text);
  EXPECT_EQ(cut->finish, FinishReason::kStop);
  EXPECT_EQ(cut->stop_string, wanted.stop[0]);
}

TEST_F(BundledModel, CancelsAndGoesOn) {
  Session session(*engine_, tokenizer_, 256);
  const GenerateRequest wanted = request("The old man walked along", 30);
  uint32_t seen = 0;
  const auto cancelled = session.generate(wanted, [&](const GeneratedToken&) { return ++seen < 5; });
  EXPECT_EQ(cancelled->finish, FinishReason::kCancelled);
  EXPECT_EQ(cancelled->tokens.size(), 5u);
  const auto whole = session.generate(wanted);
  EXPECT_TRUE(std::equal(cancelled->tokens.begin(), cancelled->tokens.end(), whole->tokens.begin()));
}

TEST_F(BundledModel, ReportsLogProbabilities) {
  Session session(*engine_, tokenizer_, 64);
  GenerateRequest wanted = request("The old man", 5);
  wanted.sampling.temperature = 0.0f;
  wanted.logprobs = true;
  wanted.top_logprobs = 3;
  ASSERT_TRUE(session.generate(wanted, [](const GeneratedToken& token) {
    EXPECT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].id, token.id) << "greedy takes the likeliest";
    EXPECT_FLOAT_EQ(token.top[0].logprob, token.logprob);
    EXPECT_LT(token.logprob, 0.0f);
    return true;
  }));
}

TEST_F(BundledModel, RefusesWhatCannotBe) {
  Session session(*engine_, tokenizer_, 16);
  GenerateRequest wanted = request("one", 4);
  wanted.prompt.assign(16, 5);
  EXPECT_THAT(session.generate(wanted).error().message, HasSubstr("context"));
  wanted.prompt = {99999};
  EXPECT_THAT(session.generate(wanted).error().message, HasSubstr("99999"));
  wanted.prompt.clear();
  EXPECT_THAT(session.generate(wanted).error().message, HasSubstr("empty"));
  wanted = request("one", 4);
  wanted.sampling.top_p = 2.0f;
  EXPECT_THAT(session.generate(wanted).error().message, HasSubstr("top_p"));
  wanted.sampling.top_p = 1.0f;
  wanted.max_tokens = 100;
  EXPECT_EQ(session.generate(wanted)->tokens.size(), 16 - wanted.prompt.size()) << "the context is the limit";
}

// A machine whose available memory the test sets, and whose clock moves by half a second a reading.
class FakeMachine {
 public:
  FakeMachine() : root_(testing::TempDir() + "mlx-flash-machine-" + std::to_string(getpid())) {
    std::filesystem::create_directories(root_ + "/proc/self");
    set_available(12 << 20);
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  void set_available(uint64_t kib) {
    std::ofstream(root_ + "/proc/meminfo")
        << "MemTotal:       16777216 kB\nMemFree:        1000000 kB\nMemAvailable:   " << kib << " kB\n";
  }
  [[nodiscard]] EngineOptions options(uint64_t budget) {
    EngineOptions options;
    options.threads = 2;
    options.with_tokenizer = true;
    options.memory_budget = budget;
    options.context_tokens = 128;
    options.system_root = root_;
    options.clock = [this] { return now_ += std::chrono::milliseconds(250); };
    return options;
  }

 private:
  std::string root_;
  std::chrono::nanoseconds now_{0};
};

TEST(Session, GivesMemoryBackUnderPressureAndKeepsItsAnswer) {
  FakeMachine machine;
  const uint64_t budget = platform::own_memory_bytes() + (uint64_t{56} << 20);
  auto engine = Engine::open(kBundled, machine.options(budget));
  ASSERT_TRUE(engine) << engine.error().message;
  weights::RecordCache* cache = (*engine)->model().weight_cache();
  ASSERT_NE(cache, nullptr);
  const uint64_t before = cache->bytes();
  GenerateRequest wanted;
  wanted.prompt = (*engine)->tokenizer().encode("The old man walked along").value();
  wanted.max_tokens = 90;
  wanted.sampling.seed = 4;
  Session session(**engine, &(*engine)->tokenizer(), 128);
  uint32_t seen = 0;
  uint64_t squeezed = 0;
  const auto answer = session.generate(wanted, [&](const GeneratedToken&) {
    if (++seen == 10) machine.set_available(8 << 10);
    if (seen == 20) squeezed = cache->bytes();
    if (seen == 21) machine.set_available(12 << 20);
    return true;
  });
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_LT(squeezed, before);
  EXPECT_GT(cache->bytes(), squeezed) << "and takes it again once there is enough";

  const auto whole = open(kBundled);
  Session resident(*whole, nullptr, 128);
  EXPECT_EQ(answer->tokens, resident.generate(wanted)->tokens);
}

// A dense model that is all in memory: under pressure its layers are streamed, once there is enough they stay again.
TEST(Session, ADenseModelGivesLayersBackUnderPressureAndKeepsItsAnswer) {
  const std::string folder = MLXF_SOURCE_DIR "/tests/data/oracles/llama";
  GenerateRequest wanted;
  wanted.prompt = {3, 14, 15, 92, 65, 35};
  wanted.max_tokens = 400;
  wanted.sampling.seed = 4;
  wanted.ignore_end = true;
  const auto whole = open(folder);
  Session undisturbed(*whole, nullptr, 512);
  const std::vector<TokenId> expected = undisturbed.generate(wanted)->tokens;
  ASSERT_EQ(expected.size(), 400u);
  for (const uint32_t threads : {1u, 2u})
    for (const storage::Backend backend :
         {storage::Backend::kAuto, storage::Backend::kPread, storage::Backend::kBuffered}) {
      SCOPED_TRACE(std::to_string(threads) + " threads, " + std::string(storage::backend_name(backend)));
      FakeMachine machine;
      EngineOptions options = machine.options(platform::own_memory_bytes() + (uint64_t{64} << 20));
      options.with_tokenizer = false;
      options.threads = threads;
      options.storage.backend = backend;
      options.granule_bytes = storage::Storage::kAlign;
      options.context_tokens = 512;
      const auto engine = Engine::open(folder, options);
      ASSERT_TRUE(engine) << engine.error().message;
      model::Model& model = (*engine)->model();
      EXPECT_FALSE(model.streams());
      model::WeightStream* weights = model.resizable();
      ASSERT_NE(weights, nullptr);
      const uint64_t before = weights->room().bytes, claimed = (*engine)->claimed_bytes();
      uint64_t least = before, last = 0;
      uint32_t seen = 0, grew = 0, changed_early = 0;
      Session session(**engine, nullptr, 512);
      const auto answer = session.generate(wanted, [&](const GeneratedToken&) {
        ++seen;
        const uint64_t now = weights->room().bytes;
        if (seen == 10) machine.set_available(100);
        if (seen == 20) machine.set_available(12 << 20);
        changed_early += seen < 10 && now != before ? 1 : 0;
        if (seen > 20) grew += now > last ? 1 : 0;
        least = std::min(least, now);
        last = now;
        return true;
      });
      ASSERT_TRUE(answer) << answer.error().message;
      EXPECT_EQ(answer->tokens, expected);
      EXPECT_EQ(changed_early, 0u);
      EXPECT_EQ(least, weights->room().floor_bytes) << "two slots";
      ASSERT_NE(model.weight_cache(), nullptr) << "nothing was ever streamed";
      EXPECT_GT(model.weight_cache()->stats().read_bytes, before);
      EXPECT_GE(grew, 2u) << "step by step";
      EXPECT_LE(last, weights->room().most_bytes);
      EXPECT_EQ(model.streamed_layer_bytes(), 0u) << "all is in memory again";
      EXPECT_LE((*engine)->claimed_bytes(), claimed + weights->room().floor_bytes);
    }
}

// Layers that forget go back to the last prompt, however long its answer was.
TEST(Session, GoesBackToTheLastPromptWhereLayersForget) {
  for (const char* family : {"gemma3", "qwen3_next"}) {
    SCOPED_TRACE(family);
    const auto engine = open(MLXF_SOURCE_DIR "/tests/data/oracles/" + std::string(family));
    GenerateRequest wanted;
    wanted.prompt.resize(150);
    std::iota(wanted.prompt.begin(), wanted.prompt.end(), 1);
    wanted.max_tokens = 200;
    wanted.ignore_end = true;
    Session session(*engine, nullptr, 500);
    ASSERT_TRUE(session.generate(wanted));
    wanted.prompt.resize(148);
    wanted.prompt.resize(200, 7);
    const auto next = session.generate(wanted);
    ASSERT_TRUE(next) << next.error().message;
    EXPECT_EQ(next->cached_tokens, 128u);
    Session fresh(*engine, nullptr, 500);
    EXPECT_EQ(next->tokens, fresh.generate(wanted)->tokens);
  }
}

// A sliding cache cannot go back far: the session then starts anew, with the same tokens.
TEST(Session, StartsAnewWhereASlidingCacheCannotGoBack) {
  const auto engine = open(MLXF_SOURCE_DIR "/tests/data/oracles/gemma3");
  GenerateRequest wanted;
  wanted.prompt.resize(200);
  std::iota(wanted.prompt.begin(), wanted.prompt.end(), 1);
  wanted.max_tokens = 20;
  Session session(*engine, nullptr, 300);
  ASSERT_TRUE(session.generate(wanted));
  wanted.prompt.resize(100);
  const auto again = session.generate(wanted);
  ASSERT_TRUE(again) << again.error().message;
  Session fresh(*engine, nullptr, 300);
  EXPECT_EQ(again->tokens, fresh.generate(wanted)->tokens);
}

}  // namespace
}  // namespace mlxf::engine
