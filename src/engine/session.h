// Session: one conversation with a model: the tokens its cache holds, and generation from prompts.
//
// Created from an Engine and destroyed before it; one thread, the engine's. A prompt that begins with what the cache
// already holds costs only its new tokens, so a chat's next turn is cheap; layers that forget go back to the
// last prompt, or are filled anew. The prompt is processed in chunks of Model::chunk_tokens().
// Every chunking gives the same bits (kernels/kernel_table.h), so none of this changes an answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "engine/engine.h"
#include "engine/generation.h"
#include "text/tokenizer.h"

namespace mlxf::engine {

struct GenerateResult {
  std::vector<TokenId> tokens;  // Without the end token.
  std::string text;
  FinishReason finish = FinishReason::kLength;
  std::string stop_string;  // The one that matched.
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;  // Of the prompt, found in the cache.
  double prompt_seconds = 0.0;
  double generate_seconds = 0.0;  // From the first token to the last.
};

class Session {
 public:
  // `tokenizer` null: no text, no stop strings, no end tokens. Both outlive this.
  Session(Engine& engine, const text::Tokenizer* tokenizer, uint32_t context_max);

  // Called for each token as it is made; false cancels.
  using OnToken = std::function<bool(const GeneratedToken&)>;
  // kInvalidArgument for an empty prompt, ids outside the vocabulary, a prompt that does not fit the context, or
  // sampling parameters out of range; then the session is as it was.
  [[nodiscard]] Result<GenerateResult> generate(const GenerateRequest& request, const OnToken& on_token = {});

  [[nodiscard]] uint32_t context_max() const { return context_max_; }
  [[nodiscard]] uint32_t length() const { return static_cast<uint32_t>(tokens_.size()); }
  void clear();

 private:
  [[nodiscard]] Result<uint32_t> reuse(std::span<const TokenId> prompt);
  void mark(uint32_t prompt_tokens);
  [[nodiscard]] Status append(std::span<const TokenId> tokens);

  Engine& engine_;
  const text::Tokenizer* tokenizer_;
  uint32_t context_max_;
  std::unique_ptr<kv::Sequence> sequence_;
  std::vector<TokenId> tokens_;  // What the sequence holds; room for the whole context from the start.
  std::vector<float> logits_;    // [vocab], after the last token.
};

}  // namespace mlxf::engine
