#include "text/gbnf.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "base/json.h"
#include "formats/manifest.h"
#include "text/gbnf_grammar.h"
#include "text/gbnf_lexemes.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace mlxf::text {
namespace {

using Kind = GbnfNode::Kind;

// Grammars of the kinds that people have.
constexpr const char* kJson = R"gbnf(# JSON
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# At most some blanks, so that they come to an end.
ws ::= | " " | "\n" [ \t]{0,20}
)gbnf";
constexpr const char* kList =
    "root ::= item+\n\n# No line ends within\nitem ::= \"- \" [^\\r\\n\\x0b]+ \"\\n\"\n";
constexpr const char* kArithmetic = R"gbnf(root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
)gbnf";
constexpr const char* kChess =
    R"gbnf(root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
)gbnf";
constexpr const char* kC = R"gbnf(root ::= (declaration)*
declaration ::= dataType identifier "(" parameter? ")" "{" statement* "}"
dataType  ::= "int" ws | "float" ws | "char" ws
identifier ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= dataType identifier
statement ::=
    ( dataType identifier ws "=" ws expression ";" ) |
    ( identifier ws "=" ws expression ";" ) |
    ( "return" ws expression ";" ) |
    ( "while" "(" condition ")" "{" statement* "}" ) |
    ( singleLineComment )
condition ::= expression ("==" | "<" | ">=") expression
expression ::= term (("+" | "-") term)*
term ::= factor(("*" | "/") factor)*
factor ::= identifier | number | "-" factor | "(" expression ")"
singleLineComment ::= "//" [^\n]* "\n"
number ::= [0-9]+
ws ::= ([ \t\n]+)
)gbnf";
// As a converter of schemas writes them.
constexpr const char* kSchema =
    R"gbnf(root ::= "{" space name-kv "," space age-kv ( "," space ( tags-kv ) )? "}" space
name-kv ::= "\"name\"" space ":" space string
age-kv ::= "\"age\"" space ":" space integer
tags-kv ::= "\"tags\"" space ":" space tags
tags ::= "[" space (string ("," space string)*)? "]" space
string ::= "\"" char* "\"" space
char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})
integer ::= ("-"? integral-part) space
integral-part ::= [0] | [1-9] [0-9]{0,15}
space ::= | " " | "\n"{1,2} [ \t]{0,20}
)gbnf";

std::vector<uint32_t> code_points(std::string_view text) {
  std::vector<uint32_t> out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if ((byte & 0xC0) == 0x80) {
      out.back() = out.back() << 6 | (byte & 0x3Fu);
    } else {
      out.push_back(byte < 0x80 ? byte : byte & (byte < 0xE0 ? 0x1Fu : byte < 0xF0 ? 0x0Fu : 0x07u));
    }
  }
  return out;
}

// What a grammar means, character by character: independent of how it is matched.
class Recogniser {
 public:
  Recogniser(const GbnfGrammar& grammar, std::string_view text)
      : grammar_(grammar), text_(code_points(text)) {}
  // Of characters that are tokens of their own; and tokens that are none, which are numbered behind all characters.
  Recogniser(const GbnfGrammar& grammar, std::vector<uint32_t> text, std::map<uint32_t, TokenId> tokens)
      : grammar_(grammar), text_(std::move(text)), tokens_(std::move(tokens)) {}
  bool matches() { return ends(grammar_.rules[grammar_.root].body, 0).contains(text_.size()); }

 private:
  using Ends = std::set<size_t>;
  const Ends& ends(uint32_t node, size_t at) {
    const auto key = std::make_pair(node, at);
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    return known_[key] = look(grammar_.nodes[node], at);
  }
  Ends after(const Ends& begins, uint32_t node) {
    Ends out;
    for (const size_t at : begins) out.merge(Ends(ends(node, at)));
    return out;
  }
  Ends look(const GbnfNode& node, size_t at) {
    Ends out;
    switch (node.kind) {
      case Kind::kChars:
        for (const CharRange& range : node.chars)
          if (at < text_.size() && text_[at] >= range.first && text_[at] <= range.last) out.insert(at + 1);
        return out;
      case Kind::kToken:
        if (at < text_.size() && (tokens_.at(text_[at]) == grammar_.tokens[node.token].id) != node.negated)
          out.insert(at + 1);
        return out;
      case Kind::kRule:
        return ends(grammar_.rules[node.rule].body, at);
      case Kind::kSequence:
        out = {at};
        for (const uint32_t part : node.parts) out = after(out, part);
        return out;
      case Kind::kChoice:
        for (const uint32_t part : node.parts) out.merge(Ends(ends(part, at)));
        return out;
      case Kind::kRepeat: {
        Ends here = {at};
        for (uint32_t i = 0; !here.empty(); ++i) {
          if (i >= node.least) out.insert(here.begin(), here.end());
          // More than that is what takes nothing.
          if (i == node.most || i > node.least + text_.size()) return out;
          here = after(here, node.parts.front());
        }
        return out;
      }
    }
    return out;
  }
  const GbnfGrammar& grammar_;
  const std::vector<uint32_t> text_;
  const std::map<uint32_t, TokenId> tokens_ = {};
  std::map<std::pair<uint32_t, size_t>, Ends> known_;
};

const Tokenizer& tokenizer() {
  static const Tokenizer kTokenizer =
      load_tokenizer(*formats::open_model(MLXF_SOURCE_DIR "/models/classics-moe-4bit")).value();
  return kTokenizer;
}

const GrammarCompiler& compiler() {
  static const GrammarCompiler kCompiler = GrammarCompiler::create(tokenizer()).value();
  return kCompiler;
}

bool has(std::span<const uint32_t> words, TokenId token) {
  return (words[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
}

std::optional<Grammar> compiled(const std::string& gbnf, const GrammarCompiler& by = compiler()) {
  auto grammar = by.compile({GrammarText::Kind::kGbnf, gbnf});
  EXPECT_TRUE(grammar) << gbnf << "\n" << (grammar ? "" : grammar.error().message);
  if (!grammar) return std::nullopt;
  return std::move(*grammar);
}

bool fits(const Grammar& grammar, const std::vector<TokenId>& tokens) {
  GrammarMatcher matcher = grammar.start().value();
  for (const TokenId token : tokens) {
    if (matcher.must_end() || !has(matcher.allowed().value(), token)) return false;
    EXPECT_TRUE(matcher.accept(token));
  }
  EXPECT_TRUE(matcher.allowed());
  return matcher.may_end();
}

bool fits(const Grammar& grammar, std::string_view text) {
  return fits(grammar,
              tokenizer().encode(text, {.add_special_tokens = false, .parse_special = false}).value());
}

// The same vocabulary with special tokens for thinking, and no token that ends an answer.
const Tokenizer& thinker() {
  static const Tokenizer kTokenizer = [] {
    std::ifstream file(MLXF_SOURCE_DIR "/models/classics-moe-4bit/tokenizer.json");
    Json json = parse_json(std::string(std::istreambuf_iterator<char>(file), {})).value();
    Json token = json["added_tokens"][0];
    for (const char* text : {"<think>", "</think>"}) {
      token["id"] = json["model"]["vocab"].size() + json["added_tokens"].size() - 3;
      token["content"] = text;
      json["added_tokens"].push_back(token);
    }
    return parse_tokenizer(dump_json(json)).value();
  }();
  return kTokenizer;
}

const GrammarCompiler& thinker_compiler() {
  static const GrammarCompiler kCompiler = GrammarCompiler::create(thinker()).value();
  return kCompiler;
}

// The words of a grammar's tests: a name of a token or a text.
std::vector<TokenId> tokens_of(const std::vector<std::string>& parts) {
  std::vector<TokenId> out;
  for (const std::string& part : parts) {
    const auto token = part.starts_with('<') ? thinker().find_token(part) : std::nullopt;
    if (token) {
      out.push_back(*token);
    } else {
      const auto ids = thinker().encode(part, {.add_special_tokens = false, .parse_special = false}).value();
      out.insert(out.end(), ids.begin(), ids.end());
    }
  }
  return out;
}

std::string lark_of(std::string_view gbnf) {
  const auto none = [](const auto&) -> Result<GbnfTokenFact> { return fail(ErrorCode::kNotFound, "none"); };
  return gbnf_to_lark(gbnf, {none, none}).value().lark;
}

TEST(Gbnf, ToldFromLarkByItsFirstRule) {
  for (const char* text : {"root ::= \"a\"", "# note\n\n  ws::= | \" \"", kJson, "a-b_1 \t::=\n x"})
    EXPECT_TRUE(is_gbnf(text)) << text;
  for (const char* text : {"", "start: \"::=\"", "// root ::= x\nstart: A", "%ignore / /\nstart: \"a\"",
                           "root = \"a\"", "::= \"a\"", "?start: x\nx ::= y", "# root ::= x"})
    EXPECT_FALSE(is_gbnf(text)) << text;
}

TEST(Gbnf, FitsWhatTheGrammarSays) {
  const struct {
    std::string grammar;
    std::vector<std::string> fit, others;
  } cases[] = {
      {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "ye", "yesno", "maybe"}},
      {"root ::= a b\na ::= \"x\"* # note\nb ::= (\"y\"\n  | # note\n  \"z\")", {"y", "xxz"}, {"xx", "zy"}},
      {"root ::= a\n  | \"b\"\na ::= \"a\"", {"a", "b"}, {"ab"}},
      {"root ::= \"a\" |", {"a", ""}, {"b"}},
      {"root ::= x \"c\"\nx ::= \"a\" |\n  \"b\" |\n", {"ac", "bc", "c"}, {"a"}},
      {"root ::= [a-z]+ \"x\"", {"ax", "abxx", "xx"}, {"x", "ab"}},
      {"root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} \"d\"{0}", {"aab", "aabbbcc"}, {"ab", "aabccc", "aabd"}},
      {"root ::= (\"a\" | \"b\"){2,3}", {"ab", "bab"}, {"a", "abab"}},
      {"root ::= \"a\"?+", {"", "a", "aaa"}, {"b"}},
      {"root ::= [^a-c\\]] [-x] [x-] [\\x41\\u00e9\\U0001F999]",
       {"d--A", "zxx\xC3\xA9", "ex-\xF0\x9F\xA6\x99"},
       {"a--A", "]--A", "d--B"}},
      {"root ::= . .", {"a\n", "\xC3\xA9\xF0\x9F\xA6\x99"}, {"a", "abc"}},
      {R"(root ::= "\t\r\n\\\"\[\]\x20é/'" "")", {"\t\r\n\\\"[] \xC3\xA9/'"}, {"\t\r\n\\\"[] e/'"}},
      {"root ::= \"\"", {""}, {"a"}},
      {"root ::= \"(\" root? \")\"", {"()", "((()))"}, {"", "(()", "())"}},
      {"root ::= \"a\" root \"b\" | \"ab\"", {"ab", "aabb", "aaabbb"}, {"aab", "abb", ""}},
      {"root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"\"", {"", "aa", "abba"}, {"ab", "aba"}},
      {"root ::= w (\" \" w)* \".\"\nw ::= \"if\" | [a-z]+ | \"(\" root \")\"",
       {"if x.", "iffy if (a.)."},
       {"if", "If.", "(a)."}},
      {"root ::= \"(\" n ws ws \")\" | \"[\" root \"]\"\nn ::= [0-9]+ ws\nws ::= [ ]*",
       {"(1)", "[(1   )]"},
       {"( 1)", "(1"}},
      {kJson,
       {"{}", R"({"a": [1, -2.5e+1, "\u00e9\n", true, null], "b": {}})", "{\n   \"a\":0}"},
       {"", "[1]", R"({"a" 1})", "{\"a\": tru}", "{\"a\": 01}", "{\n\n\"a\": 1}"}},
      {kList, {"- one\n", "- one\n- two 2\n"}, {"one\n", "- one", "-\n"}},
      {kArithmetic, {"x=1\n", "(a +2)*b_1 = 3\nz=z\n"}, {"x=", "(a=1\n", "x==1\n"}},
      {kChess,
       {"1. e4 e5\n2. Nf3 Nc6\n", "1. d4 O-O-O\n12. exd8=Q+ Kxe7#\n"},
       {"1. e4 e5\n", "1. e9 e5\n2. a1 a1\n"}},
      {kC,
       {"", "int f(){}", "int main(int x){int y = -x+(2*z);while(x<y){x = 1;}//no\nreturn y;}",
        "int int(){int = 5;}", "int f(){returned = 1;}"},
       {"int f(", "int f(){return;}", "f(){}"}},
      {kSchema,
       {R"({"name": "Zo\u00eb", "age": 36, "tags": []})", "{\"name\":\"\",\n\"age\":0}"},
       {R"({"name": "a"})", R"({"age": 1, "name": "a"})", R"({"name": "a", "age": 01})"}},
  };
  for (const auto& one : cases) {
    const auto parsed = parse_gbnf(one.grammar);
    ASSERT_TRUE(parsed) << one.grammar << "\n" << parsed.error().message;
    const auto grammar = compiled(one.grammar);
    ASSERT_TRUE(grammar);
    const auto check = [&](const std::string& text, bool expected) {
      EXPECT_EQ(Recogniser(*parsed, text).matches(), expected) << one.grammar << "\n" << text;
      EXPECT_EQ(fits(*grammar, text), expected) << lark_of(one.grammar) << "\n" << text;
    };
    for (const std::string& text : one.fit) check(text, true);
    for (const std::string& text : one.others) check(text, false);
  }
}

// Answers of random tokens that the grammar allows are what the grammar describes.
TEST(Gbnf, WhatIsMadeUnderAGrammarFitsIt) {
  size_t ended = 0;
  for (const char* text : {kJson, kList, kArithmetic, kChess, kC, kSchema}) {
    const GbnfGrammar parsed = parse_gbnf(text).value();
    const auto grammar = compiled(text);
    ASSERT_TRUE(grammar);
    for (uint32_t seed = 0; seed < 4; ++seed) {
      std::minstd_rand random(seed + 1);
      GrammarMatcher matcher = grammar->start().value();
      std::string made;
      for (size_t i = 0; i < 40 && !matcher.must_end(); ++i) {
        const auto allowed = matcher.allowed();
        ASSERT_TRUE(allowed) << made;
        if (matcher.may_end() && i > 8) break;
        std::vector<TokenId> choices;
        choices.reserve(tokenizer().vocab_size());
        // Now and then what closes something, so that there is an end.
        const bool closes = random() % 2 == 0;
        for (int pass = closes ? 0 : 1; choices.empty() && pass < 2; ++pass)
          for (uint32_t id = 0; id < tokenizer().vocab_size(); ++id)
            if (has(*allowed, static_cast<TokenId>(id)) &&
                !tokenizer().is_end_of_generation(static_cast<TokenId>(id)) &&
                (pass == 1 || tokenizer().token_bytes(static_cast<TokenId>(id)).find_first_of("\"}])\n;=") !=
                                  std::string_view::npos))
              choices.push_back(static_cast<TokenId>(id));
        if (choices.empty()) break;
        const TokenId token = choices[random() % choices.size()];
        made += tokenizer().token_bytes(token);
        ASSERT_TRUE(matcher.accept(token));
      }
      ASSERT_TRUE(matcher.must_end() || matcher.allowed());
      if (!matcher.must_end() && !matcher.may_end()) continue;
      ++ended;
      EXPECT_TRUE(Recogniser(parsed, made).matches()) << text << "\n" << made;
    }
  }
  EXPECT_GE(ended, 8u);
}

// Seeded grammars over a and b, with recursion, texts within texts and parts that begin alike.
class GrammarMaker {
 public:
  explicit GrammarMaker(uint32_t seed,
                        std::vector<std::string> items = {"\"a\"", "\"b\"", "[ab]", "\"ab\"", "\"ba\"", "x",
                                                          "y", "x", "y", "root"})
      : random_(seed), items_(std::move(items)) {}
  std::string make() {
    std::string out = "root ::= " + choice(2) + "\n";
    for (const char* rule : {"x", "y"}) out.append(rule).append(" ::= ").append(choice(2)).append("\n");
    return out;
  }

 private:
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(random_() >> 8) % bound; }
  std::string choice(int depth) {
    std::string out = sequence(depth);
    for (uint32_t i = below(3); i > 0; --i) out.append(" | ").append(sequence(depth));
    return out;
  }
  std::string sequence(int depth) {
    std::string out = item(depth);
    for (uint32_t i = below(4); i > 0; --i) out.append(" ").append(item(depth));
    return out;
  }
  std::string item(int depth) {
    constexpr const char* kTimes[] = {"", "", "", "?", "*", "+", "{2}", "{1,2}"};
    const bool group = depth > 0 && below(4) == 0;
    std::string out =
        group ? "(" + choice(depth - 1) + ")" : items_[below(static_cast<uint32_t>(items_.size()))];
    return out + kTimes[below(std::size(kTimes))];
  }
  std::minstd_rand random_;
  const std::vector<std::string> items_;
};

// All short texts, one character a token: what is matched is what the grammar means, however lexemes were chosen.
TEST(Gbnf, FitsExactlyTheTextsOfSeededGrammars) {
  const TokenId a = tokenizer().find_token("a").value(), b = tokenizer().find_token("b").value();
  size_t checked = 0, whole = 0, matching = 0;
  for (uint32_t seed = 1; checked < 70; ++seed) {
    const std::string text = GrammarMaker(seed).make();
    const auto parsed = parse_gbnf(text);
    if (!parsed) {
      ASSERT_NE(parsed.error().message.find("begins with itself"), std::string::npos) << text;
      continue;
    }
    ++checked;
    if (choose_lexemes(*parsed).whole) ++whole;
    const auto grammar = compiled(text);
    ASSERT_TRUE(grammar);
    for (uint32_t length = 0; length <= 4; ++length)
      for (uint32_t bits = 0; bits < 1u << length; ++bits) {
        std::vector<TokenId> tokens;
        std::string letters;
        tokens.reserve(length);
        for (uint32_t i = 0; i < length; ++i) {
          tokens.push_back((bits >> i & 1) != 0 ? a : b);
          letters += (bits >> i & 1) != 0 ? 'a' : 'b';
        }
        const bool expected = Recogniser(*parsed, letters).matches();
        matching += expected ? 1 : 0;
        ASSERT_EQ(fits(*grammar, tokens), expected) << "seed " << seed << ": " << letters << "\n"
                                                    << text << lark_of(text);
      }
  }
  EXPECT_GT(whole, 0u);
  EXPECT_GT(matching, 100u);
}

// The parts that answers are mostly made of stay in one piece: masks of single characters are slow.
TEST(Gbnf, LongPartsAreSingleLexemes) {
  const std::string json = lark_of(kJson);
  const auto lexemes = choose_lexemes(parse_gbnf(kJson).value());
  EXPECT_FALSE(lexemes.whole);
  const GbnfGrammar grammar = parse_gbnf(kJson).value();
  for (const GbnfRule& rule : grammar.rules) {
    const bool opened = lexemes.opened[resolved(grammar, rule.body)];
    EXPECT_EQ(opened,
              rule.name == "root" || rule.name == "value" || rule.name == "object" || rule.name == "array")
        << rule.name << "\n"
        << json;
  }
}

TEST(Gbnf, TokensAreMatchedByNameAndByNumber) {
  const auto number = [](const char* text) {
    return "<[" + std::to_string(thinker().find_token(text).value()) + "]>";
  };
  const std::string by_number = "root ::= " + number("<think>") + " t " + number("</think>") +
                                " \"yes\" | \"no\"\nt ::= !" + number("</think>") + "*";
  const struct {
    std::string grammar;
    std::vector<std::vector<std::string>> fit, others;
  } cases[] = {
      {"root ::= <think> t </think> \"yes\" | \"no\"\nt ::= !</think>*",
       {{"<think>", "Hmm, no.", "</think>", "yes"},
        {"<think>", "</think>", "yes"},
        {"<think>", "<think>", "a", "<|im_start|>", "</think>", "yes"},
        {"no"}},
       {{"yes"},
        {"<think>", "Hmm"},
        {"<think>", "</think>", "</think>", "yes"},
        {"<think>", "</think>", "no"}}},
      {by_number, {{"<think>", "Hmm, no.", "</think>", "yes"}, {"no"}}, {{"yes"}, {"<think>", "</think>"}}},
      // Names spelled out as text are no tokens, and the other way round.
      {"root ::= \"<thi\" \"nk>\"", {{"<thi", "nk>"}}, {{"<think>"}}},
      {"root ::= [a-z]+ <think> .*",
       {{"ab", "<think>", "cd"}, {"ab", "<think>"}},
       {{"<think>"}, {"ab"}, {"ab", "<think>", "</think>"}, {"ab", "<think>", "<think>"}}},
      {"root ::= (<think> | \"a\"){2}",
       {{"<think>", "a"}, {"a", "<think>"}, {"a", "a"}},
       {{"a"}, {"<think>"}}},
      {"root ::= !<think>{2} | </think> <think>",
       {{"a", "b"}, {"</think>", "</think>"}, {"</think>", "<think>"}},
       {{"a", "<think>"}, {"<think>", "a"}, {"a"}}},
  };
  for (const auto& [text, fit, others] : cases) {
    const auto grammar = compiled(text, thinker_compiler());
    ASSERT_TRUE(grammar);
    for (const auto& parts : fit)
      EXPECT_TRUE(fits(*grammar, tokens_of(parts))) << text << "\n" << ::testing::PrintToString(parts);
    for (const auto& parts : others)
      EXPECT_FALSE(fits(*grammar, tokens_of(parts))) << text << "\n" << ::testing::PrintToString(parts);
  }
  const auto names = compiled("root ::= !<think>", thinker_compiler());
  ASSERT_TRUE(names);
  EXPECT_TRUE(names->names(*thinker().find_token("<think>")));
  EXPECT_FALSE(names->names(*thinker().find_token("</think>")));
}

// All short answers of a special token and two that are letters.
TEST(Gbnf, FitsExactlyTheTokensOfSeededGrammars) {
  const TokenId a = *thinker().find_token("a"), b = *thinker().find_token("b");
  const TokenId think = *thinker().find_token("<think>");
  constexpr uint32_t kThink = 0x110000;
  const std::map<uint32_t, TokenId> tokens = {{'a', a}, {'b', b}, {kThink, think}};
  const auto number = [](TokenId token) { return "<[" + std::to_string(token) + "]>"; };
  const std::vector<std::string> items = {number(think), '!' + number(think),
                                          number(think), "x",
                                          number(a),     '!' + number(b),
                                          "\"a\"",       "\"ab\"",
                                          "[ab]",        "y",
                                          "\"b\"",       number(think)};
  size_t checked = 0, unclear = 0, matching = 0;
  for (uint32_t seed = 1; checked < 60; ++seed) {
    const std::string text = GrammarMaker(seed, items).make();
    const auto parsed = parse_gbnf(text);
    if (!parsed) continue;
    const auto grammar = thinker_compiler().compile({GrammarText::Kind::kGbnf, text});
    if (!grammar) {
      ASSERT_NE(grammar.error().message.find("cannot be told apart"), std::string::npos)
          << text << grammar.error().message;
      ++unclear;
      continue;
    }
    ++checked;
    for (uint32_t length = 0, all = 1; length <= 4; ++length, all *= 3)
      for (uint32_t which = 0; which < all; ++which) {
        std::vector<uint32_t> letters;
        std::vector<TokenId> ids;
        for (uint32_t i = 0, rest = which; i < length; ++i, rest /= 3) {
          constexpr uint32_t kLetters[] = {'a', 'b', kThink};
          letters.push_back(kLetters[rest % 3]);
          ids.push_back(tokens.at(letters.back()));
        }
        const bool expected = Recogniser(*parsed, letters, tokens).matches();
        matching += expected ? 1 : 0;
        ASSERT_EQ(fits(*grammar, ids), expected)
            << "seed " << seed << ": " << ::testing::PrintToString(ids) << "\n"
            << text;
      }
  }
  EXPECT_GT(unclear, 0u);
  EXPECT_GT(matching, 100u);
}

TEST(Gbnf, RefusalsSayWhereAndWhy) {
  std::string many, deep = "root ::= " + std::string(100, '(') + "\"a\"" + std::string(100, ')');
  for (int i = 0; i < 1100; ++i) many.append("r").append(std::to_string(i)).append(" ::= \"a\"\n");
  const struct {
    std::string grammar;
    const char* where;
    const char* what;
  } cases[] = {
      {"", "line 1, column 1", "no rule \"root\""},
      {"main ::= \"a\"\n", "line 2, column 1", "no rule \"root\""},
      {"root ::= a", "line 1, column 10", "rule \"a\" is not defined"},
      {"root ::= \"é\" bc\n", "line 1, column 14", "rule \"bc\" is not defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1", "defined twice"},
      {"root = \"a\"", "line 1, column 6", "::= must follow"},
      {"root ::= \"a\"\n*", "line 2, column 1", "the name of a rule"},
      {"root ::= \"a", "line 1, column 10", "not closed"},
      {"root ::= \"a\\", "line 1, column 12", "can stand behind"},
      {"root ::= [a", "line 1, column 10", "not closed"},
      {"root ::= []", "line 1, column 10", "must not be empty"},
      {"root ::= [z-a]", "line 1, column 11", "must not end before it begins"},
      {"root ::= [\\q]", "line 1, column 11", "can stand behind"},
      {"root ::= \"\\x4\"", "line 1, column 11", "2 hexadecimal digits"},
      {"root ::= \"\\uD800\"", "line 1, column 11", "no character"},
      {"root ::= \"\\UFFFFFFFF\"", "line 1, column 11", "at most 10FFFF"},
      {"root ::= [\\uD800-\\uDFFF]", "line 1, column 11", "no character"},
      {"root ::= [^\\x00-\\U0010FFFF]", "line 1, column 10", "no character is in this class"},
      {"root ::= (\"a\"", "line 1, column 10", "this ( is not closed"},
      {"root ::= \"a\")", "line 1, column 13", "no ( was open"},
      {"root ::= (\"a\" ]", "line 1, column 15", "a ) must stand here"},
      {"root ::= \"a\" ]", "line 1, column 14", "cannot stand in a rule"},
      {"root ::= *", "line 1, column 10", "must follow what it repeats"},
      {"root ::= \"a\"{x}", "line 1, column 14", "a number"},
      {"root ::= \"a\"{2,1}", "line 1, column 13", "less than"},
      {"root ::= \"a\"{1", "line 1, column 15", "a } must"},
      {"root ::= \"a\"{99999999999}", "line 1, column 14", "more than 2000"},
      {"root ::= <think>", "line 1, column 10", "<think> is not one token of this model"},
      {"root ::= \"a\" !<[99999]>", "line 1, column 15", "no token of this number"},
      {"root ::= <[99999999999999999999]>", "line 1, column 12", "no vocabulary"},
      {"root ::= <[x]>", "line 1, column 12", "the number of a token"},
      {"root ::= <[1>", "line 1, column 13", "]> must follow"},
      {"root ::= <think\n", "line 1, column 10", "this < is not closed"},
      {"root ::= !\"a\"", "line 1, column 11", "must follow !"},
      {"root ::= \"a\" <|im_end|>", "line 1, column 14", "<|im_end|> ends the answer"},
      {"root ::= (\"a\" | !<|im_start|>)", "line 1, column 18", "cannot be told apart"},
      {"root ::= [a-z]* !<|im_start|>", "line 1, column 18", "!<|im_start|> can be a token of text"},
      {"root ::= a\na ::= \"x\" |\n  # none\nb ::= \"y\"", "line 2, column 11", "rule \"a\" ends in |"},
      {"root ::= root \"a\" | \"b\"", "line 1, column 1", "\"root\" begins with itself"},
      {"root ::= a\na ::= \"x\"? b\nb ::= (a)* \"y\"", "line 1, column 10", "\"a\" begins with itself"},
      {deep, "line 1, column 74", "64 levels"},
      {many, "line 1001, column 1", "1000 rules"},
      {std::string("root ::= \"\xFF\""), "", "not UTF-8"},
      {std::string(300 << 10, 'a'), "", "at most 262144"},
  };
  for (const auto& [grammar, where, what] : cases) {
    const auto refused = compiler().compile({GrammarText::Kind::kGbnf, grammar});
    ASSERT_FALSE(refused) << grammar.substr(0, 100);
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    const std::string& message = refused.error().message;
    EXPECT_TRUE(message.starts_with("the GBNF grammar cannot be used: ")) << message;
    EXPECT_NE(message.find(where), std::string::npos) << grammar.substr(0, 100) << "\n" << message;
    EXPECT_NE(message.find(what), std::string::npos) << grammar.substr(0, 100) << "\n" << message;
  }
}

// Grammars that are large or mean to be: refused or compiled, in time.
TEST(Gbnf, LargeGrammarsEndInTime) {
  std::string doubling = "root ::= r0 r0\n", chain = "root ::= \"(\" r0 \")\"\n", choices = "root ::= (\"a\"",
              stars;
  for (int i = 0; i < 60; ++i)
    doubling.append("r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " r" +
                    std::to_string(i + 1) + "\n");
  doubling += "r60 ::= \"a\"\n";
  for (int i = 0; i < 900; ++i)
    chain.append("r" + std::to_string(i) + " ::= \"a\" (r" + std::to_string(i + 1) + " | root)*\n");
  chain += "r900 ::= \"b\"\n";
  for (int i = 0; i < 5000; ++i) choices.append(" | \"a" + std::to_string(i) + "\"");
  choices += " root?)*";
  stars = "root ::= " + std::string(60, '(') + "\"a\"*";
  for (int i = 0; i < 60; ++i) stars += ")*";
  for (const std::string& text : {doubling, chain, choices, stars}) {
    const auto grammar = compiler().compile({GrammarText::Kind::kGbnf, text});
    EXPECT_TRUE(grammar || grammar.error().code == ErrorCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace mlxf::text
