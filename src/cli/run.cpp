// run (also: generate): one completion of a prompt, streamed to the terminal as it is made.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/planner.h"
#include "cli/speed_limit.h"
#include "engine/session.h"
#include "platform/process.h"
#include "text/chat_template.h"

namespace mlxf::cli {
namespace {

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string prompt, file, system;
  std::string json_schema, regex, grammar;
  std::vector<std::string> stop;
  uint32_t tokens = 256;
  uint32_t context = 0;
  uint32_t top_logprobs = 0;
  bool chat = false;
  bool special = false;
  bool ignore_end = false;
  bool echo = false;
  bool json = false;
  CLI::Option* logprobs = nullptr;
};

// A schema stands on the command line itself or in a file; a grammar, which has lines, in a file.
Result<std::optional<text::GrammarText>> read_grammar(const Flags& flags) {
  using Kind = text::GrammarText::Kind;
  if (!flags.regex.empty()) return text::GrammarText{Kind::kRegex, flags.regex};
  if (!flags.grammar.empty()) {
    ASSIGN_OR_RETURN(std::string grammar, read_text(flags.grammar));
    return text::gbnf_or_lark(std::move(grammar));
  }
  if (flags.json_schema.empty()) return std::nullopt;
  const size_t first = flags.json_schema.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && flags.json_schema[first] == '{')
    return text::GrammarText{Kind::kJsonSchema, flags.json_schema};
  ASSIGN_OR_RETURN(std::string schema, read_text(flags.json_schema));
  return text::GrammarText{Kind::kJsonSchema, std::move(schema)};
}

struct Prompt {
  std::vector<TokenId> tokens;
  text::Thinking thinking = {};
};

Result<Prompt> encode(const Flags& flags, const engine::Engine& engine, const text::Tokenizer& tokenizer,
                      const std::string& prompt) {
  Prompt encoded;
  if (!flags.chat) {
    text::EncodeOptions options;
    options.parse_special = flags.special;
    ASSIGN_OR_RETURN(encoded.tokens, tokenizer.encode(prompt, options));
    return encoded;
  }
  ASSIGN_OR_RETURN(const text::ChatTemplate chat, text::load_chat_template(engine.manifest()));
  Json messages = Json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  ASSIGN_OR_RETURN(const text::RenderedPrompt rendered, chat.render(messages));
  encoded.thinking = text::thinking_after(chat.source(), rendered.text());
  ASSIGN_OR_RETURN(encoded.tokens, text::encode_prompt(tokenizer, rendered));
  return encoded;
}

double rate(double count, double seconds) { return seconds > 0.0 ? count / seconds : 0.0; }

struct Speeds {
  double prompt, generation;
};

// The first token comes out of the prompt's last pass; the others each took one pass of their own.
Speeds speeds_of(const engine::GenerateResult& result) {
  const auto passes = static_cast<double>(result.tokens.empty() ? 0 : result.tokens.size() - 1);
  return {rate(result.prompt_tokens - result.cached_tokens, result.prompt_seconds),
          rate(passes, result.generate_seconds)};
}

Json logprobs_of(const text::Tokenizer& tokenizer, const std::vector<engine::GeneratedToken>& tokens) {
  Json list = Json::array();
  for (const engine::GeneratedToken& token : tokens) {
    Json top = Json::array();
    for (const decode::TokenLogprob& other : token.top)
      top.push_back(
          {{"id", other.id}, {"token", tokenizer.token_text(other.id)}, {"logprob", other.logprob}});
    list.push_back({{"id", token.id},
                    {"token", tokenizer.token_text(token.id)},
                    {"logprob", token.logprob},
                    {"top_logprobs", top}});
  }
  return list;
}

// What a run has cost: in all, for the answer alone, and how that compares with what the machine allows.
struct Report {
  StreamCost cost, answer_cost;
  Judgement judgement;
  uint64_t seed = 0;
  uint64_t peak_bytes = 0;
};

Json to_json(const engine::GenerateResult& result, const Report& report) {
  const Speeds speeds = speeds_of(result);
  Json out = {{"text", result.text},
              {"tokens", result.tokens},
              {"prompt_tokens", result.prompt_tokens},
              {"generated_tokens", result.tokens.size()},
              {"prompt_tok_s", speeds.prompt},
              {"gen_tok_s", speeds.generation},
              {"finish_reason", name_of(result.finish)},
              {"seed", report.seed},
              {"peak_anon_bytes", report.peak_bytes},
              {"weight_bytes_read", report.cost.storage.bytes},
              {"hit_rate", report.cost.hit_rate()},
              {"answer_hit_rate", report.answer_cost.hit_rate()},
              {"stall_seconds", report.cost.stall_seconds()}};
  add_to_json(report.cost, report.judgement, out);
  if (!result.stop_string.empty()) out["stop_string"] = result.stop_string;
  return out;
}

void print_statistics(const engine::GenerateResult& result, const Report& report) {
  const Speeds speeds = speeds_of(result);
  std::fprintf(stderr,
               "\nprompt: %u tokens, %.1f tok/s; answer: %zu tokens, %.1f tok/s (%s); peak memory %.2f GB; "
               "seed %llu\n",
               result.prompt_tokens, speeds.prompt, result.tokens.size(), speeds.generation,
               name_of(result.finish), static_cast<double>(report.peak_bytes) / 1e9,
               static_cast<unsigned long long>(report.seed));
  if (report.cost.streams)
    std::fprintf(stderr, "streamed: %s\n", summary(report.answer_cost, report.judgement).c_str());
}

// Compares the answer's speed with what the machine allows. The probes run after it, in the memory that the cache then
// leaves; of RAM and arithmetic only where `doctor` has not measured them.
Result<Judgement> judge(const Flags& flags, engine::Engine& engine, const engine::GenerateResult& result,
                        const StreamCost& answer_cost, const weights::RoutingWindow* routing) {
  if (result.tokens.size() < 2) return Judgement{};
  model::Model& model = engine.model();
  const double depth = result.prompt_tokens + static_cast<double>(result.tokens.size() - 1) / 2.0;
  const auto work = SpeedLimit::decode_work(model, depth, answer_cost.hit_rate(), routing);
  if (weights::RecordCache* cache = model.weight_cache()) cache->set_bytes(0);
  ASSIGN_OR_RETURN(const uint64_t budget, flags.model.budget_bytes());
  const uint64_t held = platform::own_memory_bytes();
  const uint64_t room = budget == 0 ? 0 : budget > held ? budget - held : 1;  // 0: no limit.
  SpeedLimit limit(flags.model.threads);
  if (!limit.use_profile()) RETURN_IF_ERROR(limit.probe(room));
  if (model.streams()) {
    ASSIGN_OR_RETURN(const storage::Backend backend, storage::parse_backend(flags.model.io));
    RETURN_IF_ERROR(limit.probe_disk(engine.manifest(), backend, room));
  }
  return limit.judge(work, speeds_of(result).generation, model);
}

uint32_t context_for(const Flags& flags, const engine::Engine& engine, size_t prompt_tokens) {
  const uint32_t most = const_cast<engine::Engine&>(engine).model().spec().context_max;
  if (flags.context != 0) return flags.context;
  const uint64_t wanted = flags.tokens == 0 ? most : prompt_tokens + flags.tokens;
  return static_cast<uint32_t>(most == 0 ? wanted : std::min<uint64_t>(most, wanted));
}

// Tokens of text are seldom shorter than three bytes.
uint32_t expected_tokens(const Flags& flags, const std::string& prompt) {
  if (flags.context != 0) return flags.context;
  return static_cast<uint32_t>(std::min<size_t>(prompt.size() + flags.system.size(), 1 << 24) / 3) +
         flags.tokens + 64;
}

// What is left of a run once its model's memory was given back.
// NOLINTNEXTLINE(bugprone-exception-escape): what moving a Json could throw is its own assertions.
struct Outcome {
  Json json;
  bool streamed = false;
  uint32_t context_tokens = 0;
  double depth = 0;  // Mean position of the generated tokens.
  uint64_t held_bytes = 0;
  std::string path;
  double tok_s = 0;
};

Outcome outcome_of(const engine::Engine& engine, const engine::GenerateResult& result,
                   const StreamCost& cost) {
  Outcome outcome;
  outcome.streamed = cost.streams;
  outcome.depth = result.prompt_tokens + static_cast<double>(result.tokens.size()) / 2;
  outcome.held_bytes = engine.held_before_weights();
  outcome.path = engine.manifest().path;
  outcome.tok_s = speeds_of(result).generation;
  return outcome;
}

Result<Outcome> generate(const Flags& flags, const std::string& prompt) {
  engine::EngineOptions options;
  ASSIGN_OR_RETURN(const std::optional<text::GrammarText> grammar, read_grammar(flags));
  options.with_tokenizer = true;
  options.with_grammars = grammar.has_value();
  options.context_tokens = expected_tokens(flags, prompt);
  ASSIGN_OR_RETURN(const auto engine, flags.model.open(options));
  const text::Tokenizer& tokenizer = engine->tokenizer();
  engine::GenerateRequest request;
  ASSIGN_OR_RETURN(Prompt encoded, encode(flags, *engine, tokenizer, prompt));
  if (grammar) {
    ASSIGN_OR_RETURN(text::Grammar compiled, engine->grammars().compile(*grammar));
    for (const std::string& note : compiled.notes())
      std::fprintf(stderr, "mlx-flash: note: %s\n", note.c_str());
    request.constraint = std::make_shared<const engine::Constraint>(
        engine::Constraint{std::move(compiled), std::move(encoded.thinking)});
  }
  request.prompt = std::move(encoded.tokens);
  ASSIGN_OR_RETURN(request.sampling, flags.sampling.resolve(engine->manifest()));
  request.max_tokens = flags.tokens;
  request.stop = flags.stop;
  request.ignore_end = flags.ignore_end;
  request.logprobs = flags.logprobs->count() != 0;
  request.top_logprobs = flags.top_logprobs;
  const auto routing = watch_routing(*engine);
  engine::Session session(*engine, &tokenizer, context_for(flags, *engine, request.prompt.size()));

  watch_interrupts();
  if (flags.echo && !flags.json) std::fputs(prompt.c_str(), stdout);
  std::vector<engine::GeneratedToken> tokens;
  uint64_t peak = platform::own_memory_bytes();
  const StreamCost before = StreamCost::of(*engine);
  StreamCost answer_begun = before;
  uint32_t made = 0;
  const auto on_token = [&](const engine::GeneratedToken& token) {
    if (made == 0) answer_begun = StreamCost::of(*engine);
    if (!flags.json) {
      std::fputs(token.text.c_str(), stdout);
      std::fflush(stdout);
    }
    if (request.logprobs && token.id >= 0) tokens.push_back(token);
    if (++made % 16 == 0) peak = std::max(peak, platform::own_memory_bytes());
    return !interrupted();
  };
  ASSIGN_OR_RETURN(const engine::GenerateResult result, session.generate(request, on_token));
  Report report;
  report.seed = request.sampling.seed;
  report.peak_bytes = std::max(peak, platform::own_memory_bytes());
  report.cost = StreamCost::of(*engine).since(before);
  report.answer_cost = StreamCost::of(*engine).since(answer_begun);
  Outcome outcome = outcome_of(*engine, result, report.cost);
  outcome.context_tokens = options.context_tokens;
  if (flags.json || (report.cost.streams && !interrupted())) {
    ASSIGN_OR_RETURN(report.judgement, judge(flags, *engine, result, report.answer_cost, routing.get()));
  }
  if (flags.json) {
    outcome.json = to_json(result, report);
    if (request.logprobs) outcome.json["logprobs"] = logprobs_of(tokenizer, tokens);
  } else {
    std::printf("\n");
    std::fflush(stdout);
    print_statistics(result, report);
  }
  RETURN_IF_ERROR(flags.model.finish(*engine));
  return outcome;
}

// What the plan for the same budget says, where doctor has measured this machine. The answer stands without one.
void compare_with_plan(const Flags& flags, uint64_t budget, Outcome& outcome) {
  if (!outcome.streamed || outcome.tok_s == 0 || interrupted() || !stored_profile()) return;
  PlannerOptions options(flags.model);
  options.budget_bytes = budget;
  options.context_tokens = outcome.context_tokens;
  options.prompt_tokens = 0;
  options.depth = outcome.depth;
  options.held_bytes = outcome.held_bytes;
  const auto expected = expect(outcome.path, options);
  if (!expected) {
    std::fprintf(stderr, "no plan to compare with: %s\n", expected.error().message.c_str());
    return;
  }
  const double error = Expectation::error(expected->decode_tok_s, outcome.tok_s);
  outcome.json["plan_tok_s"] = expected->decode_tok_s;
  outcome.json["plan_error"] = error;
  if (!flags.json)
    std::fprintf(stderr, "plan: %.1f tok/s for the answer, %.0f %% too %s\n", expected->decode_tok_s,
                 100 * std::abs(error), error > 0 ? "high" : "low");
}

Status run(const Flags& flags) {
  std::string prompt = flags.prompt;
  if (!flags.file.empty()) {
    ASSIGN_OR_RETURN(prompt, read_text(flags.file));
  }
  ASSIGN_OR_RETURN(const uint64_t budget, flags.model.budget_bytes());
  ASSIGN_OR_RETURN(Outcome outcome, generate(flags, prompt));
  compare_with_plan(flags, budget, outcome);
  if (flags.json) std::printf("%s\n", dump_json(outcome.json).c_str());
  return {};
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("run", "Complete a prompt (also: generate)")->alias("generate");
  flags->model.add_to(*command, ModelFlags::Default::kBundled);
  flags->model.add_save_heat(*command);
  CLI::Option* prompt = command->add_option("-p,--prompt", flags->prompt, "The prompt");
  CLI::Option* file =
      command->add_option("-f,--file", flags->file, "Read the prompt from a file; - is stdin");
  file->excludes(prompt);
  command->add_option("-n,--tokens", flags->tokens, "Most tokens to generate (0: until the end)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  command
      ->add_option("-c,--context", flags->context,
                   "Most tokens of prompt and answer (default: what they need)")
      ->check(CLI::Range(2, 1 << 24));
  command->add_flag("--chat", flags->chat, "Wrap the prompt in the model's chat template");
  command->add_option("--system", flags->system, "System message, with --chat");
  command->add_option("--stop", flags->stop, "End the answer before this text; may be given several times");
  CLI::Option* schema = command->add_option("--json-schema", flags->json_schema,
                                            "The answer is JSON that fits this schema (text, or a file)");
  CLI::Option* regex =
      command->add_option("--regex", flags->regex, "The whole answer matches this regular expression");
  CLI::Option* grammar = command->add_option("--grammar", flags->grammar,
                                             "The answer fits the grammar in this file, GBNF or Lark");
  schema->excludes(regex)->excludes(grammar);
  regex->excludes(grammar);
  command->add_flag("--special", flags->special, "Take control tokens in the prompt for what they spell");
  command->add_flag("--ignore-eos", flags->ignore_end, "Go on past the model's end of text");
  command->add_flag("--echo", flags->echo, "Print the prompt before the answer");
  flags->logprobs =
      command->add_option("--logprobs", flags->top_logprobs,
                          "With --json: log-probabilities of each token and of the N likeliest");
  flags->logprobs->check(CLI::Range(0, 100));
  command->add_flag("--json", flags->json, "For machines: one object at the end");
  flags->sampling.add_to(*command);
  command->callback([=, &action] {
    const bool given = prompt->count() != 0 || file->count() != 0;
    action = [flags, given]() -> Status {
      if (!given) return fail(ErrorCode::kInvalidArgument, "run needs a prompt: give -p TEXT or -f FILE");
      return run(*flags);
    };
  });
}

}  // namespace mlxf::cli
