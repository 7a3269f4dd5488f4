// bench: tokens per second of prompt processing and of generation, as llama-bench reports them.
//
// Every repetition uses other tokens. Generation continues with tokens drawn from a fixed pseudo-random sequence, not
// with the likeliest one: random and greedy models fall into loops that route to few experts and flatter the caches.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/planner.h"
#include "cli/speed_limit.h"
#include "platform/process.h"

namespace mlxf::cli {
namespace {

constexpr uint64_t kContextMax = uint64_t{1} << 30;  // Positions of all streams.

struct Flags {
  ModelFlags model;
  uint32_t prompt = 512;
  uint32_t generate = 128;
  std::vector<uint32_t> streams = {1};
  uint32_t repetitions = 5;
  uint32_t depth = 0;
  bool json = false;
};

class Tokens {
 public:
  explicit Tokens(uint32_t vocab) : vocab_(vocab) {}
  TokenId next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<TokenId>((state_ >> 33) % vocab_);
  }

 private:
  uint32_t vocab_;
  uint64_t state_ = 42;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Tokens per second of `count` tokens in pieces of `piece`, after `depth` positions, as a session appends them.
Result<double> measure(engine::Engine& engine, Tokens& tokens, uint32_t count, uint32_t piece, uint32_t depth,
                       std::vector<float>& logits) {
  model::Model& model = engine.model();
  const auto sequence = model.make_sequence(depth + count);
  RETURN_IF_ERROR(sequence->fill(depth));
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = tokens.next();
  const auto start = std::chrono::steady_clock::now();
  for (uint32_t at = 0; at < count; at += piece) {
    engine.adapt_memory();
    engine.spare_drive();
    const model::Chunk chunk{sequence.get(), {ids.data() + at, std::min(piece, count - at)}, false};
    RETURN_IF_ERROR(model.forward({&chunk, 1}, logits.data()));
  }
  return count / seconds_since(start);
}

// Counts U(n): how many more experts a pass over n tokens reads than a pass over one.
class ExpertUnion {
 public:
  explicit ExpertUnion(model::Model& model) : model_(model), last_pass_(model.spec().layers.size()) {
    model.observe_routing([this](uint32_t layer, uint32_t, std::span<const int32_t> chosen) {
      std::vector<uint64_t>& last_pass = last_pass_[layer];
      for (const int32_t id : chosen) {
        const auto expert = static_cast<size_t>(id);
        if (expert >= last_pass.size()) last_pass.resize(expert + 1);
        distinct_ += last_pass[expert] != pass_;
        last_pass[expert] = pass_;
      }
      chosen_ += chosen.size();
    });
  }
  ExpertUnion(const ExpertUnion&) = delete;
  ExpertUnion& operator=(const ExpertUnion&) = delete;
  ~ExpertUnion() { model_.observe_routing({}); }

  void begin_pass() { ++pass_; }
  // Of passes over `tokens` each; 1 where there are no experts.
  [[nodiscard]] double mean(uint32_t tokens) const {
    return chosen_ == 0 ? 1.0 : static_cast<double>(distinct_) * tokens / static_cast<double>(chosen_);
  }

 private:
  model::Model& model_;
  std::vector<std::vector<uint64_t>> last_pass_;  // [layers, experts] that chose it.
  uint64_t pass_ = 0;
  uint64_t distinct_ = 0;
  uint64_t chosen_ = 0;
};

// Tokens per second of `streams` sequences together, each of `count` tokens after `depth` positions, decoded side by
// side: a pass takes one token of each.
Result<double> measure_streams(engine::Engine& engine, Tokens& tokens, uint32_t streams, uint32_t count,
                               uint32_t depth, ExpertUnion& experts, std::vector<float>& logits) {
  model::Model& model = engine.model();
  std::vector<std::unique_ptr<kv::Sequence>> sequences(streams);
  for (auto& sequence : sequences) {
    sequence = model.make_sequence(depth + count);
    RETURN_IF_ERROR(sequence->fill(depth));
  }
  std::vector<TokenId> ids(streams);
  std::vector<model::Chunk> chunks(streams);
  for (uint32_t i = 0; i < streams; ++i) chunks[i] = {sequences[i].get(), {&ids[i], 1}, false};
  const auto start = std::chrono::steady_clock::now();
  for (uint32_t at = 0; at < count; ++at) {
    for (TokenId& id : ids) id = tokens.next();
    engine.adapt_memory();
    engine.spare_drive();
    experts.begin_pass();
    RETURN_IF_ERROR(model.forward(chunks, logits.data()));
  }
  return uint64_t{streams} * count / seconds_since(start);
}

struct Row {
  std::string test;
  std::vector<double> samples;
  uint32_t streams = 1;       // Sequences that decode side by side.
  double expert_union = 1.0;  // U(streams).
  uint64_t bytes_per_token = 0;
  uint64_t peak_anon_bytes = 0;  // So far.
  StreamCost cost;
  Judgement judgement = {};
  double expected_tok_s = 0;  // By the plan; 0: there is none.
  [[nodiscard]] double median() const {
    std::vector<double> sorted = samples;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  [[nodiscard]] double plan_error() const { return Expectation::error(expected_tok_s, median()); }
};

void print(const Flags& flags, const std::vector<Row>& rows, double load_seconds, uint64_t peak_bytes) {
  if (flags.json) {
    Json out = Json::array();
    for (const Row& row : rows) {
      Json item = {{"test", row.test}, {"tok_s", row.median()}, {"samples", row.samples}};
      if (row.bytes_per_token != 0) item["bytes_per_token"] = row.bytes_per_token;
      if (row.streams > 1) {
        item["streams"] = row.streams;
        item["expert_union"] = row.expert_union;
      }
      if (row.cost.streams) {
        item["hit_rate"] = row.cost.hit_rate();
        item["weight_bytes_read"] = row.cost.storage.bytes;
        item["stall_seconds"] = row.cost.stall_seconds();
      }
      add_to_json(row.cost, row.judgement, item);
      item["peak_anon_bytes"] = row.peak_anon_bytes;
      if (row.expected_tok_s > 0) {
        item["plan_tok_s"] = row.expected_tok_s;
        item["plan_error"] = row.plan_error();
      }
      out.push_back(item);
    }
    std::printf("%s\n", dump_json(out, 2).c_str());
    return;
  }
  for (const Row& row : rows) {
    const auto [low, high] = std::minmax_element(row.samples.begin(), row.samples.end());
    std::printf("%-14s %8.2f tok/s  (%.2f - %.2f)", row.test.c_str(), row.median(), *low, *high);
    if (row.streams > 1)
      std::printf("  %.2f each  U = %.2f", row.median() / row.streams, row.expert_union);
    else if (row.bytes_per_token != 0)
      std::printf("  %.3f GB/token  %.1f GB/s", static_cast<double>(row.bytes_per_token) / 1e9,
                  static_cast<double>(row.bytes_per_token) / 1e9 * row.median());
    if (row.cost.streams)
      std::printf("\n               %s", summary(row.cost, row.judgement).c_str());
    else if (row.judgement.limit.tok_s > 0.0)
      std::printf("  %.0f %% of the limit %.2f (%s)", row.judgement.limit_share() * 100,
                  row.judgement.limit.tok_s, row.judgement.limit.bound);
    if (row.expected_tok_s > 0)
      std::printf("; plan: %.2f tok/s (%+.0f %%)", row.expected_tok_s, row.plan_error() * 100);
    std::printf("\n");
  }
  std::printf("loaded in %.2f s, peak memory %.2f GB\n", load_seconds, static_cast<double>(peak_bytes) / 1e9);
}

// B_ssd, in what memory the budget has left. Before and after what is judged: whoever else uses the disk for a moment
// disturbs one of them, and the faster counts.
Status probe_disk(const Flags& flags, uint64_t budget, const engine::Engine& engine, SpeedLimit& limit) {
  ASSIGN_OR_RETURN(const storage::Backend backend, storage::parse_backend(flags.model.io));
  const uint64_t held = platform::own_memory_bytes();
  return limit.probe_disk(engine.manifest(), backend, budget > held ? budget - held : 0);
}

// After the measurement: the probes take memory of their own.
Status judge(const Flags& flags, uint64_t budget, engine::Engine& engine,
             const weights::RoutingWindow* routing, SpeedLimit& limit, std::vector<Row>& rows) {
  model::Model& model = engine.model();
  std::vector<SpeedLimit::DecodeWork> works;
  works.reserve(rows.size());
  for (const Row& row : rows) {
    works.push_back(SpeedLimit::decode_work(model, flags.depth + (flags.generate - 1) / 2.0,
                                            row.cost.hit_rate(),
                                            row.bytes_per_token != 0 ? routing : nullptr));
    for (plan::PassWork* work : {&works.back().best, &works.back().own}) {
      work->positions = work->gained_tokens = row.streams;
      work->distinct_experts = row.expert_union;
    }
  }
  if (rows.empty()) return {};
  const double chunks = std::max(1.0, std::ceil(static_cast<double>(flags.prompt) / model.chunk_tokens()));
  const auto needed = static_cast<double>(rows.front().cost.cache.needed_bytes);
  plan::PassWork prompt =
      SpeedLimit::prompt_work(model, flags.prompt / chunks, needed / (chunks * flags.repetitions));
  weights::RecordCache* cache = model.weight_cache();
  if (model.streams()) {
    // In what the cache leaves. A second probe of RAM would have too little of it.
    if (cache != nullptr) cache->set_bytes(0);
    RETURN_IF_ERROR(probe_disk(flags, budget, engine, limit));
  } else {
    RETURN_IF_ERROR(limit.probe());
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    row.judgement.tok_s = row.median();
    if (row.bytes_per_token != 0) {
      ASSIGN_OR_RETURN(row.judgement, limit.judge(works[i], row.median(), model));
    } else {
      row.judgement.best_hit_rate = prompt.hit_rate;
      ASSIGN_OR_RETURN(row.judgement.limit, limit.limit_of(prompt, model));
      // What was read ahead counts as found in memory there, but the disk had to bring it.
      const auto read = static_cast<double>(row.cost.cache.read_bytes);
      prompt.hit_rate = needed > 0 ? std::max(0.0, 1 - read / needed) : 1;
      ASSIGN_OR_RETURN(row.judgement.pipeline, limit.limit_of(prompt, model));
    }
    row.judgement.probe_bytes_s = limit.ssd_bytes_s();
  }
  return {};
}

// What a plan expects of the same budget; it measures the arithmetic, for which the model's memory is given back. The
// rows stand where there is no plan.
void add_plan(const Flags& flags, uint64_t budget, const SpeedLimit& limit,
              std::unique_ptr<engine::Engine> engine, std::vector<Row>& rows) {
  PlannerOptions options(flags.model);
  options.budget_bytes = budget;
  options.context_tokens = flags.depth + std::max(flags.prompt, flags.generate);
  options.prompt_tokens = flags.prompt;
  options.depth = flags.depth + flags.generate / 2.0;
  options.held_bytes = engine->held_before_weights();
  const plan::HardwareProfile measured = limit.profile();
  options.otherwise = &measured;
  const std::string path = engine->manifest().path;
  engine.reset();
  const auto expected = expect(path, options);
  if (!expected) std::fprintf(stderr, "no plan to compare with: %s\n", expected.error().message.c_str());
  for (Row& row : rows)
    if (expected)
      row.expected_tok_s = row.bytes_per_token != 0 ? expected->decode_tok_s : expected->prompt_tok_s;
}

// The rows that the flags ask for, measured. `peak_bytes`: of this process's memory.
Result<std::vector<Row>> measure_rows(const Flags& flags, engine::Engine& engine,
                                      std::unique_ptr<weights::RoutingWindow>& routing,
                                      uint64_t& peak_bytes) {
  model::Model& model = engine.model();
  Tokens tokens(model.spec().vocab);
  std::vector<float> logits(uint64_t{model.spec().vocab} *
                            *std::max_element(flags.streams.begin(), flags.streams.end()));
  const std::string suffix = flags.depth != 0 ? "@" + std::to_string(flags.depth) : "";
  std::vector<Row> rows;
  rows.reserve(flags.streams.size() + 1);
  // Repeats `once`, which measures a speed.
  const auto add = [&](Row row, const auto& once) -> Status {
    const StreamCost before = StreamCost::of(engine);
    for (uint32_t i = 0; i < flags.repetitions; ++i) {
      ASSIGN_OR_RETURN(const double speed, once());
      row.samples.push_back(speed);
    }
    row.cost = StreamCost::of(engine).since(before);
    row.peak_anon_bytes = peak_bytes = std::max(peak_bytes, platform::own_memory_bytes());
    rows.push_back(std::move(row));
    return {};
  };
  // One pass to warm up: scratch grows, pages are touched, the clock rises.
  RETURN_IF_ERROR(
      measure(engine, tokens, std::min(64u, std::max(flags.prompt, 8u)), model.chunk_tokens(), 0, logits));
  if (flags.prompt != 0) {
    Row row;
    row.test = "pp" + std::to_string(flags.prompt) + suffix;
    RETURN_IF_ERROR(add(std::move(row), [&] {
      return measure(engine, tokens, flags.prompt, model.chunk_tokens(), flags.depth, logits);
    }));
  }
  for (const uint32_t streams : flags.generate != 0 ? flags.streams : std::vector<uint32_t>{}) {
    Row row;
    row.test = "tg" + std::to_string(flags.generate) + suffix;
    row.bytes_per_token = model.active_bytes();
    row.streams = streams;
    if (streams == 1) {
      routing = watch_routing(engine);
      RETURN_IF_ERROR(add(std::move(row),
                          [&] { return measure(engine, tokens, flags.generate, 1, flags.depth, logits); }));
      continue;
    }
    row.test += "x" + std::to_string(streams);
    ExpertUnion experts(model);
    RETURN_IF_ERROR(add(std::move(row), [&] {
      return measure_streams(engine, tokens, streams, flags.generate, flags.depth, experts, logits);
    }));
    rows.back().expert_union = experts.mean(streams);
  }
  return rows;
}

Status run(const Flags& flags) {
  engine::EngineOptions options;
  options.sequences = *std::max_element(flags.streams.begin(), flags.streams.end());
  const uint64_t context = std::max<uint64_t>(flags.depth + std::max(flags.prompt, flags.generate),
                                              uint64_t{options.sequences} * (flags.depth + flags.generate));
  if (context > kContextMax)
    return fail(ErrorCode::kInvalidArgument, "--streams, --depth and --generate come to " +
                                                 std::to_string(context) + " positions; at most " +
                                                 std::to_string(kContextMax));
  options.context_tokens = static_cast<uint32_t>(context);
  SpeedLimit limit(flags.model.threads);
  ASSIGN_OR_RETURN(const uint64_t budget, flags.model.budget_bytes());
  RETURN_IF_ERROR(limit.probe(budget / 2));
  ASSIGN_OR_RETURN(auto engine, flags.model.open(options));
  std::unique_ptr<weights::RoutingWindow> routing;
  uint64_t peak_bytes = 0;
  // While the slots of what is streamed are untouched.
  if (engine->model().streams()) RETURN_IF_ERROR(probe_disk(flags, budget, *engine, limit));
  ASSIGN_OR_RETURN(std::vector<Row> rows, measure_rows(flags, *engine, routing, peak_bytes));
  RETURN_IF_ERROR(judge(flags, budget, *engine, routing.get(), limit, rows));
  RETURN_IF_ERROR(flags.model.finish(*engine));
  const double load_seconds = engine->load_seconds();
  // A plan is made for one text.
  if (engine->model().weight_cache() != nullptr && options.sequences == 1)
    add_plan(flags, budget, limit, std::move(engine), rows);
  print(flags, rows, load_seconds, peak_bytes);
  return {};
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("bench", "Measure prompt processing and generation");
  flags->model.add_to(*command);
  flags->model.add_save_heat(*command);
  command->add_option("-p,--prompt", flags->prompt, "Prompt tokens (0: skip)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  command->add_option("-n,--generate", flags->generate, "Generated tokens (0: skip)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  command
      ->add_option("--streams", flags->streams,
                   "Answers that are generated side by side, as of so many clients, in turn: 1,4,8")
      ->delimiter(',')
      ->check(CLI::Range(1, 256))
      ->default_str("1");
  command->add_option("-r,--repetitions", flags->repetitions, "Repetitions; the median counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command->add_option("--depth", flags->depth, "Positions already in the context")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
