// A tokenizer.json as the vocabulary of a GGUF file, the way that llama.cpp's converter writes it.
//
// Only tests include this header. REQUIRES: a tokenizer.json that is well-formed; its members are taken on trust.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/gguf_writer.h"

namespace mlxf::text::testing {

inline bool is_byte_spelling(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.back() == '>';
}

// Runs of ▁ that are user-defined tokens appear as runs of spaces.
inline std::string with_real_spaces(const std::string& text) {
  std::string spaces;
  for (size_t i = 0; i < text.size(); i += 3) {
    if (text.compare(i, 3, "\u2581") != 0) return text;
    spaces += ' ';
  }
  return spaces;
}

// "left right", from either of the two forms that tokenizer.json knows.
inline std::string merge_text(const Json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  return merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>();
}

class GgufVocabulary {
 public:
  explicit GgufVocabulary(const Json& tokenizer_json) {
    const Json& model = tokenizer_json.at("model");
    unigram_ = model.at("type") == "Unigram";
    collect(tokenizer_json, model);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!tokens_[i].empty()) continue;
      tokens_[i] = "[PAD" + std::to_string(i) + "]";
      types_[i] = 5;
    }
  }

  // `kind` and `pre` are tokenizer.ggml.model and .pre; an empty `pre` is left out.
  [[nodiscard]] formats::GgufPairs pairs(const std::string& kind, const std::string& pre) const {
    formats::GgufPairs pairs = {{"general.architecture", std::string("llama")},
                                {"tokenizer.ggml.model", kind},
                                {"tokenizer.ggml.tokens", tokens_},
                                {"tokenizer.ggml.token_type", types_}};
    if (!pre.empty()) pairs.emplace_back("tokenizer.ggml.pre", pre);
    if (kind == "gpt2" || kind == "gemma4") {
      pairs.emplace_back("tokenizer.ggml.merges", merges_);
    } else {
      pairs.emplace_back("tokenizer.ggml.scores", scores_);
    }
    return pairs;
  }

 private:
  void put(size_t id, const std::string& text, int type) {
    if (id >= tokens_.size()) {
      tokens_.resize(id + 1);
      types_.resize(id + 1, 1);
      scores_.resize(id + 1, 0.0F);
    }
    tokens_[id] = text;
    types_[id] = type;
  }

  void collect(const Json& tokenizer_json, const Json& model) {
    if (unigram_) {
      size_t id = 0;
      for (const Json& piece : model.at("vocab")) {
        put(id, piece.at(0).get<std::string>(), 1);
        scores_[id++] = piece.at(1).get<float>();
      }
    } else {
      for (const auto& [text, id] : model.at("vocab").items()) {
        put(id.get<size_t>(), text, is_byte_spelling(text) ? 6 : 1);
      }
      collect_merges(model);
    }
    for (const Json& token : tokenizer_json.at("added_tokens")) {
      const auto text = token.at("content").get<std::string>();
      put(token.at("id").get<size_t>(), with_real_spaces(text), token.at("special").get<bool>() ? 3 : 4);
    }
    if (model.contains("unk_token") && model.at("unk_token").is_string()) {
      for (size_t i = 0; i < tokens_.size(); ++i) {
        if (tokens_[i] == model.at("unk_token")) types_[i] = 2;
      }
    }
    if (unigram_ && model.at("unk_id").is_number()) types_[model.at("unk_id").get<size_t>()] = 2;
  }

  // A token's score falls with the rank of the first merge that makes it.
  void collect_merges(const Json& model) {
    std::map<std::string, size_t> rank;
    for (const Json& merge : model.at("merges")) {
      const std::string text = merge_text(merge);
      const size_t space = text.find(' ', 1);
      rank.emplace(text.substr(0, space) + text.substr(space + 1), merges_.size());
      merges_.push_back(text);
    }
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const auto found = rank.find(tokens_[i]);
      scores_[i] = found == rank.end() ? 0.0F : -static_cast<float>(found->second);
    }
  }

  bool unigram_ = false;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<float> scores_;
  std::vector<std::string> merges_;
};

// Writes a GGUF file that holds metadata only.
inline void write_gguf(const std::string& path, const formats::GgufPairs& pairs) {
  auto writer = formats::GgufWriter::create(path, pairs, {});
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(writer->finish());
}

}  // namespace mlxf::text::testing
