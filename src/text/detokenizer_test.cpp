#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "text/test_corpus.h"
#include "text/utf8.h"

namespace mlxf::text {
namespace {

using testing::corpus;
using testing::kDataFolder;
using testing::read_file;

Tokenizer tokenizer_of(const std::string& name) {
  auto tokenizer = parse_tokenizer(read_file(kDataFolder + name + ".json"));
  if (!tokenizer) ADD_FAILURE() << tokenizer.error().message;
  return std::move(*tokenizer);
}

// What pushing token by token yields; every piece must be valid UTF-8 by itself.
std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, SpecialTokens special) {
  IncrementalDetokenizer detokenizer(tokenizer, {.special = special});
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = detokenizer.push(id);
    EXPECT_TRUE(is_utf8(piece)) << "token " << id;
    text += piece;
  }
  const std::string rest = detokenizer.finish();
  EXPECT_TRUE(is_utf8(rest));
  return text + rest;
}

TEST(IncrementalDetokenizer, PiecesJoinToTheWholeDecode) {
  for (const char* name : {"byte_bpe", "spm_bpe", "unigram"}) {
    const Tokenizer tokenizer = tokenizer_of(name);
    for (const std::string& line : corpus()) {
      const auto ids = tokenizer.encode(line).value();
      for (const SpecialTokens special : {SpecialTokens::kKeep, SpecialTokens::kSkip}) {
        EXPECT_EQ(streamed(tokenizer, ids, special), tokenizer.decode(ids, special).value())
            << name << ": " << line;
      }
    }
  }
}

TEST(IncrementalDetokenizer, ShowsTheSpecialTokensThatAreWanted) {
  const Tokenizer tokenizer = tokenizer_of("byte_bpe");
  std::vector<TokenId> special;
  for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id)
    if (tokenizer.traits(id).special) special.push_back(id);
  ASSERT_GE(special.size(), 2u);
  IncrementalDetokenizer detokenizer(tokenizer, {.shown = {special[0]}});
  EXPECT_EQ(detokenizer.push(special[0]), tokenizer.token_bytes(special[0]));
  EXPECT_EQ(detokenizer.push(special[1]), "");
}

// Sequences that no text encodes to: characters cut off, bytes that begin nothing, special tokens in between.
TEST(IncrementalDetokenizer, AnySequenceOfTokensGivesValidText) {
  for (const char* name : {"byte_bpe", "spm_bpe", "unigram"}) {
    const Tokenizer tokenizer = tokenizer_of(name);
    uint64_t state = 7;
    for (int round = 0; round < 200; ++round) {
      std::vector<TokenId> ids;
      for (int i = 0; i < 40; ++i) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        // Half of them from the vocabulary's beginning, where single bytes and special tokens are.
        const uint32_t range = (state >> 62) % 2 == 0 ? 300 : tokenizer.vocab_size();
        ids.push_back(static_cast<TokenId>((state >> 33) % range));
      }
      for (const SpecialTokens special : {SpecialTokens::kKeep, SpecialTokens::kSkip}) {
        EXPECT_EQ(streamed(tokenizer, ids, special), tokenizer.decode(ids, special).value()) << name;
      }
    }
  }
}

TEST(IncrementalDetokenizer, HoldsBackUntilACharacterIsWhole) {
  const Tokenizer tokenizer = tokenizer_of("spm_bpe");
  const auto byte = [&](const char* spelling) { return tokenizer.find_token(spelling).value(); };
  IncrementalDetokenizer detokenizer(tokenizer, {});
  EXPECT_EQ(detokenizer.push(byte("<0xF0>")), "");
  EXPECT_EQ(detokenizer.push(byte("<0x9F>")), "");
  EXPECT_EQ(detokenizer.push(byte("<0xA6>")), "");
  EXPECT_EQ(detokenizer.push(byte("<0x99>")), "\xF0\x9F\xA6\x99");
  EXPECT_EQ(detokenizer.push(byte("<0xE2>")), "");
  EXPECT_EQ(detokenizer.push(byte("<0x41>")),
            "\xEF\xBF\xBD"
            "A");  // What came did not complete it.
  EXPECT_EQ(detokenizer.push(byte("<0xC3>")), "");
  EXPECT_EQ(detokenizer.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.push(-1), "");
  EXPECT_EQ(detokenizer.push(static_cast<TokenId>(tokenizer.vocab_size())), "");
}

TEST(IncrementalDetokenizer, TheArtificialFirstSpaceIsDroppedOnlyAtTheBeginning) {
  const Tokenizer tokenizer = tokenizer_of("spm_bpe");
  ASSERT_TRUE(tokenizer.strips_leading_space());
  const auto ids = tokenizer.encode("the the", {.add_special_tokens = false}).value();
  using Start = IncrementalDetokenizer::Options::Start;
  IncrementalDetokenizer fresh(tokenizer, {});
  IncrementalDetokenizer continuing(tokenizer, {.start = Start::kContinues});
  std::string first;
  std::string second;
  for (const TokenId id : ids) {
    first += fresh.push(id);
    second += continuing.push(id);
  }
  EXPECT_EQ(first, "the the");
  EXPECT_EQ(second, " the the");
  EXPECT_EQ(fresh.finish(), "");
  std::string third;  // A new text after finish().
  for (const TokenId id : ids) third += fresh.push(id);
  EXPECT_EQ(third, "the the");
}

}  // namespace
}  // namespace mlxf::text
