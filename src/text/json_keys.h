// JsonKeys: follows the JSON texts in an answer that a grammar holds, and tells which tokens would write a key into an
// object that has it already. No grammar can: what was written before decides.
//
// It trusts the grammar that what it follows is JSON, and keeps the keys of the objects that are open. Tokens with a
// quotation mark are looked at while a key is written that begins as one that is there does, else those with two: of
// Qwen3's 151,643 tokens 512 and one. A value type, one thread; JsonTokens is immutable and any thread's.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace mlxf::text {

// Of a vocabulary, what can end a key: the tokens with quotation marks.
class JsonTokens {
 public:
  explicit JsonTokens(const Tokenizer& tokenizer);
  [[nodiscard]] std::string_view bytes(TokenId token) const { return tokenizer_.token_bytes(token); }
  // With at least so many marks.
  [[nodiscard]] const std::vector<TokenId>& with_one() const { return one_; }
  [[nodiscard]] const std::vector<TokenId>& with_two() const { return two_; }

 private:
  Tokenizer tokenizer_;
  std::vector<TokenId> one_, two_;
};

class JsonKeys {
 public:
  // The whole text is a value, or objects stand in a text, each from its { on.
  enum class Where : uint8_t { kWhole, kObjects };
  explicit JsonKeys(Where where) : where_(where) {}

  void push(std::string_view bytes);
  // Something that is no text: what follows is a text of its own.
  void restart();
  // Takes from `words`, 32 tokens to one, those that would repeat a key. True where some were there.
  [[nodiscard]] bool take_out_repeats(const JsonTokens& tokens, std::vector<uint32_t>& words) const;
  // The same for one text.
  [[nodiscard]] bool repeats(std::string_view bytes) const;

 private:
  struct Place {
    bool in_string = false, escaped = false, is_key = false;
    bool key_next = false;  // In the innermost object.
    std::string key;        // As it is written so far.
  };
  struct Level {
    bool object = false;
    std::set<std::string> keys;
  };
  // Moves on by a byte. True where it ended a key, which is then in `place`.
  [[nodiscard]] bool step(char byte, Place& place, size_t depth) const;
  [[nodiscard]] bool may_repeat_now() const;

  Where where_;
  Place place_;
  std::vector<Level> levels_;
};

}  // namespace mlxf::text
