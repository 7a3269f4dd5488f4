// Kept prefixes that come back from the disk: the same answers, bit for bit, as computed anew, for every kind of cache.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine/scheduler.h"

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr uint32_t kContext = 512;

struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  uint32_t cached_tokens = 0;
  std::string error;
};

Answer read(Ticket& ticket) {
  Answer answer;
  for (;;) {
    std::optional<Event> event = ticket.wait(seconds(120));
    if (!event) {
      ADD_FAILURE() << "no event in two minutes";
      return answer;
    }
    if (const auto* token = std::get_if<GeneratedToken>(&*event)) {
      answer.tokens.push_back(token->id);
      answer.logprobs.push_back(token->logprob);
    } else if (const auto* finished = std::get_if<Finished>(&*event)) {
      answer.cached_tokens = finished->usage.cached_tokens;
      return answer;
    } else {
      answer.error = std::get<Error>(*event).message;
      return answer;
    }
  }
}

class PrefixRestore : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/prefix_restore." + std::to_string(getpid());
    fs::remove_all(path_);
    EngineOptions options;
    options.threads = 2;
    auto engine = Engine::open(MLXF_SOURCE_DIR "/tests/data/oracles/" + std::string(GetParam()), options);
    ASSERT_TRUE(engine) << engine.error().message;
    engine_ = std::move(*engine);
  }
  void TearDown() override {
    stop();
    fs::remove_all(path_);
  }

  // A server's life with the folder: opened, asked, closed.
  struct Run {
    std::unique_ptr<PrefixFolder> folder;
    Metrics metrics;
    std::unique_ptr<Scheduler> scheduler;
  };
  // The one before ends first: it has the engine and the folder for itself.
  void start(bool with_folder, uint64_t kv_bytes = 0,
             std::chrono::milliseconds settle = std::chrono::hours(1)) {
    stop();
    run_ = std::make_unique<Run>();
    SchedulerOptions options;
    options.context_max = kContext;
    options.kv_bytes = kv_bytes;
    options.prefix_settle = settle;
    options.parallel = parallel_;
    if (with_folder) {
      PrefixFolderOptions folder;
      folder.path = path_;
      folder.bytes_max = uint64_t{1} << 30;
      folder.program = "test";
      folder.scope_of = [](std::span<const uint8_t>, const std::string& user) {
        PrefixScope scope{};
        std::copy_n(user.begin(), std::min(user.size(), scope.size()), scope.begin());
        return scope;
      };
      auto opened = PrefixFolder::open(std::move(folder));
      EXPECT_TRUE(opened) << opened.error().message;
      run_->folder = std::move(*opened);
      options.prefix_folder = run_->folder.get();
    }
    run_->scheduler = std::make_unique<Scheduler>(*engine_, nullptr, options, run_->metrics);
  }
  void stop() { run_.reset(); }
  static GenerateRequest request(const std::vector<TokenId>& prompt, uint32_t tokens) {
    GenerateRequest r;
    r.prompt = prompt;
    r.max_tokens = tokens;
    r.sampling.seed = 5;
    r.logprobs = true;
    return r;
  }
  Answer ask(const std::vector<TokenId>& prompt, uint32_t tokens, const std::string& user = "a") {
    Ticket ticket = run_->scheduler->submit({request(prompt, tokens), user, {}}).value();
    return read(ticket);
  }
  [[nodiscard]] std::vector<TokenId> prompt(uint32_t count, uint32_t seed) const {
    std::vector<TokenId> ids(count);
    const uint32_t vocab = engine_->model().spec().vocab;
    for (TokenId& id : ids) {
      seed = seed * 1664525u + 1013904223u;
      id = static_cast<TokenId>((seed >> 8) % vocab);
    }
    return ids;
  }
  static void expect_same(const Answer& got, const Answer& expected) {
    EXPECT_EQ(got.error, "");
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_EQ(got.logprobs, expected.logprobs) << "not the same bits";
  }

  std::string path_;
  uint32_t parallel_ = 2;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Run> run_;
};

std::vector<TokenId> joined(std::vector<TokenId> ids, const std::vector<TokenId>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

TEST_P(PrefixRestore, AnswersAreThoseComputedAnew) {
  const std::vector<TokenId> first = prompt(170, 1);
  start(true);
  const Answer begun = ask(first, 20);
  stop();  // All that was kept is written.
  const std::vector<TokenId> second = joined(joined(first, begun.tokens), prompt(9, 2));
  // The same beginning and another end: what forgets goes back as far as it can.
  const std::vector<TokenId> branch = joined({first.begin(), first.begin() + 150}, prompt(12, 3));
  start(false);
  const Answer fresh = ask(second, 30);
  const Answer fresh_branch = ask(branch, 30, "b");
  EXPECT_EQ(fresh.cached_tokens, 0u);
  for (int restart = 0; restart < 2; ++restart) {
    start(true);
    const Answer restored = ask(second, 30);
    expect_same(restored, fresh);
    EXPECT_GE(restored.cached_tokens, first.size() + begun.tokens.size() - 1);
    EXPECT_EQ(run_->folder->stats().hits, 1u);
    EXPECT_EQ(ask(second, 2, "other " + std::to_string(restart)).cached_tokens, 0u) << "of another user";
    expect_same(ask(branch, 30), fresh_branch);
    // No more than one answer's worth of it is in memory, so that comes from the disk again, or is computed.
    expect_same(ask(second, 30), fresh);
    EXPECT_EQ(run_->folder->stats().rejected, 0u);
  }
}

TEST_P(PrefixRestore, AnswersAreTheSameWhileEverythingComesAndGoes) {
  constexpr uint32_t kUsers = 5, kTurns = 4;
  std::vector<std::vector<Answer>> expected(kUsers);
  std::vector<std::vector<std::vector<TokenId>>> prompts(kUsers);
  start(false);
  for (uint32_t user = 0; user < kUsers; ++user) {
    std::vector<TokenId> ids = prompt(70 + user * 13, user);
    for (uint32_t turn = 0; turn < kTurns; ++turn) {
      prompts[user].push_back(ids);
      expected[user].push_back(ask(ids, 12, std::to_string(user)));
      ids = joined(joined(ids, expected[user].back().tokens), prompt(20, user * 10 + turn));
    }
  }
  // Two conversations fit, not five.
  start(true, 2 * engine_->model().sequence_bytes(300));
  uint64_t cached = 0;
  for (uint32_t turn = 0; turn < kTurns; ++turn) {
    std::vector<Ticket> tickets;
    tickets.reserve(kUsers);
    for (uint32_t user = 0; user < kUsers; ++user)
      tickets.push_back(
          run_->scheduler->submit({request(prompts[user][turn], 12), std::to_string(user), {}}).value());
    for (uint32_t user = 0; user < kUsers; ++user) {
      SCOPED_TRACE("user " + std::to_string(user) + " turn " + std::to_string(turn));
      const Answer got = read(tickets[user]);
      expect_same(got, expected[user][turn]);
      cached += got.cached_tokens;
    }
    EXPECT_TRUE(run_->scheduler->wait_idle(seconds(60)));
    EXPECT_EQ(run_->scheduler->status().kv.held(memory::Tag::kKv), 0u);
  }
  EXPECT_GT(run_->folder->stats().writes, 0u);
  // Where computing is quicker, nothing comes from the disk.
  EXPECT_TRUE(run_->folder->stats().hits == 0 || cached > 0);
  EXPECT_EQ(run_->folder->stats().rejected, 0u);
  EXPECT_FALSE(run_->folder->stats().writes_off);
}

// With and without a disk, in plenty of memory and in little: many at once whose prompts begin alike.
TEST_P(PrefixRestore, AnswersAreThoseGotAloneWhereManyShareABeginning) {
  const std::vector<TokenId> base = prompt(200, 1);
  const auto cut = [&](uint32_t common) { return std::vector<TokenId>(base.begin(), base.begin() + common); };
  std::vector<std::vector<TokenId>> prompts = {base, base, joined(cut(150), prompt(12, 3)),
                                               joined(base, prompt(70, 4)), joined(cut(83), prompt(90, 5))};
  std::vector<Answer> expected;
  start(false);
  for (size_t i = 0; i < prompts.size(); ++i) expected.push_back(ask(prompts[i], 20, std::to_string(i)));
  // What goes on with an answer, while the others ask the same again.
  prompts.push_back(joined(joined(base, expected[0].tokens), prompt(9, 6)));
  expected.push_back(ask(prompts.back(), 20, "next"));
  const uint64_t whole = engine_->model().sequence_bytes(kContext);
  const uint64_t little = engine_->model().sequence_bytes(300) * 5 / 2;
  parallel_ = 4;
  struct Case {
    bool with_folder;
    uint64_t kv_bytes;
  };
  for (const auto& [with_folder, kv_bytes] :
       {Case{false, 12 * whole}, Case{false, little}, Case{true, 12 * whole}, Case{true, little}}) {
    SCOPED_TRACE((with_folder ? "with a folder, " : "") + std::to_string(kv_bytes) + " bytes");
    start(with_folder, kv_bytes, std::chrono::milliseconds(0));
    uint64_t cached = 0;
    for (int round = 0; round < 3; ++round) {
      std::vector<Ticket> tickets;
      tickets.reserve(prompts.size());
      for (const auto& ids : prompts)
        tickets.push_back(run_->scheduler->submit({request(ids, 20), "a", {}}).value());
      for (size_t i = 0; i < prompts.size(); ++i) {
        SCOPED_TRACE("round " + std::to_string(round) + " prompt " + std::to_string(i));
        const Answer got = read(tickets[i]);
        expect_same(got, expected[i]);
        cached += got.cached_tokens;
      }
      EXPECT_TRUE(run_->scheduler->wait_idle(seconds(60)));
      EXPECT_EQ(run_->scheduler->status().kv.held(memory::Tag::kKv), 0u);
    }
    EXPECT_GT(cached, 1000u) << "of 3 x 1500";
    if (with_folder) {
      EXPECT_EQ(run_->folder->stats().rejected, 0u);
    }
  }
}

// A next prompt has the last one in it, but not always the answer as it was: thoughts are left out. From memory and,
// after a restart, from the disk.
TEST_P(PrefixRestore, APromptIsReusedWithoutItsAnswer) {
  const std::vector<TokenId> first = prompt(170, 1);
  const std::vector<TokenId> second = joined({first.begin(), first.begin() + 160}, prompt(50, 2));
  start(false);
  const Answer fresh = ask(second, 20);
  for (const bool restart : {false, true}) {
    SCOPED_TRACE(restart ? "from the disk" : "from memory");
    stop();
    fs::remove_all(path_);
    const uint64_t plenty = 8 * engine_->model().sequence_bytes(kContext);
    start(true, plenty);
    EXPECT_EQ(ask(first, 150).error, "");
    if (restart) start(true, plenty);
    const Answer got = ask(second, 20);
    expect_same(got, fresh);
    EXPECT_GE(got.cached_tokens, 128u);
    EXPECT_EQ(run_->folder->stats().hits, restart ? 1u : 0u);
    EXPECT_EQ(run_->folder->stats().rejected, 0u);
  }
}

// The first one that begins as another cannot know that others will; the second one can.
TEST_P(PrefixRestore, ABeginningThatTwoHadIsThereForTheThird) {
  const std::vector<TokenId> base = prompt(270, 1);
  const auto with_end = [&](uint32_t seed) { return joined(base, prompt(90, seed)); };
  start(false);
  const Answer fresh = ask(with_end(5), 20, "b");
  EXPECT_EQ(ask(with_end(3), 100).cached_tokens, 0u);
  (void)ask(with_end(4), 100);
  const Answer third = ask(with_end(5), 20);
  expect_same(third, fresh);
  EXPECT_GE(third.cached_tokens, 256u);
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixRestore,
                         testing::Values("llama", "mistral", "gemma3", "llama4", "gemma3n", "gpt_oss",
                                         "deepseek_v2", "qwen3_next", "qwen3_5_moe"),
                         [](const auto& family) { return std::string(family.param); });

class PrefixRestoreFaults : public PrefixRestore {};

TEST_P(PrefixRestoreFaults, AFaultyFileIsComputedAgain) {
  const std::vector<TokenId> first = prompt(170, 1);
  start(true);
  const Answer begun = ask(first, 20);
  start(true);  // It is known to be sound,
  for (const auto& entry : fs::recursive_directory_iterator(path_))
    if (entry.path().extension() == ".prefix") {
      std::fstream file(entry.path(), std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(-2000, std::ios::end);  // and then it is not.
      file << "damage";
    }
  const std::vector<TokenId> second = joined(joined(first, begun.tokens), prompt(9, 2));
  const Answer got = ask(second, 30);
  EXPECT_EQ(got.cached_tokens, 0u);
  EXPECT_EQ(run_->folder->stats().rejected, 1u);
  start(false);
  expect_same(got, ask(second, 30));
}

TEST_P(PrefixRestoreFaults, AFolderThatIsTakenAwayChangesNoAnswer) {
  const std::vector<TokenId> first = prompt(100, 1);
  start(true, 2 * engine_->model().sequence_bytes(300));
  const Answer begun = ask(first, 20);
  fs::remove_all(path_);
  for (uint32_t user = 0; user < 6; ++user) (void)ask(prompt(150, user), 3, std::to_string(user));
  EXPECT_TRUE(run_->folder->stats().writes_off);
  expect_same(ask(first, 20), begun);
}

// What is being read when nobody wants it any more, or everything ends.
TEST_P(PrefixRestoreFaults, MayBeCancelledAndStoppedAtAnyTime) {
  const std::vector<TokenId> first = prompt(300, 1);
  start(true);
  const Answer begun = ask(first, 20);
  for (int i = 0; i < 8; ++i) {
    start(true);
    Ticket ticket = run_->scheduler->submit({request(joined(first, prompt(5, 2)), 5), "a", {}}).value();
    if (i % 2 == 0) ticket.cancel();
    if (i % 4 == 3) (void)read(ticket);
    if (i == 0 || i == 2) {
      EXPECT_TRUE(run_->scheduler->wait_idle(seconds(60)));
    }
  }
  start(true);
  // A recurrent state goes back to a border.
  EXPECT_GE(ask(joined(first, prompt(5, 2)), 5).cached_tokens, first.size() / 64 * 64);
  EXPECT_EQ(run_->folder->stats().rejected, 0u);
}

// What is written while it stays in memory is wanted, and changed, at the same time.
TEST_P(PrefixRestoreFaults, WritingBehindChangesNoAnswer) {
  const std::vector<TokenId> first = prompt(170, 1);
  std::vector<std::vector<TokenId>> prompts = {first};
  std::vector<Answer> expected;
  start(false);
  for (uint32_t turn = 0; turn < 6; ++turn) {
    expected.push_back(ask(prompts.back(), 12));
    prompts.push_back(joined(joined(prompts.back(), expected.back().tokens), prompt(15 + turn, turn)));
  }
  start(true, 0, std::chrono::milliseconds(0));
  for (uint32_t turn = 0; turn < 6; ++turn) {
    const Answer got = ask(prompts[turn], 12);
    expect_same(got, expected[turn]);
    if (turn > 0) {
      EXPECT_GE(got.cached_tokens, prompts[turn - 1].size() / 64 * 64);
    }
  }
  EXPECT_EQ(run_->folder->stats().hits, 0u) << "all of it was in memory, too";
  EXPECT_EQ(run_->folder->stats().rejected, 0u);
  stop();
  start(true);
  const Answer again = ask(prompts[5], 12);
  expect_same(again, expected[5]);
  EXPECT_GE(again.cached_tokens, prompts[4].size() / 64 * 64);
  EXPECT_EQ(run_->folder->stats().hits, 1u);
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixRestoreFaults, testing::Values("llama", "qwen3_next"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace mlxf::engine
