#include "engine/constraint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/json.h"
#include "engine/generation.h"
#include "formats/manifest.h"
#include "text/utf8.h"

namespace mlxf::engine {
namespace {

using Kind = text::GrammarText::Kind;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::load_tokenizer(*formats::open_model(MLXF_SOURCE_DIR "/models/classics-moe-4bit")).value();
  return kTokenizer;
}

const text::GrammarCompiler& compiler() {
  static const text::GrammarCompiler kCompiler = text::GrammarCompiler::create(tokenizer()).value();
  return kCompiler;
}

std::shared_ptr<const Constraint> constraint(Kind kind, const std::string& grammar,
                                             const text::Thinking& thinking = {}) {
  auto compiled = compiler().compile({kind, grammar});
  EXPECT_TRUE(compiled) << grammar << ": " << (compiled ? "" : compiled.error().message);
  if (!compiled) return nullptr;
  return std::make_shared<const Constraint>(Constraint{*compiled, thinking});
}

GenerateRequest request(std::shared_ptr<const Constraint> constraint, uint64_t seed = 1,
                        uint32_t max_tokens = 0) {
  GenerateRequest made;
  made.prompt = {5, 6, 7};
  made.max_tokens = max_tokens;
  made.sampling.temperature = 1.0f;
  made.sampling.seed = seed;
  made.constraint = std::move(constraint);
  return made;
}

// Logits in place of a model's: noise, with a lean towards tokens that end something, so that answers get there.
class Noise {
 public:
  explicit Noise(uint64_t seed) : random_(seed), lean_(tokenizer().vocab_size()), logits_(lean_.size()) {
    for (uint32_t id = 0; id < lean_.size(); ++id) {
      const std::string_view bytes = tokenizer().token_bytes(static_cast<TokenId>(id));
      if (bytes.find_first_of("\"}],:") != std::string_view::npos) lean_[id] = 4.0f;
      if (tokenizer().is_end_of_generation(static_cast<TokenId>(id))) lean_[id] = 8.0f;
    }
  }
  std::span<const float> next() {
    for (size_t i = 0; i < logits_.size(); ++i)
      logits_[i] = lean_[i] + static_cast<float>(random_() >> 8) * 0x1p-22f;  // 0 to 4
    return logits_;
  }

 private:
  std::minstd_rand random_;
  std::vector<float> lean_, logits_;
};

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  std::optional<FinishReason> finish;
  std::string error;
};

Answer answer(const GenerateRequest& wanted, uint64_t noise_seed, uint32_t context = 600) {
  Noise noise(noise_seed);
  Generation generation(wanted, &tokenizer(), tokenizer().vocab_size(), context);
  Answer made;
  while (!generation.done()) {
    const auto token = generation.next(noise.next());
    if (!token) {
      made.error = token.error().message;
      return made;
    }
    made.text += token->text;
  }
  made.tokens.assign(generation.tokens().begin(), generation.tokens().end());
  made.finish = generation.finish();
  return made;
}

bool all_within(std::string_view text, std::string_view set) {
  return text.find_first_not_of(set) == std::string_view::npos;
}

// Patterns with what they mean, written out.
struct Pattern {
  const char* pattern;
  bool (*fits)(std::string_view text);
};
constexpr Pattern kPatterns[] = {
    {"^[a-e]{2,5}$",
     [](std::string_view text) { return text.size() >= 2 && text.size() <= 5 && all_within(text, "abcde"); }},
    {"^(foo|bar)-[0-9]+$",
     [](std::string_view text) {
       return text.size() > 4 && (text.starts_with("foo-") || text.starts_with("bar-")) &&
              all_within(text.substr(4), "0123456789");
     }},
    {"^[A-F0-9]{4}$",
     [](std::string_view text) { return text.size() == 4 && all_within(text, "ABCDEF0123456789"); }},
    {"xy?z",
     [](std::string_view text) {
       return text.find("xyz") != std::string_view::npos || text.find("xz") != std::string_view::npos;
     }},
};

// Seeded schemas of every kind that the validator below knows.
class SchemaMaker {
 public:
  explicit SchemaMaker(uint64_t seed) : random_(seed) {}
  Json make(int depth) {
    const uint32_t kinds = depth == 0 ? 8 : 11;
    switch (below(kinds)) {
      case 0:
        return {{"type", "boolean"}};
      case 1:
        return {{"enum", Json::array({"red", "a \"b\"", 3, nullptr, true, -2.5, "naïve"})}};
      case 2:
        return {{"const", below(2) == 0 ? Json("fixed") : Json(below(100))}};
      case 3:
        return integer();
      case 4:
        return number();
      case 5:
        return text_of_length();
      case 6:
        return {{"type", "string"}, {"pattern", kPatterns[below(std::size(kPatterns))].pattern}};
      case 7:
        return {{"type", Json::array({"null", "boolean"})}};
      case 8:
        return array(depth);
      case 9:
        return {{"anyOf", Json::array({integer(), make(depth - 1)})}};
      default:
        return object(depth);
    }
  }

 private:
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }
  Json integer() {
    Json schema = {{"type", "integer"}};
    const int low = static_cast<int>(below(200)) - 100;
    if (below(3) != 0) schema[below(2) == 0 ? "minimum" : "exclusiveMinimum"] = low;
    if (below(3) != 0) schema[below(2) == 0 ? "maximum" : "exclusiveMaximum"] = low + 20 + below(1000);
    if (below(4) == 0) schema["multipleOf"] = 1 + below(7);
    return schema;
  }
  Json number() {
    const double low = static_cast<double>(below(100)) / 8 - 5;
    return {{"type", "number"}, {"minimum", low}, {"maximum", low + 0.25 + below(50)}};
  }
  Json text_of_length() {
    const uint32_t least = below(4);
    return {{"type", "string"}, {"minLength", least}, {"maxLength", least + below(12)}};
  }
  Json array(int depth) {
    const uint32_t least = below(3);
    return {
        {"type", "array"}, {"items", make(depth - 1)}, {"minItems", least}, {"maxItems", least + below(3)}};
  }
  Json object(int depth) {
    Json schema = {{"type", "object"}, {"properties", Json::object()}, {"required", Json::array()}};
    for (const char* name : {"a", "longer name", "ünï", "q\"uoted"}) {
      if (below(3) == 0) continue;
      schema["properties"][name] = make(depth - 1);
      if (below(2) == 0) schema["required"].push_back(name);
    }
    schema["additionalProperties"] = below(4) == 0 ? integer() : Json(false);
    return schema;
  }
  std::mt19937_64 random_;
};

size_t code_points(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(),
                                           [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

bool is_of_type(const std::string& type, const Json& value) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "integer") return value.is_number() && std::trunc(value.get<double>()) == value.get<double>();
  return type == "number" && value.is_number();
}

bool number_fits(const Json& schema, double value) {
  if (schema.contains("minimum") && value < schema["minimum"].get<double>()) return false;
  if (schema.contains("maximum") && value > schema["maximum"].get<double>()) return false;
  if (schema.contains("exclusiveMinimum") && value <= schema["exclusiveMinimum"].get<double>()) return false;
  if (schema.contains("exclusiveMaximum") && value >= schema["exclusiveMaximum"].get<double>()) return false;
  return !schema.contains("multipleOf") || std::abs(value) > 1e15 ||
         std::fmod(value, schema["multipleOf"].get<double>()) == 0.0;
}

bool string_fits(const Json& schema, const std::string& value) {
  if (schema.contains("minLength") && code_points(value) < schema["minLength"].get<size_t>()) return false;
  if (schema.contains("maxLength") && code_points(value) > schema["maxLength"].get<size_t>()) return false;
  if (!schema.contains("pattern")) return true;
  return std::any_of(std::begin(kPatterns), std::end(kPatterns), [&](const Pattern& known) {
    return schema["pattern"] == known.pattern && known.fits(value);
  });
}

bool valid(const Json& schema, const Json& value);

bool object_fits(const Json& schema, const Json& value) {
  for (const auto& name : schema["required"])
    if (!value.contains(name.get<std::string>())) return false;
  for (const auto& [name, member] : value.items()) {
    const Json& rule =
        schema["properties"].contains(name) ? schema["properties"][name] : schema["additionalProperties"];
    if (rule == false || !valid(rule, member)) return false;
  }
  return true;
}

// Independent of what made the answer: JSON Schema's rules for the keywords that SchemaMaker uses.
bool valid(const Json& schema, const Json& value) {
  if (schema.contains("enum"))
    return std::find(schema["enum"].begin(), schema["enum"].end(), value) != schema["enum"].end();
  if (schema.contains("const")) return schema["const"] == value;
  if (schema.contains("anyOf"))
    return std::any_of(schema["anyOf"].begin(), schema["anyOf"].end(),
                       [&](const Json& one) { return valid(one, value); });
  const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  if (!std::any_of(types.begin(), types.end(),
                   [&](const Json& type) { return is_of_type(type.get<std::string>(), value); }))
    return false;
  if (value.is_number() && !number_fits(schema, value.get<double>())) return false;
  if (value.is_string() && !string_fits(schema, value.get<std::string>())) return false;
  if (value.is_array()) {
    if (value.size() < schema["minItems"].get<size_t>() || value.size() > schema["maxItems"].get<size_t>())
      return false;
    return std::all_of(value.begin(), value.end(),
                       [&](const Json& item) { return valid(schema["items"], item); });
  }
  return !value.is_object() || object_fits(schema, value);
}

TEST(Validator, TellsRightFromWrong) {
  const Json object = Json::parse(R"({"type":"object","properties":{"a":{"type":"integer","minimum":2}},
      "required":["a"],"additionalProperties":false})");
  EXPECT_TRUE(valid(object, {{"a", 2}}));
  for (const char* wrong : {"{}", R"({"a":1})", R"({"a":2.5})", R"({"a":2,"b":1})", "[]", "null"})
    EXPECT_FALSE(valid(object, Json::parse(wrong))) << wrong;
  EXPECT_FALSE(valid({{"type", "string"}, {"maxLength", 2}}, "abc"));
  EXPECT_TRUE(valid({{"type", "string"}, {"maxLength", 2}}, "üé"));
  EXPECT_FALSE(valid({{"type", "string"}, {"pattern", "^[a-e]{2,5}$"}}, "abf"));
  EXPECT_TRUE(valid({{"type", "string"}, {"pattern", "xy?z"}}, "an xz"));
}

// A thousand schemas, answers of random tokens: all that end by themselves parse and fit.
// Sanitizers make an answer some twenty times as slow.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MLXF_SCHEMA_CASES 200
#endif
#endif
#if !defined(MLXF_SCHEMA_CASES)
#define MLXF_SCHEMA_CASES 1000
#endif

TEST(AnswerConstraint, FinishedAnswersFitTheirSchema) {
  constexpr uint64_t kCases = MLXF_SCHEMA_CASES;
  uint64_t finished = 0, members = 0;
  for (uint64_t seed = 0; seed < kCases; ++seed) {
    const Json schema = SchemaMaker(seed).make(seed % 4 == 0 ? 3 : 2);
    const auto fits = constraint(Kind::kJsonSchema, dump_json(schema));
    ASSERT_NE(fits, nullptr) << "seed " << seed << ": " << dump_json(schema);
    const Answer made = answer(request(fits, seed), seed * 7 + 1);
    ASSERT_EQ(made.error, "") << "seed " << seed << ": " << dump_json(schema) << "\n" << made.text;
    if (made.finish != FinishReason::kStop) continue;
    ++finished;
    ASSERT_TRUE(text::is_utf8(made.text));
    const Json value = Json::parse(made.text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << "seed " << seed << ": " << dump_json(schema) << "\n" << made.text;
    ASSERT_TRUE(valid(schema, value)) << "seed " << seed << ": " << dump_json(schema) << "\n" << made.text;
    members += value.is_structured() ? value.size() : 0;
  }
  EXPECT_GT(finished, kCases * 9 / 10);
  EXPECT_GT(members, kCases / 4);
}

TEST(AnswerConstraint, GivesTheSameTokensForTheSameSeed) {
  const auto fits =
      constraint(Kind::kJsonSchema, R"({"type":"array","items":{"type":"string"},"minItems":3})");
  const Answer first = answer(request(fits, 3, 60), 9);
  EXPECT_EQ(answer(request(fits, 3, 60), 9).tokens, first.tokens);
  EXPECT_NE(answer(request(fits, 4, 60), 9).tokens, first.tokens);
  // A constraint that takes nothing away changes nothing.
  const auto all = constraint(Kind::kRegex, "[ -~\\n]*");
  GenerateRequest ascii = request(nullptr, 3, 40), constrained = request(all, 3, 40);
  for (GenerateRequest* wanted : {&ascii, &constrained})
    for (uint32_t id = 0; id < tokenizer().vocab_size(); ++id) {
      const auto token = static_cast<TokenId>(id);
      const std::string_view bytes = tokenizer().token_bytes(token);
      const bool plain =
          std::all_of(bytes.begin(), bytes.end(), [](char c) { return (c >= ' ' && c <= '~') || c == '\n'; });
      if (!plain || tokenizer().traits(token).control)
        wanted->sampling.logit_bias.emplace_back(token, -std::numeric_limits<float>::infinity());
    }
  EXPECT_EQ(answer(constrained, 5).tokens, answer(ascii, 5).tokens);
}

TEST(AnswerConstraint, EndsWhereNothingCanFollowAndNotBefore) {
  const auto fits = constraint(Kind::kRegex, "(ab){40}");
  GenerateRequest wanted = request(fits);
  Answer made = answer(wanted, 1);
  EXPECT_EQ(made.finish, FinishReason::kStop);
  EXPECT_EQ(made.text.size(), 80u);
  wanted.ignore_end = true;  // There is no going on past a complete answer.
  made = answer(wanted, 1);
  EXPECT_EQ(made.finish, FinishReason::kStop);
  EXPECT_EQ(made.text.size(), 80u);
  wanted.max_tokens = 3;
  made = answer(wanted, 1);
  EXPECT_EQ(made.finish, FinishReason::kLength);
  EXPECT_EQ(made.tokens.size(), 3u);
  // The end is chosen like any token where the grammar allows it.
  const auto any = constraint(Kind::kRegex, "[a-z]*");
  GenerateRequest open = request(any, 1, 30);
  EXPECT_EQ(answer(open, 1).finish, FinishReason::kStop);
  open.ignore_end = true;
  EXPECT_EQ(answer(open, 1).finish, FinishReason::kLength);
}

TEST(AnswerConstraint, ForbiddenTokensAreNeverSampledEvenIfNothingElseIsLeft) {
  const auto fits = constraint(Kind::kRegex, "yes|no");
  const GenerateRequest wanted = request(fits);
  Generation generation(wanted, &tokenizer(), tokenizer().vocab_size(), 100);
  std::vector<float> logits(tokenizer().vocab_size(), -std::numeric_limits<float>::infinity());
  logits[static_cast<size_t>(tokenizer().find_token("A").value())] = 10.0f;
  const auto token = generation.next(logits);
  ASSERT_FALSE(token);
  EXPECT_NE(token.error().message.find("the grammar allows"), std::string::npos) << token.error().message;
}

// The model's rows may be fewer or more than the tokenizer's tokens.
TEST(AnswerConstraint, RowsWithoutATokenAreNeverSampled) {
  const GenerateRequest wanted = request(constraint(Kind::kRegex, "[a-z]{3}"));
  const uint32_t vocab = tokenizer().vocab_size() + 100;
  Generation generation(wanted, &tokenizer(), vocab, 100);
  std::vector<float> logits(vocab, 0.0f);
  std::fill(logits.end() - 100, logits.end(), 50.0f);
  while (!generation.done()) {
    const auto token = generation.next(logits);
    ASSERT_TRUE(token);
    EXPECT_LT(token->id, static_cast<TokenId>(tokenizer().vocab_size()));
  }
}

text::Thinking thinking(text::Thinking::State state) { return {state, "<think>", "</think>"}; }

// What an answer is where the model wants to say `text`, its tokens being the likeliest at each position.
Answer say(const GenerateRequest& wanted, const std::vector<TokenId>& text) {
  Generation generation(wanted, &tokenizer(), tokenizer().vocab_size(), 400);
  Answer made;
  for (size_t i = 0; !generation.done() && i < 300; ++i) {
    std::vector<float> logits(tokenizer().vocab_size(), 0.0f);
    if (i < text.size()) logits[static_cast<size_t>(text[i])] = 100.0f;
    const auto token = generation.next(logits);
    if (!token) {
      made.error = token.error().message;
      return made;
    }
    made.text += token->text;
    made.finish = generation.done() ? std::optional(generation.finish()) : std::nullopt;
  }
  return made;
}

TEST(AnswerConstraint, BeginsBehindTheThinking) {
  const auto encode = [](const std::string& text) {
    return tokenizer().encode(text, {.add_special_tokens = false, .parse_special = false}).value();
  };
  const auto open = constraint(Kind::kRegex, "yes|no", thinking(text::Thinking::State::kOpen));
  std::vector<TokenId> thoughts = encode("Is it < or > so? {} </thinking> </think>");
  const std::vector<TokenId> reply = encode("no");
  std::vector<TokenId> all = thoughts;
  all.insert(all.end(), reply.begin(), reply.end());
  Answer made = say(request(open), all);
  EXPECT_EQ(made.text, "Is it < or > so? {} </thinking> </think>no");
  EXPECT_EQ(made.finish, FinishReason::kStop);
  // It cannot end while it thinks.
  all = thoughts;
  all.insert(all.begin() + 3, tokenizer().end_of_generation().front());
  made = say(request(open, 1, 100), all);
  EXPECT_NE(made.text.find("</think>"), std::string::npos) << made.text;
  // Nor is what comes with the mark free of the grammar.
  made = say(request(open, 1, 100), encode("So</think>maybe"));
  const size_t mark = made.text.find("</think>");
  ASSERT_NE(mark, std::string::npos) << made.text;
  const size_t reply_at = made.text.find_first_not_of(" \n\t\r", mark + 8);
  ASSERT_NE(reply_at, std::string::npos);
  EXPECT_TRUE(made.text.substr(reply_at) == "yes" || made.text.substr(reply_at) == "no") << made.text;
  // Without a token for the opening mark the model cannot think, so the grammar holds from the start.
  const auto may = constraint(Kind::kRegex, "yes|no", thinking(text::Thinking::State::kMayOpen));
  EXPECT_EQ(say(request(may), encode("no")).text, "no");
}

// Any single token can stand for the opening mark: what counts is that it is one.
TEST(AnswerConstraint, TheFirstTokenMayOpenTheThinking) {
  const TokenId mark = tokenizer().find_token("A").value();
  text::Thinking may = {text::Thinking::State::kMayOpen, "A", "</think>"};
  const auto fits = constraint(Kind::kRegex, "yes|no", may);
  const auto encode = [](const std::string& text) {
    return tokenizer().encode(text, {.add_special_tokens = false, .parse_special = false}).value();
  };
  std::vector<TokenId> all = encode(" free</think>yes");
  all.insert(all.begin(), mark);
  EXPECT_EQ(say(request(fits), all).text, "A free</think>yes");
  EXPECT_EQ(say(request(fits), encode("no")).text, "no");
}

std::vector<TokenId> encoded(const std::string& text) {
  return tokenizer().encode(text, {.add_special_tokens = false, .parse_special = false}).value();
}
std::vector<TokenId> with_end(const std::string& text) {
  std::vector<TokenId> all = encoded(text);
  all.push_back(tokenizer().end_of_generation().front());
  return all;
}

// Answers in channels: a header's end must come behind its mark, as the token that it is or as text.
TEST(AnswerConstraint, AGrammarThatNamesTheThinkingHoldsFromTheFirstToken) {
  const text::Thinking may = {text::Thinking::State::kMayOpen, "A", "B"};
  const text::Thinking open = {text::Thinking::State::kOpen, "A", "B"};
  const TokenId begin = *tokenizer().find_token("A"), end = *tokenizer().find_token("B");
  const auto number = [](TokenId token) { return "<[" + std::to_string(token) + "]>"; };
  const std::string rest = "!" + number(end) + "{2} " + number(end) + " \"yes\"";
  const auto closes = answer(request(constraint(Kind::kGbnf, "root ::= " + rest, open)), 1);
  EXPECT_EQ(closes.error, "");
  ASSERT_GT(closes.tokens.size(), 3u);
  EXPECT_EQ(closes.tokens[2], end);
  EXPECT_TRUE(closes.text.ends_with("Byes")) << closes.text;
  const auto both =
      answer(request(constraint(Kind::kGbnf, "root ::= " + number(begin) + " " + rest, may)), 2);
  EXPECT_EQ(both.error, "");
  ASSERT_GT(both.tokens.size(), 4u);
  EXPECT_EQ(both.tokens[0], begin);
  EXPECT_EQ(both.tokens[3], end);
  EXPECT_TRUE(both.text.ends_with("Byes")) << both.text;
}

TEST(AnswerConstraint, HoldsTheFinalChannelAlone) {
  const TokenId token = tokenizer().find_token("A").value();
  for (const std::string message : {"A", "<message>"}) {
    text::Thinking channels = {text::Thinking::State::kOpen, {}, "<channel>final", message};
    const auto says = [&](const text::Thinking& thinks, const std::string& before,
                          const std::string& behind) {
      std::vector<TokenId> all = encoded(before);
      if (message == "A") {
        all.push_back(token);
      } else {
        for (const TokenId one : encoded(message)) all.push_back(one);
      }
      for (const TokenId one : with_end(behind)) all.push_back(one);
      return say(request(constraint(Kind::kRegex, "yes|no", thinks), 1, 100), all);
    };
    const std::string analysis = "<channel>analysis: {\"x\"} <final> <end>";
    Answer made = says(channels, analysis + "<channel>final", "no");
    std::string expected = analysis + "<channel>final";
    expected += message;
    expected += "no";
    EXPECT_EQ(made.text, expected);
    EXPECT_EQ(made.finish, FinishReason::kStop);
    // What does not fit does not come, nor anything between the mark and the text.
    made = says(channels, "<channel>final", "maybe");
    EXPECT_TRUE(made.text == "<channel>final" + message + "yes" ||
                made.text == "<channel>final" + message + "no")
        << made.text;
    if (message == "A") {
      made = says(channels, "<channel>final or else", "no");
      EXPECT_TRUE(made.text == "<channel>finalAyes" || made.text == "<channel>finalAno") << made.text;
    }
  }
  // Only the token that ends a call may end the answer before.
  text::Thinking calls = {text::Thinking::State::kOpen, {}, "<channel>final", "A"};
  EXPECT_NE(say(request(constraint(Kind::kRegex, "yes|no", calls), 1, 20), with_end("call")).text, "call");
  calls.call_end = std::string(tokenizer().token_bytes(tokenizer().end_of_generation().front()));
  const Answer called = say(request(constraint(Kind::kRegex, "yes|no", calls), 1, 20), with_end("call"));
  EXPECT_EQ(called.text, "call");
  EXPECT_EQ(called.finish, FinishReason::kStop);
}

TEST(AnswerConstraint, HoldsWhatFollowsAnOpeningMarkAndNothingElse) {
  const auto opening = [](const std::string& mark, const text::Thinking& thinks = {}) {
    const auto compiled = compiler().compile({Kind::kRegex, "(yes|no)!"});
    return std::make_shared<const Constraint>(Constraint{compiled.value(), thinks, mark});
  };
  // The mark in several tokens, again and again; between them anything goes, and the answer may end.
  const auto marked = opening("<call>");
  EXPECT_EQ(say(request(marked), with_end("Hm, <cal <call>yes! no? <call>no! So.")).text,
            "Hm, <cal <call>yes! no? <call>no! So.");
  EXPECT_EQ(say(request(marked), with_end("Nothing of that <sort>.")).text, "Nothing of that <sort>.");
  const std::string forced = say(request(marked, 1, 60), with_end("So <call>maybe")).text;
  EXPECT_TRUE(forced.starts_with("So <call>yes!") || forced.starts_with("So <call>no!")) << forced;
  // It cannot end behind the mark.
  std::vector<TokenId> early = with_end("<call>");
  EXPECT_GE(say(request(marked, 1, 40), early).text.size(), std::string("<call>no!").size());
  // As one token.
  EXPECT_EQ(tokenizer().find_token("A").has_value(), true);
  const auto single = opening("A");
  EXPECT_EQ(say(request(single), with_end("b Ayes! b")).text.substr(0, 2), "b ");
  std::vector<TokenId> all = encoded("b");
  all.push_back(tokenizer().find_token("A").value());
  for (const TokenId token : with_end("no! b")) all.push_back(token);
  EXPECT_EQ(say(request(single), all).text, "bAno! b");
  // A mark within the thinking opens nothing.
  const auto thinks = opening("<call>", thinking(text::Thinking::State::kOpen));
  EXPECT_EQ(say(request(thinks), with_end("<call>maybe</think><call>no! b")).text,
            "<call>maybe</think><call>no! b");
}

}  // namespace
}  // namespace mlxf::engine
