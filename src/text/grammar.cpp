#include "text/grammar.h"

#include <algorithm>
#include <iterator>
#include <list>
#include <optional>
#include <set>
#include <sstream>

#include "base/json.h"
#include "base/mutex.h"
#include "text/bridge.h"
#include "text/gbnf.h"
#include "text/json_keys.h"

namespace mlxf::text {

struct Grammar::Compiled {
  GrammarHandle handle;
  std::shared_ptr<const JsonTokens> tokens;  // Shared because it is immutable.
  std::optional<JsonKeys> keys;              // At the beginning; nothing where the texts are no JSON.
  std::set<TokenId> marks;                   // Tokens that are no text.
  std::vector<TokenId> named;                // In GBNF.
  std::vector<std::string> notes;
  uint64_t bytes = 0;
};

// Thread-safe: handle is immutable, the rest is guarded.
struct GrammarCompiler::Shared {
  // Clients ask for the same few forms again and again. Finding one looks at all of them.
  static constexpr size_t kRecentMax = 64;
  struct Recent {
    GrammarText text;
    std::shared_ptr<const Grammar::Compiled> compiled;
    uint64_t bytes = 0;
  };

  std::shared_ptr<const Grammar::Compiled> find(const GrammarText& text) {
    const MutexLock lock(mutex);
    const auto found = std::find_if(recent.begin(), recent.end(), [&](const Recent& one) {
      return one.text.kind == text.kind && one.text.text == text.text;
    });
    if (found == recent.end()) return nullptr;
    recent.splice(recent.begin(), recent, found);
    return recent.front().compiled;
  }

  void keep(const GrammarText& text, std::shared_ptr<const Grammar::Compiled> compiled) {
    const uint64_t bytes = text.text.size() + compiled->bytes;
    if (bytes > GrammarCompiler::kKeptBytesMax / 2) return;  // It would cost most others their place.
    std::list<Recent> leaving;                               // Freed when the lock is not held.
    const MutexLock lock(mutex);
    recent.push_front({text, std::move(compiled), bytes});
    recent_bytes += bytes;
    while (recent.size() > kRecentMax || recent_bytes > GrammarCompiler::kKeptBytesMax) {
      recent_bytes -= recent.back().bytes;
      leaving.splice(leaving.begin(), recent, std::prev(recent.end()));
    }
  }

  void forget() {
    std::list<Recent> leaving;
    const MutexLock lock(mutex);
    leaving.swap(recent);
    recent_bytes = 0;
  }

  // What GBNF may name.
  [[nodiscard]] GbnfVocabulary vocabulary() const {
    const auto by_id = [this](TokenId id) -> Result<GbnfTokenFact> {
      if (tokenizer.token_bytes(id).empty())
        return fail(ErrorCode::kInvalidArgument, "the model has no token of this number");
      const TokenTraits traits = tokenizer.traits(id);
      return GbnfTokenFact{id, !traits.special && !traits.control, tokenizer.is_end_of_generation(id)};
    };
    const auto by_text = [this, by_id](std::string_view text) -> Result<GbnfTokenFact> {
      const auto ids = tokenizer.encode(text, {.add_special_tokens = false, .parse_special = true});
      if (ids && ids->size() == 1) return by_id(ids->front());
      return fail(ErrorCode::kInvalidArgument, std::string(text) + " is not one token of this model");
    };
    return {by_text, by_id};
  }

  explicit Shared(Tokenizer of) : tokenizer(std::move(of)) {}

  const Tokenizer tokenizer;
  GrammarsHandle handle;
  std::shared_ptr<const JsonTokens> tokens;
  Mutex mutex;
  std::list<Recent> recent MLXF_GUARDED_BY(mutex);  // Used last first.
  uint64_t recent_bytes MLXF_GUARDED_BY(mutex) = 0;
};

struct GrammarMatcher::State {
  MatcherHandle handle;
  std::shared_ptr<const Grammar::Compiled> compiled;
  std::optional<JsonKeys> keys;
  std::vector<uint32_t> words;  // Where keys took some out.
  bool may_end = false;
  bool must_end = false;
};

GrammarText gbnf_or_lark(std::string text) {
  using Kind = GrammarText::Kind;
  const Kind kind = is_gbnf(text) ? Kind::kGbnf : Kind::kLark;
  return {kind, std::move(text)};
}

GrammarText any_json_object() { return {GrammarText::Kind::kJsonSchema, R"({"type":"object"})"}; }

GrammarText one_of(std::span<const std::string> choices) {
  std::string lark = "start: ";
  for (size_t i = 0; i < choices.size(); ++i) {
    if (i != 0) lark += " | ";
    lark += dump_json(choices[i]);
  }
  return {GrammarText::Kind::kLark, std::move(lark)};
}

namespace {

int32_t bridge_kind(GrammarText::Kind kind) {
  switch (kind) {
    case GrammarText::Kind::kJsonSchema:
      return MLXF_GRAMMAR_JSON_SCHEMA;
    case GrammarText::Kind::kRegex:
      return MLXF_GRAMMAR_REGEX;
    case GrammarText::Kind::kLark:
      return MLXF_GRAMMAR_LARK;
    case GrammarText::Kind::kGbnf:
      return MLXF_GRAMMAR_GBNF;
    case GrammarText::Kind::kComposed:
      return MLXF_GRAMMAR_COMPOSED;
  }
  return MLXF_GRAMMAR_LARK;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Where its texts hold JSON.
void watch_keys(const GrammarText& grammar, Grammar::Compiled& compiled) {
  if (grammar.kind == GrammarText::Kind::kJsonSchema) compiled.keys.emplace(JsonKeys::Where::kWhole);
  if (grammar.kind != GrammarText::Kind::kComposed) return;
  const auto parts = parse_ordered_json(grammar.text);
  if (!parts || !parts->value("objects", false)) return;
  compiled.keys.emplace(JsonKeys::Where::kObjects);
  for (const OrderedJson& token : (*parts)["tokens"]) compiled.marks.insert(token.get<TokenId>());
}

}  // namespace

GrammarMatcher::GrammarMatcher(std::unique_ptr<State> state) : state_(std::move(state)) {}
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

Result<std::span<const uint32_t>> GrammarMatcher::allowed() {
  const uint32_t* words = nullptr;
  size_t count = 0;
  int32_t may_end = 0;
  BridgeBytes error;
  const int32_t code = mlxf_matcher_allowed(state_->handle.get(), &words, &count, &may_end, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  state_->may_end = may_end != 0;
  if (!state_->keys) return std::span(words, count);
  state_->words.assign(words, words + count);
  const auto none = [](const std::vector<uint32_t>& all) {
    return std::all_of(all.begin(), all.end(), [](uint32_t word) { return word == 0; });
  };
  if (state_->keys->take_out_repeats(*state_->compiled->tokens, state_->words) && none(state_->words))
    return fail(
        ErrorCode::kInvalidArgument,
        "an object can go on with no key but those that it has: its schema asks for more than it allows");
  return std::span<const uint32_t>(state_->words);
}

bool GrammarMatcher::may_end() const { return state_->may_end; }

Status GrammarMatcher::accept(TokenId token) {
  int32_t must_end = 0;
  BridgeBytes error;
  const int32_t code =
      mlxf_matcher_accept(state_->handle.get(), static_cast<uint32_t>(token), &must_end, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  state_->must_end = must_end != 0;
  if (state_->keys && state_->compiled->marks.contains(token)) {
    state_->keys->restart();
  } else if (state_->keys) {
    state_->keys->push(state_->compiled->tokens->bytes(token));
  }
  return {};
}

bool GrammarMatcher::must_end() const { return state_->must_end; }

Result<GrammarMatcher> Grammar::start() const {
  mlxf_matcher* handle = nullptr;
  BridgeBytes error;
  const int32_t code = mlxf_matcher_create(compiled_->handle.get(), &handle, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  auto state = std::make_unique<GrammarMatcher::State>();
  state->handle.reset(handle);
  state->compiled = compiled_;
  state->keys = compiled_->keys;
  return GrammarMatcher(std::move(state));
}

std::vector<std::string> Grammar::notes() const { return compiled_->notes; }

bool Grammar::names(TokenId token) const {
  return std::find(compiled_->named.begin(), compiled_->named.end(), token) != compiled_->named.end();
}

Result<GrammarCompiler> GrammarCompiler::create(const Tokenizer& tokenizer) {
  const std::span<const TokenId> end_tokens = tokenizer.end_of_generation();
  const std::vector<uint32_t> ends(end_tokens.begin(), end_tokens.end());
  mlxf_grammars* handle = nullptr;
  BridgeBytes error;
  const int32_t code =
      mlxf_grammars_create(tokenizer.handle(), ends.data(), ends.size(), &handle, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  auto shared = std::make_shared<Shared>(tokenizer);
  shared->handle.reset(handle);
  shared->tokens = std::make_shared<const JsonTokens>(tokenizer);
  return GrammarCompiler(std::move(shared));
}

uint64_t GrammarCompiler::kept_bytes() const {
  const MutexLock lock(shared_->mutex);
  return shared_->recent_bytes;
}

void GrammarCompiler::forget() const { shared_->forget(); }

Result<Grammar> GrammarCompiler::compile(const GrammarText& grammar) const {
  if (auto known = shared_->find(grammar)) return Grammar(std::move(known));
  std::string made;
  std::vector<TokenId> named;
  if (grammar.kind == GrammarText::Kind::kGbnf) {
    auto lark = gbnf_to_lark(grammar.text, shared_->vocabulary());
    if (!lark) return tl::unexpected<Error>(lark.error().within("the GBNF grammar cannot be used"));
    OrderedJson members;
    members["lark"] = std::move(lark->lark);
    members["tokens"] = lark->tokens;
    members["other_tokens"] = lark->other_tokens;
    made = dump_ordered_json(members);
    named = std::move(lark->tokens);
  }
  const std::string& text = grammar.kind == GrammarText::Kind::kGbnf ? made : grammar.text;
  mlxf_grammar* handle = nullptr;
  BridgeBytes error;
  const int32_t code = mlxf_grammar_compile(shared_->handle.get(), bridge_kind(grammar.kind), as_bytes(text),
                                            text.size(), &handle, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  auto compiled = std::make_shared<Grammar::Compiled>();
  compiled->handle.reset(handle);
  BridgeBytes notes;
  mlxf_grammar_notes(handle, notes.out());
  compiled->notes = lines_of(notes.text());
  compiled->bytes = mlxf_grammar_bytes(handle);
  compiled->tokens = shared_->tokens;
  compiled->named = std::move(named);
  watch_keys(grammar, *compiled);
  shared_->keep(grammar, compiled);
  return Grammar(std::move(compiled));
}

}  // namespace mlxf::text
