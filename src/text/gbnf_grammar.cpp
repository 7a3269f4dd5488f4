#include "text/gbnf_grammar.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "text/utf8.h"

namespace mlxf::text {
namespace {

using Kind = GbnfNode::Kind;

constexpr size_t kBytesMax = size_t{256} << 10;
constexpr size_t kRulesMax = 1000;
constexpr size_t kNodesMax = 20'000;
constexpr uint32_t kDepthMax = 64;
constexpr uint32_t kRepeatsMax = 2000;  // As llama.cpp has it.
constexpr uint32_t kLastChar = 0x10FFFF;
constexpr size_t kTokensMax = 64;  // Each negation is a choice of all others.

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::optional<uint32_t> hex_digit(char c) {
  if (is_digit(c)) return static_cast<uint32_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint32_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<uint32_t>(c - 'A' + 10);
  return std::nullopt;
}

bool is_surrogate(uint32_t c) { return c >= 0xD800 && c <= 0xDFFF; }

// Sorted, joined where they touch, and without surrogates, which no text holds.
std::vector<CharRange> tidied(std::vector<CharRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CharRange& a, const CharRange& b) { return a.first < b.first; });
  std::vector<CharRange> out;
  out.reserve(ranges.size() + 1);
  const auto add = [&out](CharRange range) {
    if (range.first > range.last) return;
    if (!out.empty() && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
    } else {
      out.push_back(range);
    }
  };
  for (const CharRange& range : ranges) {
    add({range.first, std::min(range.last, uint32_t{0xD7FF})});
    add({std::max(range.first, uint32_t{0xE000}), range.last});
  }
  return out;
}

std::vector<CharRange> all_but(const std::vector<CharRange>& ranges) {
  std::vector<CharRange> out;
  out.reserve(ranges.size() + 1);
  uint32_t next = 0;
  for (const CharRange& range : ranges) {
    if (range.first > next) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastChar) out.push_back({next, kLastChar});
  return tidied(std::move(out));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<GbnfGrammar> parse() {
    if (text_.size() > kBytesMax)
      return fail(ErrorCode::kInvalidArgument, "it has " + std::to_string(text_.size()) + " bytes; at most " +
                                                   std::to_string(kBytesMax) + " are read");
    if (!is_utf8(text_)) return fail(ErrorCode::kInvalidArgument, "it is not UTF-8");
    skip_blanks(Lines::kToo);
    while (at_ < text_.size()) {
      RETURN_IF_ERROR(rule());
      skip_blanks(Lines::kToo);
    }
    for (const auto& [name, index] : names_)
      if (!defined_[index]) return refuse(used_at_[index], "rule " + quoted(name) + " is not defined");
    const auto root = names_.find("root");
    if (root == names_.end()) return refuse(text_.size(), "there is no rule \"root\"");
    grammar_.root = root->second;
    RETURN_IF_ERROR(refuse_left_recursion());
    return std::move(grammar_);
  }

 private:
  enum class Lines : uint8_t { kNot, kToo };

  static std::string quoted(std::string_view text) { return '"' + std::string(text) + '"'; }

  [[nodiscard]] tl::unexpected<Error> refuse(size_t at, const std::string& what) const {
    return tl::unexpected<Error>(gbnf_error(text_, at, what));
  }

  [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }
  [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[at_]; }
  [[nodiscard]] bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  // And comments, which end before the end of their line.
  void skip_blanks(Lines lines) {
    while (!at_end()) {
      const char c = text_[at_];
      if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (c == ' ' || c == '\t' || (lines == Lines::kToo && (c == '\r' || c == '\n'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string_view name() {
    const size_t begin = at_;
    while (!at_end() && is_name_char(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  Result<uint32_t> rule_index(std::string_view name, size_t at) {
    const auto [entry, is_new] = names_.try_emplace(std::string(name), grammar_.rules.size());
    if (is_new) {
      if (grammar_.rules.size() == kRulesMax)
        return refuse(at, "there are more than " + std::to_string(kRulesMax) + " rules");
      grammar_.rules.push_back({std::string(name), 0});
      defined_.push_back(false);
      used_at_.push_back(at);
    }
    return entry->second;
  }

  Result<uint32_t> add(GbnfNode node) {
    if (grammar_.nodes.size() == kNodesMax) return refuse(at_, "the grammar is too large");
    grammar_.nodes.push_back(std::move(node));
    return static_cast<uint32_t>(grammar_.nodes.size() - 1);
  }

  Result<uint32_t> add_of(Kind kind, std::vector<uint32_t> parts) {
    if (parts.size() == 1) return parts.front();
    GbnfNode node;
    node.kind = kind;
    node.parts = std::move(parts);
    return add(std::move(node));
  }

  Result<uint32_t> add_chars(std::vector<CharRange> chars) {
    GbnfNode node;
    node.kind = Kind::kChars;
    node.chars = std::move(chars);
    return add(std::move(node));
  }

  Status rule() {
    const size_t begin = at_;
    const std::string_view named = name();
    if (named.empty()) return refuse(at_, "the name of a rule must stand here");
    skip_blanks(Lines::kNot);
    if (!text_.substr(at_).starts_with("::=")) return refuse(at_, "::= must follow the name of a rule");
    at_ += 3;
    ASSIGN_OR_RETURN(const uint32_t index, rule_index(named, begin));
    if (defined_[index]) return refuse(begin, "rule " + quoted(named) + " is defined twice");
    defined_[index] = true;
    rule_ = named;
    skip_blanks(Lines::kToo);
    ASSIGN_OR_RETURN(grammar_.rules[index].body, choice(0));
    if (at_end() || peek() == '\n' || peek() == '\r') return {};
    if (peek() == ')') return refuse(at_, "no ( was open here");
    return refuse(at_, "this cannot stand in a rule");
  }

  // The depth is that of groups: lines may end within one.
  Result<uint32_t> choice(uint32_t depth) {
    std::vector<uint32_t> parts;
    while (true) {
      ASSIGN_OR_RETURN(const uint32_t part, sequence(depth));
      parts.push_back(part);
      const size_t end = at_;
      skip_blanks(Lines::kToo);  // The next line may go on with |.
      const size_t bar = at_;
      if (!take('|')) {
        if (depth == 0) at_ = end;
        return add_of(Kind::kChoice, std::move(parts));
      }
      skip_blanks(Lines::kToo);
      // What stands on the next line is an alternative, also where that is the name of a rule to be defined.
      if (depth == 0 && text_.substr(bar, at_ - bar).find('\n') != std::string_view::npos && defines_rule())
        return refuse(
            bar, "rule " + quoted(rule_) +
                     " ends in |, which goes on with the next line: write | \"\" where nothing is to fit");
    }
  }

  // What stands here is `name ::=`.
  [[nodiscard]] bool defines_rule() const {
    size_t at = at_;
    while (at < text_.size() && is_name_char(text_[at])) ++at;
    if (at == at_) return false;
    while (at < text_.size() && (text_[at] == ' ' || text_[at] == '\t')) ++at;
    return text_.substr(at).starts_with("::=");
  }

  Result<uint32_t> sequence(uint32_t depth) {
    std::vector<uint32_t> parts;
    while (true) {
      const size_t begin = at_;
      ASSIGN_OR_RETURN(std::optional<uint32_t> item, this->item(depth));
      if (!item) {
        if (const char c = peek(); c == '*' || c == '+' || c == '?' || c == '{')
          return refuse(begin, std::string(1, c) + " must follow what it repeats");
        return add_of(Kind::kSequence, std::move(parts));
      }
      while (true) {
        skip_blanks(depth == 0 ? Lines::kNot : Lines::kToo);
        ASSIGN_OR_RETURN(const bool repeats, repetition(*item));
        if (!repeats) break;
      }
      parts.push_back(*item);
    }
  }

  Result<std::optional<uint32_t>> item(uint32_t depth) {
    const size_t begin = at_;
    const char c = peek();
    if (is_name_char(c)) {
      GbnfNode node;
      node.kind = Kind::kRule;
      ASSIGN_OR_RETURN(node.rule, rule_index(name(), begin));
      ASSIGN_OR_RETURN(const uint32_t made, add(std::move(node)));
      return made;
    }
    if (c == '"') return literal();
    if (c == '[') return char_class();
    if (take('.')) {
      ASSIGN_OR_RETURN(const uint32_t made, add_chars(all_but({})));
      return made;
    }
    if (take('(')) {
      if (depth == kDepthMax)
        return refuse(begin, "groups stand in more than " + std::to_string(kDepthMax) + " levels");
      skip_blanks(Lines::kToo);
      ASSIGN_OR_RETURN(const uint32_t made, choice(depth + 1));
      if (!take(')'))
        return refuse(at_end() ? begin : at_, at_end() ? "this ( is not closed" : "a ) must stand here");
      return made;
    }
    if (c == '<' || c == '!') return token();
    return std::nullopt;
  }

  // <text>, <[id]>, or either behind a !.
  Result<std::optional<uint32_t>> token() {
    GbnfNode node;
    node.kind = Kind::kToken;
    node.negated = take('!');
    const size_t begin = at_;
    if (!take('<')) return refuse(begin, "a token (<...>) must follow !");
    GbnfToken token;
    token.at = begin;
    if (take('[')) {
      ASSIGN_OR_RETURN(token.id, token_id());
      if (!take(']') || !take('>')) return refuse(at_, "]> must follow the number of a token");
    } else {
      at_ = std::min(text_.find_first_of(">\r\n", at_), text_.size());
      if (!take('>')) return refuse(begin, "this < is not closed");
    }
    token.text = text_.substr(begin, at_ - begin);
    auto& tokens = grammar_.tokens;
    const auto known = std::find_if(tokens.begin(), tokens.end(),
                                    [&token](const GbnfToken& other) { return other.text == token.text; });
    node.token = static_cast<uint32_t>(known - tokens.begin());
    if (known == tokens.end()) {
      if (tokens.size() == kTokensMax)
        return refuse(begin, "there are more than " + std::to_string(kTokensMax) + " different tokens");
      tokens.push_back(std::move(token));
    }
    ASSIGN_OR_RETURN(const uint32_t made, add(std::move(node)));
    return made;
  }

  Result<TokenId> token_id() {
    const size_t begin = at_;
    int64_t value = 0;
    while (is_digit(peek())) {
      value = value * 10 + (text_[at_++] - '0');
      if (value > INT32_MAX) return refuse(begin, "no vocabulary has a token of this number");
    }
    if (at_ == begin) return refuse(at_, "the number of a token must stand here");
    return static_cast<TokenId>(value);
  }

  Result<std::optional<uint32_t>> literal() {
    const size_t begin = at_++;
    std::vector<uint32_t> parts;
    while (!take('"')) {
      if (at_end()) return refuse(begin, "this text is not closed");
      ASSIGN_OR_RETURN(const uint32_t c, character());
      ASSIGN_OR_RETURN(const uint32_t part, add_chars({{c, c}}));
      parts.push_back(part);
    }
    ASSIGN_OR_RETURN(const uint32_t made, add_of(Kind::kSequence, std::move(parts)));
    return made;
  }

  Result<std::optional<uint32_t>> char_class() {
    const size_t begin = at_++;
    const bool negated = take('^');
    std::vector<CharRange> ranges;
    while (!take(']')) {
      if (at_end()) return refuse(begin, "this [ is not closed");
      const size_t range_begin = at_;
      ASSIGN_OR_RETURN(const uint32_t first, character());
      uint32_t last = first;
      if (peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        ASSIGN_OR_RETURN(last, character());
      }
      if (last < first) return refuse(range_begin, "a range must not end before it begins");
      ranges.push_back({first, last});
    }
    if (ranges.empty()) return refuse(begin, "a class of characters must not be empty");
    std::vector<CharRange> chars = tidied(std::move(ranges));
    if (negated) chars = all_but(chars);
    if (chars.empty()) return refuse(begin, "no character is in this class");
    ASSIGN_OR_RETURN(const uint32_t made, add_chars(std::move(chars)));
    return made;
  }

  // One character of a text or class. REQUIRES: !at_end(); the text is UTF-8.
  Result<uint32_t> character() {
    const auto lead = static_cast<uint8_t>(text_[at_]);
    if (lead == '\\') return escape();
    ++at_;
    if (lead < 0x80) return lead;
    uint32_t c = lead & (lead < 0xE0 ? 0x1Fu : lead < 0xF0 ? 0x0Fu : 0x07u);
    while (!at_end() && (static_cast<uint8_t>(text_[at_]) & 0xC0) == 0x80)
      c = c << 6 | (static_cast<uint8_t>(text_[at_++]) & 0x3Fu);
    return c;
  }

  Result<uint32_t> escape() {
    const size_t begin = at_++;
    const char c = peek();
    ++at_;
    switch (c) {
      case 'x':
        return hex(begin, 2);
      case 'u':
        return hex(begin, 4);
      case 'U':
        return hex(begin, 8);
      case 't':
        return uint32_t{'\t'};
      case 'r':
        return uint32_t{'\r'};
      case 'n':
        return uint32_t{'\n'};
      case '\\':
      case '"':
      case '[':
      case ']':
        return static_cast<uint32_t>(c);
      default:
        return refuse(begin, R"(only \n, \r, \t, \\, \", \[, \], \x, \u and \U can stand behind \)");
    }
  }

  Result<uint32_t> hex(size_t begin, size_t digits) {
    uint32_t c = 0;
    for (size_t i = 0; i < digits; ++i) {
      const auto digit = hex_digit(peek());
      if (!digit || c > kLastChar)
        return refuse(begin,
                      "it must have " + std::to_string(digits) + " hexadecimal digits and be at most 10FFFF");
      c = c << 4 | *digit;
      ++at_;
    }
    if (c > kLastChar || is_surrogate(c)) return refuse(begin, "no character has this number");
    return c;
  }

  // True where `item` is now what is repeated.
  Result<bool> repetition(uint32_t& item) {
    GbnfNode node;
    node.kind = Kind::kRepeat;
    node.parts = {item};
    node.most = GbnfNode::kUnbounded;
    if (take('*')) {
    } else if (take('+')) {
      node.least = 1;
    } else if (take('?')) {
      node.most = 1;
    } else if (peek() == '{') {
      RETURN_IF_ERROR(bounds(node));
    } else {
      return false;
    }
    if (node.most == 0) node = GbnfNode();  // Nothing at all.
    ASSIGN_OR_RETURN(item, add(std::move(node)));
    return true;
  }

  Status bounds(GbnfNode& node) {
    const size_t begin = at_++;
    skip_blanks(Lines::kNot);
    ASSIGN_OR_RETURN(node.least, number());
    skip_blanks(Lines::kNot);
    node.most = node.least;
    if (take(',')) {
      skip_blanks(Lines::kNot);
      node.most = GbnfNode::kUnbounded;
      if (is_digit(peek())) {
        ASSIGN_OR_RETURN(node.most, number());
      }
      skip_blanks(Lines::kNot);
    }
    if (!take('}')) return refuse(at_, "a } must stand here");
    if (node.most < node.least) return refuse(begin, "at most must not be less than at least");
    return {};
  }

  Result<uint32_t> number() {
    const size_t begin = at_;
    uint32_t value = 0;
    while (is_digit(peek())) {
      value = value * 10 + static_cast<uint32_t>(text_[at_++] - '0');
      if (value > kRepeatsMax)
        return refuse(begin, "nothing can be repeated more than " + std::to_string(kRepeatsMax) + " times");
    }
    if (at_ == begin) return refuse(at_, "a number must stand here");
    return value;
  }

  // Looks for a way from a rule's body back to it that passes nothing but what can be empty.
  Status refuse_left_recursion() {
    const std::vector<bool> nullable = nullable_nodes(grammar_);
    enum class Colour : uint8_t { kNew, kOnPath, kDone };
    std::vector<Colour> colours(grammar_.nodes.size(), Colour::kNew);
    std::vector<std::pair<uint32_t, size_t>> path;  // Nodes, and which of their parts is next.
    for (const GbnfRule& rule : grammar_.rules) {
      if (colours[rule.body] != Colour::kNew) continue;
      path.emplace_back(rule.body, 0);
      colours[rule.body] = Colour::kOnPath;
      while (!path.empty()) {
        auto& [at, next] = path.back();
        const GbnfNode& node = grammar_.nodes[at];
        const bool calls = node.kind == Kind::kRule;
        const size_t count = calls ? 1 : node.parts.size();
        if (next == count || (node.kind == Kind::kSequence && next > 0 && !nullable[node.parts[next - 1]])) {
          colours[at] = Colour::kDone;
          path.pop_back();
          continue;
        }
        const uint32_t to = calls ? grammar_.rules[node.rule].body : node.parts[next];
        ++next;
        if (colours[to] == Colour::kOnPath) {
          const GbnfRule& named = grammar_.rules[node.rule];
          return refuse(used_at_[node.rule],
                        "rule " + quoted(named.name) + " begins with itself: write it with * or + instead");
        }
        if (colours[to] != Colour::kNew) continue;
        colours[to] = Colour::kOnPath;
        path.emplace_back(to, 0);
      }
    }
    return {};
  }

  const std::string_view text_;
  size_t at_ = 0;
  GbnfGrammar grammar_;
  std::map<std::string, uint32_t, std::less<>> names_;
  std::vector<bool> defined_;    // By rule.
  std::vector<size_t> used_at_;  // By rule: where its name first stands.
  std::string_view rule_;        // That is being read.
};

}  // namespace

std::vector<bool> nullable_nodes(const GbnfGrammar& grammar) {
  std::vector<bool> nullable(grammar.nodes.size(), false);
  const auto is_nullable = [&](const GbnfNode& node) {
    const auto part = [&](uint32_t index) { return bool{nullable[index]}; };
    switch (node.kind) {
      case Kind::kChars:
      case Kind::kToken:
        return false;
      case Kind::kRule:
        return part(grammar.rules[node.rule].body);
      case Kind::kSequence:
        return std::all_of(node.parts.begin(), node.parts.end(), part);
      case Kind::kChoice:
        return std::any_of(node.parts.begin(), node.parts.end(), part);
      case Kind::kRepeat:
        return node.least == 0 || part(node.parts.front());
    }
    return false;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < grammar.nodes.size(); ++i) {
      if (nullable[i] || !is_nullable(grammar.nodes[i])) continue;
      nullable[i] = changed = true;
    }
  }
  return nullable;
}

Error gbnf_error(std::string_view text, size_t at, const std::string& what) {
  const std::string_view before = text.substr(0, at);
  const size_t line = static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1;
  const std::string_view in_line = before.substr(before.rfind('\n') + 1);
  const auto column = std::count_if(in_line.begin(), in_line.end(),
                                    [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }) +
                      1;
  return Error{ErrorCode::kInvalidArgument,
               "line " + std::to_string(line) + ", column " + std::to_string(column) + ": " + what};
}

Result<GbnfGrammar> parse_gbnf(std::string_view text) { return Parser(text).parse(); }

}  // namespace mlxf::text
