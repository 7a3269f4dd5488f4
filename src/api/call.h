// Call: what a request of any protocol comes to: a prompt, how to sample, when to end, and how to answer.
//
// Values, made by a protocol's parser and read by the server; one request each.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "api/structured.h"
#include "base/json.h"
#include "base/token_id.h"
#include "decode/sampler.h"
#include "text/answer_writer.h"
#include "text/chat_template.h"

namespace mlxf::api {

// What a request sets of the sampling; the rest comes from the model's own defaults.
struct Sampling {
  std::optional<float> temperature, top_p, min_p, typical_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint32_t> top_k, repeat_last_n;
  std::optional<uint64_t> seed;
  std::vector<std::pair<TokenId, float>> logit_bias;

  void apply_to(decode::SamplingParams& params) const;
};

struct ChatPrompt {
  OrderedJson messages = OrderedJson::array();  // See api/messages.h.
  text::RenderOptions render;
  // What a model without a template is given instead; absent: such a model is an error.
  std::optional<std::string> text_without_template = std::nullopt;
};
struct TextPrompt {
  std::string text;
  bool raw = false;  // Control tokens in it mean what they spell.
};
using TokenPrompt = std::vector<TokenId>;

// How a client calls a tool that the model knows as a function by another name or of another kind.
struct ToolOrigin {
  std::string name;
  std::string space;    // The namespace that it belongs to; empty: none.
  bool custom = false;  // It takes a text, which is the function's argument `input`.
};

struct Call {
  std::string model;  // Empty: whichever is served.
  std::variant<ChatPrompt, TextPrompt, TokenPrompt> prompt;
  Sampling sampling;
  uint32_t max_tokens = 0;      // 0: until the end.
  uint32_t context_tokens = 0;  // 0: what the server allows.
  std::vector<std::string> stop;
  bool ignore_end = false;
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  std::vector<text::ToolSpec> tools;  // That the answer may call.
  bool parallel_tool_calls = true;
  bool must_call = false;                     // The answer is a call, not a text.
  std::set<std::string> callable;             // Names of the only tools that may be called; empty: all.
  std::set<std::string> strict_tools;         // Names of those whose arguments must fit their schemas.
  std::map<std::string, ToolOrigin> origins;  // Of the tools, by their names; none: as they are.
  bool wants_reasoning = false;               // Asked for by name: an error where the model has none.
  bool stream = false;
  bool include_usage = false;  // OpenAI: a chunk of its own for the usage.
  bool load_only = false;      // No answer: the model should be in memory.
  // How long the model stays in memory once nobody uses it; kForever, or nothing: as it is.
  std::optional<std::chrono::milliseconds> keep_alive;
  bool echo = false;                   // The text prompt before the answer.
  std::optional<Structure> structure;  // What the answer must be; nothing: any text.
  Json repeated = nullptr;             // Members of the answer that the request alone decides.
  std::vector<std::string> warnings;   // What was asked for and has no effect, for the client to see.
};

}  // namespace mlxf::api
