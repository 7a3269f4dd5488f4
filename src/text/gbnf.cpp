#include "text/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "text/call_readers.h"
#include "text/gbnf_grammar.h"
#include "text/gbnf_lexemes.h"

namespace mlxf::text {
namespace {

using Kind = GbnfNode::Kind;

void append_hex(uint32_t c, std::string& out) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  out += "\\x{";
  int shift = 20;
  while (shift > 0 && c >> shift == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) out += kDigits[c >> shift & 15];
  out += '}';
}

// As a class of a regular expression: by numbers alone, so that nothing in it means anything else.
std::string class_of(const std::vector<CharRange>& chars) {
  std::string out = "/[";
  for (const CharRange& range : chars) {
    append_hex(range.first, out);
    if (range.last == range.first) continue;
    out += '-';
    append_hex(range.last, out);
  }
  return out + "]/";
}

// A character that stands for itself in Lark's texts.
bool is_plain(const GbnfNode& node) {
  return node.kind == Kind::kChars && node.chars.size() == 1 && node.chars[0].first == node.chars[0].last &&
         node.chars[0].first >= ' ' && node.chars[0].first < 0x7F;
}

std::string bounds_of(const GbnfNode& node) {
  const bool unbounded = node.most == GbnfNode::kUnbounded;
  if (unbounded && node.least < 2) return node.least == 0 ? "*" : "+";
  if (node.least == 0 && node.most == 1) return "?";
  std::string out = "{" + std::to_string(node.least) + ",";
  if (!unbounded) out += std::to_string(node.most);
  return out + "}";
}

class LarkWriter {
 public:
  explicit LarkWriter(const GbnfGrammar& grammar) : grammar_(grammar), lexemes_(choose_lexemes(grammar)) {}

  // What cannot be written: a token that cannot be told from text.
  [[nodiscard]] std::optional<uint32_t> unclear() const { return lexemes_.unclear; }

  GbnfLark write() {
    const uint32_t root = grammar_.rules[grammar_.root].body;
    const std::string start = lexemes_.whole ? lexeme(root) : structure(root);
    out_.insert(0, "start: " + start + "\n");
    while (!rules_.empty() || !terminals_.empty()) {
      const bool terminal = rules_.empty();
      std::vector<uint32_t>& from = terminal ? terminals_ : rules_;
      const uint32_t rule = from.back();
      from.pop_back();
      const uint32_t body = grammar_.rules[rule].body;
      const std::string written = terminal ? regular(body, Place::kAlone) : structure(body);
      define(terminal ? 'T' : 'r', rule, written);
    }
    GbnfLark made{std::move(out_), {}, other_tokens_};
    for (const GbnfToken& token : grammar_.tokens)
      if (!token.is_end) made.tokens.push_back(*token.id);
    return made;
  }

 private:
  // Where an expression stands: alternatives and sequences need brackets in others.
  enum class Place : uint8_t { kAlone, kInside };

  void define(char letter, size_t number, const std::string& body) {
    out_ += letter;
    out_.append(std::to_string(number)).append(": ").append(body) += '\n';
  }

  static std::string name(char letter, size_t number) { return letter + std::to_string(number); }

  // The rule's name as `letter` writes it, defined once.
  std::string named(char letter, uint32_t rule, std::vector<uint32_t>& queue) {
    std::string text = name(letter, rule);
    if (defined_.emplace(text, true).second) queue.push_back(rule);
    return text;
  }

  // What is opened: its parts are lexemes or rules of the grammar.
  std::string structure(uint32_t at) {
    const GbnfNode& node = grammar_.nodes[at];
    const uint32_t meant = resolved(grammar_, at);
    if (grammar_.nodes[meant].kind == Kind::kToken) return token(grammar_.nodes[meant]);
    if (node.kind == Kind::kChars || !lexemes_.opened[meant]) return lexeme(at);
    if (node.kind == Kind::kRule) return named('r', node.rule, rules_);
    return combined(node, [this](uint32_t part) { return structure(part); });
  }

  // No token is in two of the sets that are written here: the engine goes on with the first one that it finds.
  std::string token(const GbnfNode& node) {
    const auto one = [this](size_t index) {
      return "<[" + std::to_string(*grammar_.tokens[index].id) + "]>";
    };
    if (!node.negated) return one(node.token);
    std::string text = name('n', node.token);
    if (!defined_.emplace(text, true).second) return text;
    std::string named, body;
    for (size_t i = 0; i < grammar_.tokens.size(); ++i) {
      if (grammar_.tokens[i].is_end) continue;
      if (!named.empty()) named += ',';
      named += std::to_string(*grammar_.tokens[i].id);
      if (i != node.token) body += " | " + one(i);
    }
    define('n', node.token, (named.empty() ? "<[*]>" : "<[^" + named + "]>") + body);
    other_tokens_ = true;
    return text;
  }

  // A terminal of its own; equal ones are one.
  std::string lexeme(uint32_t at) {
    if (grammar_.nodes[at].kind == Kind::kRule) return named('T', grammar_.nodes[at].rule, terminals_);
    const auto [entry, is_new] = lexeme_names_.try_emplace(regular(at, Place::kAlone), lexeme_names_.size());
    if (is_new) define('L', entry->second, entry->first);
    return name('L', entry->second);
  }

  // A regular expression in Lark's way of writing.
  std::string regular(uint32_t at, Place place) {
    const GbnfNode& node = grammar_.nodes[at];
    if (is_plain(node)) return json_string(std::string(1, static_cast<char>(node.chars[0].first)));
    if (node.kind == Kind::kChars) return class_of(node.chars);
    if (node.kind == Kind::kRule) return named('T', node.rule, terminals_);
    if (node.kind == Kind::kSequence && !node.parts.empty() &&
        std::all_of(node.parts.begin(), node.parts.end(),
                    [this](uint32_t part) { return is_plain(grammar_.nodes[part]); })) {
      std::string text;
      text.reserve(node.parts.size());
      for (const uint32_t part : node.parts) text += static_cast<char>(grammar_.nodes[part].chars[0].first);
      return json_string(text);
    }
    std::string out = combined(node, [this](uint32_t part) { return regular(part, Place::kInside); });
    const bool brackets = out.starts_with('(') && node.kind != Kind::kRepeat;
    return brackets && place == Place::kAlone ? out.substr(1, out.size() - 2) : out;
  }

  // The node with its parts as `write` writes them; brackets around several.
  template <typename Write>
  std::string combined(const GbnfNode& node, const Write& write) {
    if (node.kind == Kind::kRepeat) {
      const std::string part = write(node.parts.front());
      const bool twice =
          part.ends_with('*') || part.ends_with('+') || part.ends_with('?') || part.ends_with('}');
      return (twice ? "(" + part + ")" : part) + bounds_of(node);
    }
    if (node.parts.empty()) return R"("")";
    std::string out = "(";
    for (const uint32_t part : node.parts) {
      if (out.size() > 1) out += node.kind == Kind::kChoice ? " | " : " ";
      out += write(part);
    }
    out += ')';
    return out;
  }

  const GbnfGrammar& grammar_;
  const GbnfLexemes lexemes_;
  std::string out_;
  std::map<std::string, bool> defined_;
  std::map<std::string, size_t> lexeme_names_;  // By what they are.
  std::vector<uint32_t> rules_, terminals_;     // To be defined.
  bool other_tokens_ = false;
};

// What the vocabulary says of the grammar's tokens, of which those that are the same become one.
Status find_tokens(std::string_view text, const GbnfVocabulary& vocabulary, GbnfGrammar& grammar) {
  std::vector<GbnfToken> found;
  std::vector<uint32_t> becomes;
  becomes.reserve(grammar.tokens.size());
  for (GbnfToken& token : grammar.tokens) {
    const auto fact = token.id ? vocabulary.by_id(*token.id) : vocabulary.by_text(token.text);
    if (!fact) return tl::unexpected<Error>(gbnf_error(text, token.at, fact.error().message));
    const auto same = std::find_if(found.begin(), found.end(),
                                   [&fact](const GbnfToken& other) { return other.id == fact->id; });
    becomes.push_back(static_cast<uint32_t>(same - found.begin()));
    if (same != found.end()) continue;
    token.id = fact->id;
    token.is_text = fact->is_text;
    token.is_end = fact->is_end;
    found.push_back(std::move(token));
  }
  grammar.tokens = std::move(found);
  for (GbnfNode& node : grammar.nodes) {
    if (node.kind != Kind::kToken) continue;
    node.token = becomes[node.token];
    const GbnfToken& token = grammar.tokens[node.token];
    if (token.is_end && !node.negated)
      return tl::unexpected<Error>(gbnf_error(
          text, token.at,
          token.text + " ends the answer: it comes where the grammar ends, and cannot stand in a rule"));
  }
  return {};
}

}  // namespace

bool is_gbnf(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && (is_blank(text[at]) || text[at] == '#'))
    at = text[at] == '#' ? std::min(text.find('\n', at), text.size()) : at + 1;
  const size_t begin = at;
  while (at < text.size() && (text[at] == '-' || text[at] == '_' || (text[at] >= '0' && text[at] <= '9') ||
                              (text[at] >= 'a' && text[at] <= 'z') || (text[at] >= 'A' && text[at] <= 'Z')))
    ++at;
  if (at == begin) return false;
  while (at < text.size() && (text[at] == ' ' || text[at] == '\t')) ++at;
  return text.substr(at).starts_with("::=");
}

Result<GbnfLark> gbnf_to_lark(std::string_view text, const GbnfVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(GbnfGrammar grammar, parse_gbnf(text));
  RETURN_IF_ERROR(find_tokens(text, vocabulary, grammar));
  LarkWriter writer(grammar);
  if (const auto unclear = writer.unclear()) {
    const GbnfNode& node = grammar.nodes[*unclear];
    const GbnfToken& token = grammar.tokens[node.token];
    return tl::unexpected<Error>(gbnf_error(text, token.at,
                                            (node.negated ? "!" : "") + token.text +
                                                " can be a token of text, and other text can stand in its "
                                                "place: they cannot be told apart here"));
  }
  return writer.write();
}

}  // namespace mlxf::text
