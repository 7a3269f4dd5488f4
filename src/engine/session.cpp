#include "engine/session.h"

#include <algorithm>
#include <chrono>

#include "engine/prompt_mark.h"

namespace mlxf::engine {
namespace {

using Clock = std::chrono::steady_clock;

// Above what texts need on average, so that an answer seldom outgrows the room made for it.
constexpr uint64_t kTextBytesPerToken = 8;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Session::Session(Engine& engine, const text::Tokenizer* tokenizer, uint32_t context_max)
    : engine_(engine),
      tokenizer_(tokenizer),
      context_max_(context_max),
      sequence_(engine.model().make_sequence(context_max)),
      logits_(engine.model().spec().vocab) {
  tokens_.reserve(context_max_);
}

void Session::clear() {
  sequence_ = engine_.model().make_sequence(context_max_);
  tokens_.clear();
}

// Leaves in the cache what `prompt` begins with, at most all but its last token, whose logits are needed.
Result<uint32_t> Session::reuse(std::span<const TokenId> prompt) {
  const size_t limit = std::min(tokens_.size(), prompt.size() - 1);
  const auto common = static_cast<uint32_t>(
      std::mismatch(tokens_.begin(), tokens_.begin() + static_cast<ptrdiff_t>(limit), prompt.begin()).first -
      tokens_.begin());
  const uint32_t kept = common < tokens_.size() ? sequence_->truncatable(common) : common;
  RETURN_IF_ERROR(sequence_->truncate(kept));
  tokens_.resize(kept);
  return kept;
}

void Session::mark(uint32_t prompt_tokens) {
  if (!sequence_->forgets()) return;
  const uint32_t border = prompt_mark(prompt_tokens);
  if (border <= sequence_->length()) return;
  sequence_->unmark_all();
  (void)sequence_->mark(border);  // Without memory for it the next prompt is read anew.
}

Status Session::append(std::span<const TokenId> tokens) {
  engine_.adapt_memory();
  engine_.spare_drive();
  const model::Chunk chunk{sequence_.get(), tokens, false};
  RETURN_IF_ERROR(engine_.model().forward({&chunk, 1}, logits_.data()));
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return {};
}

Result<GenerateResult> Session::generate(const GenerateRequest& request, const OnToken& on_token) {
  RETURN_IF_ERROR(check_request(request, engine_.model().spec().vocab, context_max_));
  GenerateResult result;
  result.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  ASSIGN_OR_RETURN(result.cached_tokens, reuse(request.prompt));
  mark(result.prompt_tokens);
  auto start = Clock::now();
  const std::span<const TokenId> prompt(request.prompt);
  const uint32_t chunk = engine_.model().chunk_tokens();
  for (uint32_t at = result.cached_tokens; at < prompt.size(); at += chunk)
    RETURN_IF_ERROR(append(prompt.subspan(at, std::min<size_t>(chunk, prompt.size() - at))));
  result.prompt_seconds = seconds_since(start);

  start = Clock::now();
  Generation generation(request, tokenizer_, engine_.model().spec().vocab, context_max_);
  result.tokens.reserve(generation.most());
  if (tokenizer_ != nullptr) result.text.reserve(uint64_t{generation.most()} * kTextBytesPerToken);
  bool goes_on = true;
  while (true) {
    ASSIGN_OR_RETURN(const GeneratedToken generated, generation.next(logits_));
    result.text += generated.text;
    result.generate_seconds = seconds_since(start);
    if (on_token && (generated.id >= 0 || !generated.text.empty())) goes_on = on_token(generated);
    if (!goes_on || generation.done()) break;
    RETURN_IF_ERROR(append({&generated.id, 1}));
  }
  result.tokens.assign(generation.tokens().begin(), generation.tokens().end());
  result.finish = goes_on ? generation.finish() : FinishReason::kCancelled;
  result.stop_string = generation.stop_string();
  return result;
}

}  // namespace mlxf::engine
