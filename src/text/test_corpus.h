// What the tests of text/ share: the corpus and the reference ids in tests/data/text/.
//
// Only tests include this header. tools/reference/text_reference.py made the references and says what they hold.
// A test's inputs are part of the repository: a missing or broken one is a failure of the test that reads it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "platform/file.h"
#include "text/tokenizer.h"

namespace mlxf::text::testing {

inline const std::string kDataFolder = MLXF_SOURCE_DIR "/tests/data/text/";

inline std::string read_file(const std::string& path) {
  auto text = platform::read_whole_file(path, uint64_t{1} << 28);
  if (text) return std::move(*text);
  ADD_FAILURE() << text.error().message;
  return {};
}

inline Json read_json(const std::string& path) {
  auto json = parse_json(read_file(path));
  if (json) return std::move(*json);
  ADD_FAILURE() << path << ": " << json.error().message;
  return Json::object();
}

inline std::vector<std::string> corpus() {
  std::vector<std::string> lines;
  const std::string text = read_file(kDataFolder + "corpus.jsonl");
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const auto line = parse_json(std::string_view(text).substr(begin, end - begin));
    EXPECT_TRUE(line && line->is_string()) << "corpus.jsonl, byte " << begin;
    if (line && line->is_string()) lines.push_back(line->get<std::string>());
    begin = end + 1;
  }
  return lines;
}

// The ids that the other implementation gave for the corpus.
struct Reference {
  std::string sha256;  // Of the tokenizer.json that gave them.
  std::vector<TokenId> added;
  std::vector<std::vector<TokenId>> encode;        // Per line.
  std::map<size_t, std::vector<TokenId>> literal;  // Per line, where it differs from `encode`.
  std::map<size_t, std::string> decoded;           // Per line, where it differs from the line.
  std::vector<std::pair<std::vector<TokenId>, std::string>> random;
};

inline Reference read_reference(const std::string& name) {
  const Json json = read_json(kDataFolder + name + ".ids.json");
  Reference reference;
  const auto ids = [](const Json& list) { return list.get<std::vector<TokenId>>(); };
  reference.sha256 = json.at("sha256").get<std::string>();
  reference.added = ids(json.at("added"));
  for (const Json& line : json.at("encode")) reference.encode.push_back(ids(line));
  for (const auto& [line, list] : json.at("literal").items()) reference.literal[std::stoul(line)] = ids(list);
  for (const auto& [line, text] : json.at("decoded").items()) {
    reference.decoded[std::stoul(line)] = text.get<std::string>();
  }
  if (json.contains("random")) {
    for (const Json& item : json.at("random")) {
      reference.random.emplace_back(ids(item.at(0)), item.at(1).get<std::string>());
    }
  }
  return reference;
}

// Every line must give the reference's ids; the first few that do not are shown.
inline void expect_reference_ids(const Tokenizer& tokenizer, const Reference& reference,
                                 const std::string& name) {
  const std::vector<std::string> lines = corpus();
  ASSERT_EQ(lines.size(), reference.encode.size()) << name;
  int shown = 0;
  for (size_t i = 0; i < lines.size() && shown < 8; ++i) {
    const auto ids = tokenizer.encode(lines[i], {.add_special_tokens = false, .parse_special = true});
    ASSERT_TRUE(ids) << name << ", line " << i + 1 << ": " << ids.error().message;
    EXPECT_EQ(*ids, reference.encode[i]) << name << ", line " << i + 1 << ": " << lines[i];
    const auto found = reference.literal.find(i);
    const auto literal = tokenizer.encode(lines[i], {.add_special_tokens = false, .parse_special = false});
    ASSERT_TRUE(literal) << name << ", line " << i + 1 << ": " << literal.error().message;
    const auto& expected = found == reference.literal.end() ? reference.encode[i] : found->second;
    EXPECT_EQ(*literal, expected) << name << ", line " << i + 1 << " as text: " << lines[i];
    for (const TokenId id : *literal) EXPECT_FALSE(tokenizer.traits(id).control) << name << ": " << lines[i];
    if (*ids != reference.encode[i] || *literal != expected) ++shown;
  }
}

}  // namespace mlxf::text::testing
