#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <fstream>
#include <numeric>

#include "engine/session.h"
#include "formats/manifest.h"

namespace mlxf::engine {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

constexpr const char* kBundled = MLXF_SOURCE_DIR "/models/classics-moe-4bit";
constexpr uint32_t kContext = 512;

struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  std::optional<Finished> finished;
  std::optional<Error> error;
};

void take(Answer& answer, Event event) {
  if (auto* token = std::get_if<GeneratedToken>(&event)) {
    if (token->id >= 0) answer.tokens.push_back(token->id);
    answer.text += token->text;
  } else if (auto* finished = std::get_if<Finished>(&event)) {
    answer.finished = *finished;
  } else {
    answer.error = std::get<Error>(event);
  }
}

// Reads a ticket to its end.
Answer read(Ticket& ticket) {
  Answer answer;
  while (!answer.finished && !answer.error) {
    std::optional<Event> event = ticket.wait(seconds(120));
    if (!event) {
      ADD_FAILURE() << "no event in two minutes";
      break;
    }
    take(answer, std::move(*event));
  }
  return answer;
}

// One engine for all tests; each makes its own scheduler, which has the engine for itself.
class SchedulerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    EngineOptions options;
    options.threads = 2;
    options.with_tokenizer = true;
    auto engine = Engine::open(kBundled, options);
    ASSERT_TRUE(engine) << engine.error().message;
    engine_ = engine->release();
  }
  static void TearDownTestSuite() { delete engine_; }
  // Of which no sequence has been yet: its pages are those of the test.
  static void open_anew() {
    TearDownTestSuite();
    SetUpTestSuite();
  }

  static GenerateRequest request(const std::string& prompt, uint32_t tokens, uint64_t seed = 11) {
    GenerateRequest r;
    r.prompt = engine_->tokenizer().encode(prompt).value();
    r.max_tokens = tokens;
    r.sampling.seed = seed;
    return r;
  }
  static GenerateRequest long_request(uint32_t prompt_tokens, uint32_t tokens) {
    GenerateRequest r;
    r.prompt.resize(prompt_tokens);
    std::iota(r.prompt.begin(), r.prompt.end(), 100);
    r.max_tokens = tokens;
    r.ignore_end = true;
    return r;
  }
  // What one conversation alone gives. Not while a scheduler has the engine.
  static GenerateResult alone(const GenerateRequest& request) {
    Session session(*engine_, &engine_->tokenizer(), kContext);
    return session.generate(request).value();
  }
  static SchedulerOptions options() {
    SchedulerOptions o;
    o.context_max = kContext;
    return o;
  }
  static std::unique_ptr<Scheduler> start(const SchedulerOptions& options) {
    metrics_ = std::make_unique<Metrics>();
    return std::make_unique<Scheduler>(*engine_, &engine_->tokenizer(), options, *metrics_);
  }

  // A request of a user of its own that writes while others are looked at. `at` is called by the engine's thread at
  // each of its tokens, with their number from 1 on: what is submitted in one call comes at once, between two steps.
  static Ticket submit_clock(Scheduler& scheduler, std::function<void(uint32_t)> at) {
    const auto beats = std::make_shared<uint32_t>(0);
    return scheduler.submit({long_request(20, 40), "clock", [at = std::move(at), beats] { at(++*beats); }})
        .value();
  }
  // A piece of a prompt in each step.
  static SchedulerOptions clocked_options() {
    SchedulerOptions o = options();
    o.prefill_share = 1.0;
    return o;
  }
  // The first `common` tokens of `request`, and others.
  static GenerateRequest branch(GenerateRequest request, uint32_t common, TokenId other) {
    request.prompt.resize(common);
    request.prompt.resize(common + 20, other);
    return request;
  }

  static Engine* engine_;
  static std::unique_ptr<Metrics> metrics_;
};
Engine* SchedulerTest::engine_ = nullptr;
std::unique_ptr<Metrics> SchedulerTest::metrics_;

TEST_F(SchedulerTest, GivesEachRequestTheBytesThatItGetsAlone) {
  std::vector<GenerateRequest> requests = {
      request("The old man walked along", 30), request("It was a dark night, and the wind", 24, 5),
      request("Once", 40, 7), long_request(150, 16), request("The old man walked along", 30, 12)};
  requests[1].sampling.temperature = 0.0f;
  requests[2].sampling.top_k = 20;
  requests[2].sampling.repetition_penalty = 1.2f;
  requests[4].sampling.top_p = 0.7f;
  std::vector<GenerateResult> expected;
  expected.reserve(requests.size());
  for (const GenerateRequest& r : requests) expected.push_back(alone(r));

  SchedulerOptions o = options();
  o.prefill_tokens = 48;
  const auto scheduler = start(o);
  std::vector<Ticket> tickets;
  tickets.reserve(requests.size());
  for (const GenerateRequest& r : requests) tickets.push_back(scheduler->submit({r, "a", {}}).value());
  for (size_t i = 0; i < requests.size(); ++i) {
    const Answer answer = read(tickets[i]);
    ASSERT_TRUE(answer.finished) << i;
    EXPECT_EQ(answer.tokens, expected[i].tokens) << i;
    EXPECT_EQ(answer.text, expected[i].text) << i;
    EXPECT_EQ(answer.finished->reason, expected[i].finish) << i;
    EXPECT_EQ(answer.finished->usage.prompt_tokens, requests[i].prompt.size());
    EXPECT_EQ(answer.finished->usage.generated_tokens, expected[i].tokens.size());
  }
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  const std::string metrics = metrics_->expose();
  EXPECT_THAT(metrics, HasSubstr("mlx_flash_ttft_seconds_count 5\n"));
  EXPECT_THAT(metrics, HasSubstr("mlx_flash_batch_rows_bucket{le=\"1\"}"));
}

TEST_F(SchedulerTest, GivesTheSameBytesWhenSequencesHaveToGiveWay) {
  SchedulerOptions o = options();
  o.parallel = 2;
  // Both are admitted with 5 pages a layer; at their ends they need 6.
  o.kv_bytes = 10 * engine_->model().sequence_bytes(64);
  std::vector<GenerateRequest> requests;
  std::vector<GenerateResult> expected;
  for (uint32_t i = 0; i < 2; ++i) {
    requests.push_back(long_request(60 + i, 280));
    requests.back().sampling.seed = i;
    expected.push_back(alone(requests.back()));
  }
  const auto scheduler = start(o);
  std::vector<Ticket> tickets;
  tickets.reserve(requests.size());
  for (const GenerateRequest& r : requests) tickets.push_back(scheduler->submit({r, "a", {}}).value());
  for (size_t i = 0; i < requests.size(); ++i) {
    const Answer answer = read(tickets[i]);
    ASSERT_TRUE(answer.finished) << (answer.error ? answer.error->message : "");
    EXPECT_EQ(answer.tokens, expected[i].tokens) << i;
    EXPECT_EQ(answer.finished->usage.generated_tokens, 280u);
  }
  EXPECT_THAT(metrics_->expose(), testing::Not(HasSubstr("mlx_flash_preemptions_total 0\n")));
  EXPECT_LE(scheduler->status().kv.held_bytes_max, o.kv_bytes);
}

TEST_F(SchedulerTest, ANextTurnCostsItsNewTokensToItsUserAlone) {
  GenerateRequest turn = request("It was a dark night, and the wind was howling over the moor as", 16);
  const std::vector<TokenId> first_tokens = alone(turn).tokens;
  GenerateRequest next = turn;
  next.prompt.insert(next.prompt.end(), first_tokens.begin(), first_tokens.end());
  next.prompt.push_back(7);
  const std::vector<TokenId> expected = alone(next).tokens;
  const auto scheduler = start(options());
  Ticket first = scheduler->submit({turn, "a", {}}).value();
  const Answer answer = read(first);
  ASSERT_TRUE(answer.finished);
  EXPECT_EQ(answer.tokens, first_tokens);
  EXPECT_EQ(answer.finished->usage.cached_tokens, 0u);
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  Ticket other = scheduler->submit({next, "b", {}}).value();
  const Answer foreign = read(other);
  EXPECT_EQ(foreign.finished->usage.cached_tokens, 0u) << "another user's";
  Ticket second = scheduler->submit({next, "a", {}}).value();
  const Answer warm = read(second);
  // The last generated token was never fed back, so the cache ends before it.
  EXPECT_EQ(warm.finished->usage.cached_tokens, turn.prompt.size() + answer.tokens.size() - 1);
  EXPECT_EQ(warm.tokens, expected);
  EXPECT_EQ(foreign.tokens, expected);
}

TEST_F(SchedulerTest, ABeginningThatManyHaveIsComputedOnce) {
  const GenerateRequest first = long_request(230, 16);
  const std::vector<GenerateRequest> requests = {first, first, branch(first, 150, 7), branch(first, 230, 8),
                                                 branch(first, 60, 9)};
  std::vector<std::vector<TokenId>> expected;
  expected.reserve(requests.size());
  for (const GenerateRequest& r : requests) expected.push_back(alone(r).tokens);
  std::vector<Ticket> tickets;
  std::vector<Progress> progress;
  SchedulerOptions o = clocked_options();
  o.parallel = 6;
  const auto scheduler = start(o);
  Ticket clock = submit_clock(*scheduler, [&](uint32_t beat) {
    if (beat == 1)
      for (const GenerateRequest& r : requests) tickets.push_back(scheduler->submit({r, "a", {}}).value());
    if (beat == 4)
      for (const Ticket& ticket : tickets) progress.push_back(ticket.progress());
  });
  EXPECT_TRUE(read(clock).finished);
  const uint32_t cached[] = {0, 229, 150, 230, 0};
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const Answer answer = read(tickets[i]);
    ASSERT_TRUE(answer.finished);
    EXPECT_EQ(answer.tokens, expected[i]);
    // What comes within a step is computed beside, or found if that came sooner.
    if (i < 4)
      EXPECT_EQ(answer.finished->usage.cached_tokens, cached[i]);
    else
      EXPECT_LE(answer.finished->usage.cached_tokens, 60u);
  }
  ASSERT_EQ(progress.size(), requests.size());
  EXPECT_EQ(progress[0].stage, Progress::Stage::kReading);
  EXPECT_EQ(progress[0].prompt_done, 128u);
  for (const size_t i : {1u, 2u, 3u}) EXPECT_EQ(progress[i].stage, Progress::Stage::kQueued) << i;
  EXPECT_EQ(progress[1].position, 0u);
  EXPECT_EQ(progress[3].position, 2u);
  EXPECT_EQ(progress[4].stage, Progress::Stage::kReading) << "nobody waits for so little";
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  EXPECT_EQ(scheduler->status().kv.held(memory::Tag::kKv), 0u);
}

TEST_F(SchedulerTest, WhoWaitsForABeginningLetsOthersGoFirst) {
  const GenerateRequest first = long_request(300, 8);
  std::vector<Ticket> tickets;
  std::vector<Progress> progress;
  const auto scheduler = start(clocked_options());
  Ticket clock = submit_clock(*scheduler, [&](uint32_t beat) {
    if (beat == 1)
      for (const char* user : {"a", "a", "b"})
        tickets.push_back(scheduler->submit({first, user, {}}).value());
    if (beat == 2)
      for (const Ticket& ticket : tickets) progress.push_back(ticket.progress());
  });
  EXPECT_TRUE(read(clock).finished);
  const Answer answers[] = {read(tickets[0]), read(tickets[1]), read(tickets[2])};
  EXPECT_EQ(progress[0].stage, Progress::Stage::kReading);
  EXPECT_EQ(progress[1].stage, Progress::Stage::kQueued);
  EXPECT_EQ(progress[2].stage, Progress::Stage::kReading) << "another user's is not looked at";
  EXPECT_EQ(answers[0].finished->usage.cached_tokens, 0u);
  EXPECT_EQ(answers[1].finished->usage.cached_tokens, 299u);
  EXPECT_EQ(answers[2].finished->usage.cached_tokens, 0u);
  EXPECT_EQ(answers[1].tokens, answers[0].tokens);
  EXPECT_EQ(answers[2].tokens, answers[0].tokens);
}

TEST_F(SchedulerTest, EitherMayBeCancelledWhileOneWaitsForTheOther) {
  const GenerateRequest first = long_request(300, 8), second = branch(first, 280, 7);
  const std::vector<TokenId> expected[] = {alone(first).tokens, alone(second).tokens};
  for (const size_t cancelled : {0u, 1u}) {
    SCOPED_TRACE(cancelled);
    std::vector<Ticket> tickets;
    std::vector<Progress> progress;
    SchedulerOptions o = clocked_options();
    const auto scheduler = start(o);
    Ticket clock = submit_clock(*scheduler, [&](uint32_t beat) {
      if (beat == 1)
        for (const GenerateRequest& r : {first, second})
          tickets.push_back(scheduler->submit({r, "a", {}}).value());
      if (beat == 4) tickets[cancelled].cancel();
      if (beat == 6) progress = {tickets[0].progress(), tickets[1].progress()};
    });
    EXPECT_TRUE(read(clock).finished);
    const Answer gone = read(tickets[cancelled]), got = read(tickets[1 - cancelled]);
    ASSERT_TRUE(gone.finished && got.finished);
    EXPECT_EQ(gone.finished->reason, FinishReason::kCancelled);
    EXPECT_EQ(got.tokens, expected[1 - cancelled]);
    EXPECT_EQ(progress[cancelled].stage, Progress::Stage::kEnded);
    EXPECT_NE(progress[1 - cancelled].stage, Progress::Stage::kQueued);
    // What the first had read until then is not lost.
    const uint32_t cached = got.finished->usage.cached_tokens;
    EXPECT_TRUE(cancelled == 1 ? cached == 0 : cached >= 128 && cached < 280) << cached;
    EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  }
}

// A long beginning in front of a longer conversation: most of what is kept is of no use, and stays.
TEST_F(SchedulerTest, ABranchOfLessThanHalfLeavesTheOtherOne) {
  const GenerateRequest first = long_request(400, 8), other = branch(first, 120, 7);
  const std::vector<TokenId> first_tokens = alone(first).tokens, other_tokens = alone(other).tokens;
  GenerateRequest next = first;
  next.prompt.insert(next.prompt.end(), first_tokens.begin(), first_tokens.end());
  next.prompt.push_back(7);
  const std::vector<TokenId> next_tokens = alone(next).tokens;
  const auto scheduler = start(options());
  const auto ask = [&](const GenerateRequest& r) {
    Ticket ticket = scheduler->submit({r, "a", {}}).value();
    Answer answer = read(ticket);
    EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
    return answer;
  };
  EXPECT_EQ(ask(first).tokens, first_tokens);
  const Answer branched = ask(other);
  EXPECT_EQ(branched.tokens, other_tokens);
  EXPECT_EQ(branched.finished->usage.cached_tokens, 120u);
  EXPECT_EQ(scheduler->status().prefix_entries, 2u);
  const Answer continued = ask(next);
  EXPECT_EQ(continued.tokens, next_tokens);
  EXPECT_EQ(continued.finished->usage.cached_tokens, 407u);
  EXPECT_THAT(metrics_->expose(), HasSubstr("mlx_flash_cached_tokens_total 527\n"));
}

TEST_F(SchedulerTest, SharedPagesChangeNothingWhereSequencesHaveToGiveWay) {
  SchedulerOptions o = options();
  o.parallel = 3;
  // Two are admitted with 6 pages a layer, of which they share one; at its end the first one needs 7.
  o.kv_bytes = 11 * engine_->model().sequence_bytes(64);
  std::vector<GenerateRequest> requests = {long_request(120, 280), long_request(120, 280),
                                           branch(long_request(120, 280), 100, 7)};
  std::vector<GenerateResult> expected;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].sampling.seed = i;
    expected.push_back(alone(requests[i]));
  }
  open_anew();
  const auto scheduler = start(o);
  std::vector<Ticket> tickets;
  tickets.reserve(requests.size());
  for (const GenerateRequest& r : requests) tickets.push_back(scheduler->submit({r, "a", {}}).value());
  uint32_t cached = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Answer answer = read(tickets[i]);
    ASSERT_TRUE(answer.finished) << (answer.error ? answer.error->message : "");
    EXPECT_EQ(answer.tokens, expected[i].tokens) << i;
    cached += answer.finished->usage.cached_tokens;
  }
  EXPECT_GE(cached, 119u);
  EXPECT_THAT(metrics_->expose(), testing::Not(HasSubstr("mlx_flash_preemptions_total 0\n")));
  EXPECT_LE(engine_->model().page_bytes(), o.kv_bytes);
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  EXPECT_EQ(scheduler->status().kv.held(memory::Tag::kKv), 0u);
}

// Each is charged with all of its pages, and what is charged more than once is room for others.
TEST_F(SchedulerTest, SharedPagesMakeRoomForMore) {
  open_anew();
  const model::Model& model = engine_->model();
  SchedulerOptions o = options();
  o.parallel = 4;
  // A whole one, and of three others what they do not share with it.
  o.kv_bytes =
      model.sequence_bytes(kContext) + 3 * (model.sequence_bytes(kContext) - model.lasting_bytes(320));
  ASSERT_LT(o.kv_bytes, 3 * model.sequence_bytes(kContext));
  const GenerateRequest base = long_request(330, 20);
  const std::vector<GenerateRequest> requests = {base, branch(base, 325, 7), branch(base, 325, 8),
                                                 branch(base, 325, 9)};
  std::vector<GenerateResult> expected;
  expected.reserve(requests.size());
  for (const GenerateRequest& r : requests) expected.push_back(alone(r));
  for (int round = 0; round < 2; ++round) {
    SCOPED_TRACE(round);
    const auto scheduler = start(o);
    std::atomic<uint32_t> most = 0;
    std::vector<Ticket> tickets;
    tickets.reserve(requests.size());
    for (const GenerateRequest& r : requests)
      tickets.push_back(scheduler
                            ->submit({r, "a",
                                      [&] {
                                        const uint32_t running = scheduler->status().running;
                                        most = std::max(most.load(), running);
                                      }})
                            .value());
    for (size_t i = 0; i < requests.size(); ++i) {
      const Answer answer = read(tickets[i]);
      ASSERT_TRUE(answer.finished) << (answer.error ? answer.error->message : "");
      EXPECT_EQ(answer.tokens, expected[i].tokens) << i;
      EXPECT_EQ(answer.finished->usage.cached_tokens, i == 0 ? 0u : 325u);
    }
    EXPECT_EQ(most, 4u);
    EXPECT_THAT(metrics_->expose(), HasSubstr("mlx_flash_preemptions_total 0\n"));
    EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
    EXPECT_GT(scheduler->status().kv_doubled_bytes, 2 * model.lasting_bytes(320)) << "kept ones share, too";
    EXPECT_EQ(scheduler->status().kv.held(memory::Tag::kKv), 0u);
  }
  EXPECT_EQ(model.doubled_bytes(), 0u);
  EXPECT_LE(model.page_bytes(), o.kv_bytes);
}

TEST_F(SchedulerTest, EmbedsTheStateBehindTheLastToken) {
  const std::vector<TokenId> prompt = long_request(100, 1).prompt;
  // By hand: the last layer's row, normalised by the weights in the file.
  model::Model& model = engine_->model();
  const uint32_t hidden = model.spec().hidden;
  std::vector<float> row(hidden), logits(model.spec().vocab);
  {
    const auto sequence = model.make_sequence(kContext);
    const model::Chunk chunk{sequence.get(), prompt};
    ASSERT_TRUE(model.forward({&chunk, 1}, logits.data(),
                              [&](uint32_t, const float* rows, uint32_t tokens, uint32_t width) {
                                std::copy_n(rows + (tokens - 1) * width, width, row.data());
                              }));
  }
  const formats::ModelManifest manifest = formats::open_model(kBundled).value();
  const formats::TensorEntry* norm = manifest.find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  std::vector<uint16_t> halves(hidden);
  std::ifstream file(manifest.files.at(norm->file), std::ios::binary);
  file.seekg(static_cast<std::streamoff>(norm->offset));
  ASSERT_TRUE(file.read(reinterpret_cast<char*>(halves.data()), hidden * 2));
  double squares = 0;
  for (uint32_t i = 0; i < hidden; ++i) {
    row[i] *= std::bit_cast<float>(uint32_t{halves[i]} << 16);  // bf16; the mean square cancels out.
    squares += double{row[i]} * row[i];
  }
  for (float& value : row) value = static_cast<float>(value / std::sqrt(squares));

  SchedulerOptions small = options();
  small.prefill_tokens = 16;
  const auto scheduler = start(small);
  Submission submission;
  submission.request.prompt = prompt;
  submission.embed = true;
  Ticket first = scheduler->submit(submission).value();
  const Answer alone = read(first);
  ASSERT_TRUE(alone.finished);
  EXPECT_TRUE(alone.tokens.empty());
  EXPECT_EQ(alone.finished->usage.prompt_tokens, 100u);
  ASSERT_EQ(alone.finished->embedding.size(), hidden);
  for (uint32_t i = 0; i < hidden; ++i) ASSERT_NEAR(alone.finished->embedding[i], row[i], 1e-5);
  // Beside neighbours, in small pieces: the same bits, and the neighbours' answers stay theirs.
  Submission neighbour;
  neighbour.request = request("The old man walked along", 40);
  neighbour.request.ignore_end = true;
  Ticket before = scheduler->submit(neighbour).value();
  Answer answer;
  while (answer.tokens.empty()) {
    std::optional<Event> event = before.wait(seconds(60));
    ASSERT_TRUE(event);
    take(answer, std::move(*event));
  }
  Ticket second = scheduler->submit(submission).value();
  const Answer beside = read(second);
  ASSERT_TRUE(beside.finished);
  EXPECT_EQ(beside.finished->embedding, alone.finished->embedding);
  EXPECT_EQ(beside.finished->usage.cached_tokens, 0u);
  answer.text += read(before).text;
  Ticket again = scheduler->submit(neighbour).value();
  EXPECT_EQ(read(again).text, answer.text);
}

TEST_F(SchedulerTest, CancelsWhatWaitsReadsAndWrites) {
  const GenerateRequest last = request("The old man", 8);
  const std::vector<TokenId> expected = alone(last).tokens;
  SchedulerOptions o = options();
  o.parallel = 1;
  const auto scheduler = start(o);
  Ticket writing = scheduler->submit({long_request(20, 450), "a", {}}).value();
  ASSERT_TRUE(std::holds_alternative<GeneratedToken>(*writing.wait(seconds(60))));
  Ticket waiting = scheduler->submit({request("one", 5), "a", {}}).value();
  EXPECT_EQ(waiting.progress().stage, Progress::Stage::kQueued);
  waiting.cancel();
  EXPECT_EQ(read(waiting).finished->reason, FinishReason::kCancelled);
  writing.cancel();
  const Answer cut = read(writing);
  EXPECT_EQ(cut.finished->reason, FinishReason::kCancelled);
  EXPECT_LT(cut.tokens.size(), 450u);
  {
    const Ticket reading = scheduler->submit({long_request(500, 5), "b", {}}).value();
    (void)reading;  // Dropping a ticket cancels.
  }
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  EXPECT_EQ(scheduler->status().running, 0u);
  EXPECT_EQ(scheduler->status().kv.held(memory::Tag::kKv), 0u);
  Ticket after = scheduler->submit({last, "a", {}}).value();
  EXPECT_EQ(read(after).tokens, expected);
}

TEST_F(SchedulerTest, RefusesWithTheNumbersWhatCannotFit) {
  SchedulerOptions o = options();
  o.parallel = 1;
  o.queue_max = 1;
  o.kv_bytes = engine_->model().sequence_bytes(128);
  const auto scheduler = start(o);
  const auto too_big = scheduler->submit({long_request(200, 5), "a", {}});
  ASSERT_FALSE(too_big);
  EXPECT_EQ(too_big.error().code, ErrorCode::kOutOfBudget);
  EXPECT_THAT(too_big.error().message, HasSubstr("200 tokens need"));
  EXPECT_THAT(too_big.error().message, HasSubstr("(128 tokens)"));
  EXPECT_EQ(scheduler->submit({long_request(600, 5), "a", {}}).error().code, ErrorCode::kInvalidArgument);

  Ticket runs = scheduler->submit({long_request(20, 100), "a", {}}).value();
  ASSERT_TRUE(runs.wait(seconds(60)));
  Ticket waits = scheduler->submit({request("one", 5), "a", {}}).value();
  const auto refused = scheduler->submit({request("two", 5), "a", {}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(refused.error().message, HasSubstr("queue is full"));
  EXPECT_TRUE(read(runs).finished);
  EXPECT_TRUE(read(waits).finished);
}

// Those who come at once, or while a long step runs, are not yet looked at by the engine: they do not wait in the queue
// that is for those beyond `parallel`.
TEST_F(SchedulerTest, TheQueueIsForThoseBeyondWhatRunsAtOnce) {
  SchedulerOptions o = options();
  o.parallel = 4;
  o.queue_max = 1;
  const auto scheduler = start(o);
  std::vector<Ticket> tickets;
  tickets.reserve(5);
  for (uint32_t i = 0; i < 5; ++i) {
    auto ticket = scheduler->submit({long_request(100 + i, 80), "a", {}});
    ASSERT_TRUE(ticket) << i << ": " << ticket.error().message;
    tickets.push_back(std::move(*ticket));
  }
  const auto refused = scheduler->submit({request("one", 5), "a", {}});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("queue is full"));
  for (Ticket& ticket : tickets) EXPECT_TRUE(read(ticket).finished);
}

TEST_F(SchedulerTest, AReaderThatDoesNotReadHoldsUpItselfAlone) {
  SchedulerOptions o = options();
  o.event_max = 4;
  o.parallel = 2;
  const GenerateRequest slow_request = request("The old man walked along", 40);
  const GenerateRequest quick_request = request("Once upon a time", 40);
  const std::vector<TokenId> slow_tokens = alone(slow_request).tokens,
                             quick_tokens = alone(quick_request).tokens;
  const auto scheduler = start(o);
  Ticket slow = scheduler->submit({slow_request, "a", {}}).value();
  Ticket quick = scheduler->submit({quick_request, "b", {}}).value();
  EXPECT_EQ(read(quick).tokens, quick_tokens);
  EXPECT_FALSE(scheduler->wait_idle(seconds(0)));
  EXPECT_EQ(read(slow).tokens, slow_tokens);
}

TEST_F(SchedulerTest, UsersTakeTurns) {
  SchedulerOptions o = options();
  o.parallel = 1;
  const auto scheduler = start(o);
  std::vector<Ticket> tickets(5);
  const auto submit = [&](size_t index, const std::string& user, uint32_t tokens) {
    GenerateRequest r = long_request(20, tokens);
    tickets[index] = scheduler->submit({r, user, {}}).value();
  };
  submit(0, "busy", 200);
  ASSERT_TRUE(tickets[0].wait(seconds(60)));
  submit(1, "busy", 4);
  submit(2, "busy", 4);
  submit(3, "other", 4);
  submit(4, "other", 4);
  while (tickets[2].progress().position != 3) ASSERT_TRUE(tickets[0].wait(seconds(60)));
  EXPECT_EQ(tickets[3].progress().position, 0u) << "its user has nothing running";
  EXPECT_EQ(tickets[1].progress().position, 1u);
  EXPECT_EQ(tickets[4].progress().position, 2u);
  for (Ticket& ticket : tickets) EXPECT_TRUE(read(ticket).finished);
}

TEST_F(SchedulerTest, StopsInAnOrderlyWay) {
  const auto scheduler = start(options());
  Ticket done = scheduler->submit({request("one", 3), "a", {}}).value();
  Ticket cut = scheduler->submit({long_request(20, 480), "a", {}}).value();
  scheduler->drain();
  EXPECT_EQ(scheduler->submit({request("two", 3), "a", {}}).error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(read(done).finished) << "what was accepted goes on";
  EXPECT_FALSE(scheduler->wait_idle(seconds(0)));
  scheduler->stop();
  const Answer answer = read(cut);
  ASSERT_TRUE(answer.error);
  EXPECT_EQ(answer.error->code, ErrorCode::kUnavailable);
}

TEST_F(SchedulerTest, CallsBackForEveryEvent) {
  const auto scheduler = start(options());
  std::atomic<uint32_t> calls{0};
  Ticket ticket = scheduler->submit({request("The old man", 6), "a", [&] { ++calls; }}).value();
  EXPECT_EQ(read(ticket).tokens.size(), 6u);
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  EXPECT_EQ(calls, 7u);
  calls = 0;
  Submission seldom{request("The old man", 6), "a", [&] { ++calls; }};
  seldom.every_event = false;
  Ticket whole = scheduler->submit(std::move(seldom)).value();
  EXPECT_EQ(read(whole).tokens.size(), 6u);
  EXPECT_TRUE(scheduler->wait_idle(seconds(60)));
  EXPECT_EQ(calls, 1u);
}

}  // namespace
}  // namespace mlxf::engine
