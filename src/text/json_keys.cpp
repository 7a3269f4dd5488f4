#include "text/json_keys.h"

#include <algorithm>
#include <utility>

#include "base/json.h"

namespace mlxf::text {
namespace {

// A key by what it means: "\u0061" is "a".
std::string meaning(const std::string& written) {
  if (written.find('\\') == std::string::npos) return written;
  std::string quoted = "\"";
  quoted += written;
  quoted += '"';
  const auto value = parse_json(quoted);
  return value && value->is_string() ? value->get<std::string>() : written;
}

}  // namespace

JsonTokens::JsonTokens(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto token = static_cast<TokenId>(id);
    const std::string_view bytes = tokenizer.token_bytes(token);
    const auto marks = std::count(bytes.begin(), bytes.end(), '"');
    if (marks >= 1) one_.push_back(token);
    if (marks >= 2) two_.push_back(token);
  }
}

bool JsonKeys::step(char byte, Place& place, size_t depth) const {
  if (place.in_string) {
    if (!place.escaped && byte == '"') {
      place.in_string = false;
      return std::exchange(place.is_key, false);
    }
    place.escaped = !place.escaped && byte == '\\';
    if (place.is_key) place.key += byte;
    return false;
  }
  if (byte == '"' && (depth > 0 || where_ == Where::kWhole)) {
    place.in_string = true;
    place.is_key = std::exchange(place.key_next, false);
    place.key.clear();
  }
  return false;
}

void JsonKeys::push(std::string_view bytes) {
  for (const char byte : bytes) {
    const bool in_string = place_.in_string;
    if (step(byte, place_, levels_.size())) {
      levels_.back().keys.insert(meaning(place_.key));
    } else if (in_string || place_.in_string) {
      continue;
    } else if (byte == '{' || (byte == '[' && (!levels_.empty() || where_ == Where::kWhole))) {
      levels_.push_back({byte == '{', {}});
      place_.key_next = byte == '{';
    } else if ((byte == '}' || byte == ']') && !levels_.empty()) {
      levels_.pop_back();
      place_.key_next = false;
    } else if (byte == ',') {
      place_.key_next = !levels_.empty() && levels_.back().object;
    }
  }
}

void JsonKeys::restart() {
  levels_.clear();
  place_ = {};
}

bool JsonKeys::repeats(std::string_view bytes) const {
  Place place = place_;
  // Levels that the text opens, and the keys that it adds to those that it finds.
  std::vector<Level> opened;
  std::vector<std::pair<size_t, std::string>> added;
  size_t left = levels_.size();  // Of levels_.
  for (const char byte : bytes) {
    const size_t depth = left + opened.size();
    const bool in_string = place.in_string;
    if (step(byte, place, depth)) {
      std::string key = meaning(place.key);
      if (!opened.empty()) {
        if (!opened.back().keys.insert(std::move(key)).second) return true;
        continue;
      }
      if (levels_[left - 1].keys.contains(key)) return true;
      for (const auto& [level, name] : added)
        if (level == left && name == key) return true;
      added.emplace_back(left, std::move(key));
    } else if (in_string || place.in_string) {
      continue;
    } else if (byte == '{' || (byte == '[' && (depth > 0 || where_ == Where::kWhole))) {
      opened.push_back({byte == '{', {}});
      place.key_next = byte == '{';
    } else if ((byte == '}' || byte == ']') && depth > 0) {
      place.key_next = false;
      if (!opened.empty()) {
        opened.pop_back();
        continue;
      }
      --left;
      // What this level gets next time is another object's.
      std::erase_if(added, [left](const auto& one) { return one.first > left; });
    } else if (byte == ',') {
      place.key_next = depth > 0 && (opened.empty() ? levels_[left - 1].object : opened.back().object);
    }
  }
  return false;
}

// Whether a mark could end the key that is being written as one that is there. Escapes are not looked into.
bool JsonKeys::may_repeat_now() const {
  if (!place_.is_key || levels_.empty()) return false;
  const std::set<std::string>& keys = levels_.back().keys;
  if (place_.key.find('\\') != std::string::npos) return !keys.empty();
  const auto from = keys.lower_bound(place_.key);
  return from != keys.end() && from->starts_with(place_.key);
}

bool JsonKeys::take_out_repeats(const JsonTokens& tokens, std::vector<uint32_t>& words) const {
  bool found = false;
  for (const TokenId token : may_repeat_now() ? tokens.with_one() : tokens.with_two()) {
    const auto at = static_cast<size_t>(token);
    const uint32_t bit = uint32_t{1} << (at % 32);
    if (at / 32 >= words.size() || (words[at / 32] & bit) == 0 || !repeats(tokens.bytes(token))) continue;
    words[at / 32] &= ~bit;
    found = true;
  }
  return found;
}

}  // namespace mlxf::text
