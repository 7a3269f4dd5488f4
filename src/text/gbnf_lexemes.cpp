#include "text/gbnf_lexemes.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace mlxf::text {
namespace {

using Kind = GbnfNode::Kind;

// Larger parts are opened without a look. Most lexemes have a few dozen characters; all the work below is linear in it.
constexpr uint32_t kLexemeCharsMax = 1000;
constexpr uint32_t kLexemeHeightMax = 300;  // Nodes within nodes: what recursion goes through.
// Steps of looking for conflicts, some hundredths of a second. A grammar for which they do not suffice is read
// character by character.
constexpr uint64_t kStepsMax = 120'000;

// Bits that grow as they are needed.
class Bits {
 public:
  bool operator<(const Bits& other) const { return words_ < other.words_; }
  [[nodiscard]] bool empty() const { return words_.empty(); }
  [[nodiscard]] size_t words() const { return words_.size(); }
  [[nodiscard]] bool test(size_t bit) const {
    return bit / 64 < words_.size() && (words_[bit / 64] >> (bit % 64) & 1) != 0;
  }
  void set(size_t bit) {
    if (bit / 64 >= words_.size()) words_.resize(bit / 64 + 1);
    words_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  // True if that changes it.
  bool add(const Bits& other) {
    if (words_.size() < other.words_.size()) words_.resize(other.words_.size());
    bool changed = false;
    for (size_t i = 0; i < other.words_.size(); ++i) {
      changed = changed || (other.words_[i] & ~words_[i]) != 0;
      words_[i] |= other.words_[i];
    }
    return changed;
  }
  template <typename Visit>
  void each(const Visit& visit) const {
    for (size_t i = 0; i < words_.size(); ++i)
      for (uint64_t word = words_[i]; word != 0; word &= word - 1)
        visit(i * 64 + static_cast<size_t>(__builtin_ctzll(word)));
  }

 private:
  std::vector<uint64_t> words_;  // The last one is not 0.
};

// What is known of nodes by themselves.
struct Sizes {
  std::vector<bool> regular;  // No rule in it leads back to itself.
  std::vector<uint32_t> chars, height;
};

constexpr uint32_t capped(uint64_t value) {
  return static_cast<uint32_t>(std::min<uint64_t>(value, kLexemeCharsMax + 1));
}

// From the rules that name no others to those that name them.
Sizes measure(const GbnfGrammar& grammar) {
  const size_t count = grammar.nodes.size();
  Sizes sizes{std::vector<bool>(count, false), std::vector<uint32_t>(count), std::vector<uint32_t>(count)};
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < count; ++i) {
      const GbnfNode& node = grammar.nodes[i];
      if (sizes.regular[i] || node.kind == Kind::kToken) continue;
      bool regular = true;
      uint64_t chars = node.kind == Kind::kChars ? 1 : 0, height = 0;
      const auto look = [&](uint32_t part) {
        regular = regular && sizes.regular[part];
        chars += sizes.chars[part];
        height = std::max<uint64_t>(height, sizes.height[part]);
      };
      if (node.kind == Kind::kRule) look(grammar.rules[node.rule].body);
      for (const uint32_t part : node.parts) look(part);
      if (!regular) continue;
      sizes.regular[i] = changed = true;
      sizes.chars[i] = capped(chars);
      sizes.height[i] = capped(height + 1);
    }
  }
  return sizes;
}

// Looks for conflicts between the lexemes of one choice of them.
class ConflictSearch {
 public:
  ConflictSearch(const GbnfGrammar& grammar, const std::vector<bool>& nullable,
                 const std::vector<bool>& opened, uint64_t& steps_left)
      : grammar_(grammar), nullable_(nullable), opened_(opened), steps_left_(steps_left) {}

  // Lexemes that go on where another that may stand in their place ends, by node. `steps_left` is 0 where it gave up.
  std::set<uint32_t> find() {
    find_structure();
    find_firsts();
    find_follows();
    number_chars();
    for (uint32_t leaf = 0; leaf < leaves_.size(); ++leaf) add_automaton(leaf);
    find_follow_chars();
    see_place(firsts_[grammar_.rules[grammar_.root].body]);
    while (!places_.empty() && steps_left_ != 0) {
      const Bits place = std::move(places_.back());
      places_.pop_back();
      explore(place);
    }
    return std::move(found_);
  }
  [[nodiscard]] std::optional<uint32_t> unclear() const { return unclear_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  // Of a lexeme's automaton; a step on a range of chars_ or up to two that take nothing.
  struct State {
    uint32_t leaf;
    uint32_t node = kNone;  // Its characters lead to to[0].
    uint32_t to[2] = {kNone, kNone};
    bool ends = false;
  };
  using States = std::vector<uint32_t>;

  // False once there are none left.
  bool spend(uint64_t steps) {
    steps_left_ -= std::min(steps, steps_left_);
    return steps_left_ != 0;
  }

  [[nodiscard]] bool is_leaf(uint32_t node) const {
    return grammar_.nodes[node].kind == Kind::kChars || !opened_[resolved(grammar_, node)];
  }

  // Of a lexeme: its node, where that is a token.
  [[nodiscard]] const GbnfNode* token_of(size_t leaf) const {
    const GbnfNode& node = grammar_.nodes[resolved(grammar_, leaves_[leaf])];
    return node.kind == Kind::kToken ? &node : nullptr;
  }

  // What is opened from the root on, those that hold others first, and the lexemes in it.
  void find_structure() {
    leaf_of_.assign(grammar_.nodes.size(), kNone);
    firsts_.resize(grammar_.nodes.size());
    follows_.resize(grammar_.nodes.size());
    std::vector<bool> seen(grammar_.nodes.size(), false);
    std::vector<uint32_t> open = {grammar_.rules[grammar_.root].body};
    spend(grammar_.nodes.size());
    seen[open.front()] = true;
    while (!open.empty()) {
      const uint32_t at = open.back();
      open.pop_back();
      const GbnfNode& node = grammar_.nodes[at];
      structure_.push_back(at);
      if (is_leaf(at)) {
        leaf_of_[at] = static_cast<uint32_t>(leaves_.size());
        leaves_.push_back(at);
        firsts_[at].set(leaf_of_[at]);
        continue;
      }
      const auto visit = [&](uint32_t part) {
        if (seen[part]) return;
        seen[part] = true;
        open.push_back(part);
      };
      if (node.kind == Kind::kRule) visit(grammar_.rules[node.rule].body);
      for (const uint32_t part : node.parts) visit(part);
    }
    std::sort(structure_.begin(), structure_.end());
  }

  // Lexemes that a node can begin with.
  void find_firsts() {
    for (bool changed = true; changed;) {
      changed = false;
      for (const uint32_t at : structure_) {
        if (leaf_of_[at] != kNone) continue;
        const GbnfNode& node = grammar_.nodes[at];
        const auto take = [&](uint32_t part) {
          changed = firsts_[at].add(firsts_[part]) || changed;
          if (!spend(1 + firsts_[part].words())) changed = false;
        };
        if (node.kind == Kind::kRule) take(grammar_.rules[node.rule].body);
        for (const uint32_t part : node.parts) {
          take(part);
          if (node.kind == Kind::kSequence && !nullable_[part]) break;
        }
      }
    }
  }

  // Lexemes that can follow a node.
  void find_follows() {
    for (bool changed = true; changed;) {
      changed = false;
      const auto follow = [&](uint32_t part, const Bits& next) {
        changed = follows_[part].add(next) || changed;
        if (!spend(1 + next.words())) changed = false;
      };
      for (auto at = structure_.rbegin(); at != structure_.rend(); ++at) {
        if (leaf_of_[*at] != kNone) continue;
        const GbnfNode& node = grammar_.nodes[*at];
        Bits next = follows_[*at];
        if (node.kind == Kind::kRule) follow(grammar_.rules[node.rule].body, next);
        if (node.kind == Kind::kRepeat && node.most > 1) next.add(firsts_[node.parts.front()]);
        for (auto part = node.parts.rbegin(); part != node.parts.rend(); ++part) {
          follow(*part, next);
          if (node.kind != Kind::kSequence) continue;
          if (!nullable_[*part]) next = Bits();
          next.add(firsts_[*part]);
        }
      }
    }
  }

  // Characters between which no class tells are one.
  void number_chars() {
    std::set<uint32_t> begins;
    for (const GbnfNode& node : grammar_.nodes)
      for (const CharRange& range : node.chars) {
        begins.insert(range.first);
        begins.insert(range.last + 1);
      }
    chars_.assign(begins.begin(), begins.end());
  }

  template <typename Visit>
  void each_char(uint32_t node, const Visit& visit) const {
    for (const CharRange& range : grammar_.nodes[node].chars) {
      const auto number = [this](uint32_t c) {
        return static_cast<size_t>(std::lower_bound(chars_.begin(), chars_.end(), c) - chars_.begin());
      };
      for (size_t i = number(range.first), end = number(range.last + 1); i < end; ++i) visit(i);
    }
  }

  uint32_t add_state(State state) {
    states_.push_back(state);
    return static_cast<uint32_t>(states_.size() - 1);
  }

  void add_automaton(uint32_t leaf) {
    State end{leaf};
    end.ends = true;
    starts_.push_back(add_path(leaves_[leaf], leaf, add_state(end)));
  }

  // States that lead through `node` to `to`; where they begin. How often something is repeated does not count: that
  // can only lead further than it does.
  uint32_t add_path(uint32_t at, uint32_t leaf, uint32_t to) {
    if (!spend(1)) return to;
    const GbnfNode& node = grammar_.nodes[at];
    switch (node.kind) {
      case Kind::kToken:  // On no character.
      case Kind::kChars: {
        State state{leaf};
        state.node = at;
        state.to[0] = to;
        return add_state(state);
      }
      case Kind::kRule:
        return add_path(grammar_.rules[node.rule].body, leaf, to);
      case Kind::kSequence:
        for (auto part = node.parts.rbegin(); part != node.parts.rend(); ++part)
          to = add_path(*part, leaf, to);
        return to;
      case Kind::kChoice: {
        uint32_t begin = add_path(node.parts.front(), leaf, to);
        for (size_t i = 1; i < node.parts.size(); ++i) {
          State state{leaf};
          state.to[0] = begin;
          state.to[1] = add_path(node.parts[i], leaf, to);
          begin = add_state(state);
        }
        return begin;
      }
      case Kind::kRepeat: {
        State again{leaf};
        again.to[0] = to;
        const uint32_t behind = add_state(again);
        const uint32_t begin = add_path(node.parts.front(), leaf, behind);
        if (node.most > 1) states_[behind].to[1] = begin;
        if (node.least > 0) return begin;
        State skip{leaf};
        skip.to[0] = begin;
        skip.to[1] = to;
        return add_state(skip);
      }
    }
    return to;
  }

  // All that can be reached without a character, in ascending order.
  void close(States& states) {
    std::vector<uint32_t> open = states;
    const auto visit = [&](uint32_t state) {
      if (state == kNone || !closed_.insert(state).second) return;
      open.push_back(state);
    };
    closed_.clear();
    closed_.insert(states.begin(), states.end());
    while (!open.empty()) {
      const State& state = states_[open.back()];
      open.pop_back();
      if (state.node != kNone) continue;
      visit(state.to[0]);
      visit(state.to[1]);
    }
    states.assign(closed_.begin(), closed_.end());
    spend(states.size());
  }

  void find_follow_chars() {
    std::vector<Bits> begins(leaves_.size());
    for (size_t leaf = 0; leaf < leaves_.size() && steps_left_ != 0; ++leaf) {
      States states = {starts_[leaf]};
      close(states);
      for (const uint32_t state : states)
        if (states_[state].node != kNone)
          each_char(states_[state].node, [&](size_t c) {
            begins[leaf].set(c);
            spend(1);
          });
    }
    follow_chars_.resize(leaves_.size());
    for (size_t leaf = 0; leaf < leaves_.size() && steps_left_ != 0; ++leaf)
      follows_[leaves_[leaf]].each([&](size_t next) {
        follow_chars_[leaf].add(begins[next]);
        spend(1 + begins[next].words());
      });
  }

  void see_place(const Bits& place) {
    if (!place.empty() && seen_places_.insert(place).second) places_.push_back(place);
  }

  // What may stand behind each token of a place. Those that the grammar does not name are one.
  void take_tokens(const Bits& place) {
    std::map<uint32_t, Bits> next;
    const auto others = static_cast<uint32_t>(grammar_.tokens.size());
    place.each([&](size_t leaf) {
      const GbnfNode* token = token_of(leaf);
      if (token == nullptr) return;
      const Bits& follow = follows_[leaves_[leaf]];
      for (uint32_t i = 0; i <= others; ++i)
        if ((i == token->token) != token->negated) next[i].add(follow);
      spend(1 + (others + 1) * (1 + follow.words()));
    });
    for (const auto& [token, follow] : next) see_place(follow);
  }

  // A token that is text may stand at `place`, and characters too.
  void look_for_unclear(const Bits& place, bool has_chars) {
    std::optional<uint32_t> text;
    place.each([&](size_t leaf) {
      const GbnfNode* token = token_of(leaf);
      has_chars = has_chars || token == nullptr;
      if (token != nullptr && (token->negated || grammar_.tokens[token->token].is_text))
        text = resolved(grammar_, leaves_[leaf]);
      spend(1);
    });
    if (text && has_chars) unclear_ = text;
  }

  // All texts of all lexemes of a place, as far as they differ.
  void explore(const Bits& place) {
    take_tokens(place);
    look_for_unclear(place, false);
    States begin;
    place.each([&](size_t leaf) { begin.push_back(starts_[leaf]); });
    close(begin);
    std::set<States> seen;
    std::vector<States> open;
    step(begin, Bits(), seen, open);  // Nothing has ended yet: empty lexemes are the parser's.
    while (!open.empty() && steps_left_ != 0) {
      const States states = std::move(open.back());
      open.pop_back();
      Bits follow, next_place;
      bool goes_on = false;
      for (const uint32_t state : states) {
        goes_on = goes_on || states_[state].node != kNone;
        if (!states_[state].ends) continue;
        const uint32_t leaf = states_[state].leaf;
        follow.add(follow_chars_[leaf]);
        next_place.add(follows_[leaves_[leaf]]);
        spend(1 + follow.words() + next_place.words());
      }
      see_place(next_place);
      if (goes_on) look_for_unclear(next_place, true);
      step(states, follow, seen, open);
    }
  }

  // `follow`: characters that can come behind what ends here.
  void step(const States& states, const Bits& follow, std::set<States>& seen, std::vector<States>& open) {
    std::map<size_t, States> next;
    for (const uint32_t state : states) {
      if (states_[state].node == kNone) continue;
      each_char(states_[state].node, [&](size_t c) {
        if (!spend(1)) return;
        next[c].push_back(states_[state].to[0]);
        if (follow.test(c)) found_.insert(leaves_[states_[state].leaf]);
      });
    }
    for (auto& [c, to] : next) {
      if (steps_left_ == 0) return;
      close(to);
      if (seen.insert(to).second) open.push_back(to);
    }
  }

  const GbnfGrammar& grammar_;
  const std::vector<bool>& nullable_;
  const std::vector<bool>& opened_;
  uint64_t& steps_left_;
  std::vector<uint32_t> structure_;         // Nodes, ascending: parts come before what holds them.
  std::vector<uint32_t> leaves_, leaf_of_;  // Lexemes: their nodes, and the reverse.
  std::vector<Bits> firsts_, follows_;      // By node, of lexemes.
  std::vector<uint32_t> chars_;             // Where each begins.
  std::vector<Bits> follow_chars_;          // By lexeme.
  std::vector<State> states_;
  std::vector<uint32_t> starts_;  // By lexeme.
  std::set<uint32_t> closed_;     // Scratch.
  std::set<Bits> seen_places_;
  std::vector<Bits> places_;  // To be explored.
  std::set<uint32_t> found_;
  std::optional<uint32_t> unclear_;
};

void open(const GbnfGrammar& grammar, uint32_t node, std::vector<bool>& opened) {
  const uint32_t at = resolved(grammar, node);
  if (const Kind kind = grammar.nodes[at].kind; kind != Kind::kChars && kind != Kind::kToken)
    opened[at] = true;
}

}  // namespace

uint32_t resolved(const GbnfGrammar& grammar, uint32_t node) {
  while (grammar.nodes[node].kind == Kind::kRule) node = grammar.rules[grammar.nodes[node].rule].body;
  return node;
}

GbnfLexemes choose_lexemes(const GbnfGrammar& grammar) {
  const Sizes sizes = measure(grammar);
  const std::vector<bool> nullable = nullable_nodes(grammar);
  const uint32_t root = grammar.rules[grammar.root].body;
  GbnfLexemes lexemes;
  lexemes.opened.resize(grammar.nodes.size());
  for (uint32_t i = 0; i < grammar.nodes.size(); ++i)
    if (!sizes.regular[i] || sizes.chars[i] == 0 || sizes.chars[i] > kLexemeCharsMax ||
        sizes.height[i] > kLexemeHeightMax)
      open(grammar, i, lexemes.opened);
  open(grammar, root, lexemes.opened);
  uint64_t steps_left = kStepsMax;
  while (true) {
    ConflictSearch search(grammar, nullable, lexemes.opened, steps_left);
    const std::set<uint32_t> found = search.find();
    if (steps_left == 0) break;
    lexemes.unclear = search.unclear();
    if (found.empty()) return lexemes;
    lexemes.whole = sizes.regular[root];
    if (lexemes.whole) return lexemes;
    for (const uint32_t node : found) open(grammar, node, lexemes.opened);
  }
  lexemes.whole = sizes.regular[root];
  for (uint32_t i = 0; i < grammar.nodes.size(); ++i) {
    open(grammar, i, lexemes.opened);
    const GbnfNode& node = grammar.nodes[i];
    if (node.kind == Kind::kToken && (node.negated || grammar.tokens[node.token].is_text))
      lexemes.unclear = i;
  }
  return lexemes;
}

}  // namespace mlxf::text
