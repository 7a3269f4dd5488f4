// What answers that must fit a grammar cost: constraint_bench MODEL [ROUNDS [TOKENS [THREADS]]]. For each grammar,
// makes an answer under it, then the passes of the very same tokens with free sampling in place of the grammar's, in
// turns, and prints both speeds (medians, with all that begins an answer) and the cost; then the processor's time for
// the parts: compiling, beginning, and a mask with its token's step.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/generation.h"

namespace {

using mlxf::Result;
using mlxf::Status;
using mlxf::TokenId;
using mlxf::text::GrammarText;
using Clock = std::chrono::steady_clock;
using Kind = GrammarText::Kind;

constexpr uint32_t kContext = 4096;

struct Case {
  const char* name;
  Kind kind;
  const char* text;
};
constexpr Case kCases[] = {
    {"any JSON", Kind::kJsonSchema, R"({"type":"object","minProperties":12})"},
    {"person", Kind::kJsonSchema,
     R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":120},
         "email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"},"minItems":2},
         "kind":{"enum":["friend","colleague","stranger"]},"score":{"type":"number"}},
         "required":["name","age","email","tags","kind","score"],"additionalProperties":false})"},
    {"strings", Kind::kJsonSchema,
     R"({"type":"array","items":{"type":"string","minLength":200},"minItems":9})"},
    {"numbers", Kind::kJsonSchema, R"({"type":"array","items":{"type":"integer"},"minItems":200})"},
    {"words", Kind::kRegex, "([A-Za-z]+[ ,.]){60,}"},
    {"list", Kind::kLark, "start: (\"- \" /[^\\n]+/ \"\\n\"){12,}"},
    {"json.gbnf", Kind::kGbnf,
     R"(root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
)"},
};

struct Spent {
  double seconds = 0;
  std::vector<double> steps;  // Microseconds between the logits and the token.
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The share of sorted values that lie below.
double at(const std::vector<double>& values, double share) {
  return values.empty() ? 0 : values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return at(values, 0.5);
}

// Makes an answer; where `tokens` are given, runs the model over those whatever it samples.
Result<Spent> answer(mlxf::engine::Engine& engine, const mlxf::engine::GenerateRequest& request,
                     std::vector<TokenId>& tokens) {
  mlxf::model::Model& model = engine.model();
  const auto sequence = model.make_sequence(kContext);
  std::vector<float> logits(model.spec().vocab);
  const auto forward = [&](std::span<const TokenId> ids) {
    const mlxf::model::Chunk chunk{sequence.get(), ids, false};
    return model.forward({&chunk, 1}, logits.data());
  };
  RETURN_IF_ERROR(forward(request.prompt));
  const std::vector<TokenId> given = tokens;
  Spent spent;
  spent.steps.reserve(request.max_tokens);
  const auto start = Clock::now();
  mlxf::engine::Generation generation(request, &engine.tokenizer(), model.spec().vocab, kContext);
  for (size_t i = 0; !generation.done() && (given.empty() || i < given.size()); ++i) {
    const auto step = Clock::now();
    ASSIGN_OR_RETURN(const mlxf::engine::GeneratedToken generated, generation.next(logits));
    spent.steps.push_back(seconds_since(step) * 1e6);
    if (generation.done()) break;
    const TokenId next = given.empty() ? generated.id : given[i];
    RETURN_IF_ERROR(forward({&next, 1}));
  }
  spent.seconds = seconds_since(start);
  if (given.empty()) tokens.assign(generation.tokens().begin(), generation.tokens().end());
  std::sort(spent.steps.begin(), spent.steps.end());
  return spent;
}

// Of one grammar without a model: what each part takes of the processor, whoever else has it meanwhile.
struct Parts {
  double compile_ms = 0, again_ms = 0, start_us = 0;
  std::vector<double> masks;  // Microseconds of a mask and a token's step.
};

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Result<Parts> parts_of(const mlxf::text::GrammarCompiler& compiler, const GrammarText& text,
                       const std::vector<TokenId>& tokens) {
  Parts parts;
  double start = processor_seconds();
  const auto took = [&start] { return processor_seconds() - std::exchange(start, processor_seconds()); };
  ASSIGN_OR_RETURN(mlxf::text::Grammar grammar, compiler.compile(text));
  parts.compile_ms = took() * 1e3;
  ASSIGN_OR_RETURN(grammar, compiler.compile(text));
  parts.again_ms = took() * 1e3;
  ASSIGN_OR_RETURN(mlxf::text::GrammarMatcher matcher, grammar.start());
  parts.start_us = took() * 1e6;
  parts.masks.reserve(tokens.size());
  for (const TokenId token : tokens) {
    (void)took();
    ASSIGN_OR_RETURN(const std::span<const uint32_t> allowed, matcher.allowed());
    (void)allowed;
    RETURN_IF_ERROR(matcher.accept(token));
    parts.masks.push_back(took() * 1e6);
  }
  std::sort(parts.masks.begin(), parts.masks.end());
  return parts;
}

Status measure(mlxf::engine::Engine& engine, const Case& one, uint32_t rounds, uint32_t count) {
  mlxf::engine::GenerateRequest held;
  ASSIGN_OR_RETURN(held.prompt, engine.tokenizer().encode("The old man walked along the shore and said: "));
  held.max_tokens = count;
  held.sampling.seed = 1;
  mlxf::engine::GenerateRequest free = held;
  free.ignore_end = true;
  const GrammarText text{one.kind, one.text};
  ASSIGN_OR_RETURN(mlxf::text::Grammar grammar, engine.grammars().compile(text));
  held.constraint = std::make_shared<const mlxf::engine::Constraint>(mlxf::engine::Constraint{grammar});
  std::vector<double> held_seconds, free_seconds, held_steps, free_steps;
  std::vector<TokenId> tokens;
  for (uint32_t i = 0; i < rounds; ++i) {
    tokens.clear();
    ASSIGN_OR_RETURN(const Spent with, answer(engine, held, tokens));
    ASSIGN_OR_RETURN(const Spent without, answer(engine, free, tokens));
    held_seconds.push_back(with.seconds);
    free_seconds.push_back(without.seconds);
    held_steps.push_back(at(with.steps, 0.5));
    free_steps.push_back(at(without.steps, 0.5));
  }
  // A compiler that has not seen it.
  ASSIGN_OR_RETURN(const auto compiler, mlxf::text::GrammarCompiler::create(engine.tokenizer()));
  ASSIGN_OR_RETURN(const Parts parts, parts_of(compiler, text, tokens));
  const double with = median(held_seconds), without = median(free_seconds);
  const auto made = static_cast<double>(tokens.size());
  double sum = 0;
  for (const double time : parts.masks) sum += time;
  std::printf(
      "%-10s %4zu tokens: %7.1f tok/s held, %7.1f free, cost %5.1f %%; sampled in %6.1f us held, %6.1f free; "
      "compiled "
      "in %5.1f ms, again %.3f, begun in %4.0f us; mask %5.1f us (half below %.1f, 99 %% %.1f, most %.0f)\n",
      one.name, tokens.size(), made / with, made / without, 100 * (with / without - 1), median(held_steps),
      median(free_steps), parts.compile_ms, parts.again_ms, parts.start_us, sum / made, at(parts.masks, 0.5),
      at(parts.masks, 0.99), at(parts.masks, 1));
  std::fflush(stdout);
  return {};
}

Status run(const std::string& model, uint32_t rounds, uint32_t tokens, uint32_t threads) {
  mlxf::engine::EngineOptions options;
  options.threads = threads;
  options.with_tokenizer = options.with_grammars = true;
  ASSIGN_OR_RETURN(const auto engine, mlxf::engine::Engine::open(model, options));
  for (const Case& one : kCases) RETURN_IF_ERROR(measure(*engine, one, rounds, tokens));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int index, uint32_t otherwise) {
    return argc > index ? static_cast<uint32_t>(std::strtoul(argv[index], nullptr, 10)) : otherwise;
  };
  if (argc < 2 || number(2, 5) == 0 || number(3, 300) == 0) {
    std::fprintf(stderr, "constraint_bench MODEL [ROUNDS [TOKENS [THREADS]]]\n");
    return 2;
  }
  const Status status = run(argv[1], number(2, 5), number(3, 300), number(4, 0));
  if (!status) std::fprintf(stderr, "constraint_bench: %s\n", status.error().message.c_str());
  return status ? 0 : 1;
}
