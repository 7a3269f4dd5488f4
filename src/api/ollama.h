// Ollama's protocol: generate and chat, requests to Calls and answers to lines of JSON.
//
// Pure translation of values; any thread. Options about how Ollama runs a model (threads, batch, GPU layers) have
// no effect here and become warnings; what would change an answer and cannot be done is an error.
#pragma once

#include <memory>
#include <string>

#include "api/call.h"
#include "api/errors.h"
#include "api/reply.h"
#include "base/json.h"

namespace mlxf::api {

// POST /api/generate and /api/chat. Without a prompt they load the model, or with a keep_alive of 0 unload it.
[[nodiscard]] const Endpoint& ollama_generate();
[[nodiscard]] const Endpoint& ollama_chat();

// The halves of these.
[[nodiscard]] tl::expected<Call, ApiError> parse_ollama_generate(const Json& body);
[[nodiscard]] tl::expected<Call, ApiError> parse_ollama_chat(const Json& body);
[[nodiscard]] std::unique_ptr<Reply> ollama_generate_reply(const Call& call, const ReplyFacts& facts);
[[nodiscard]] std::unique_ptr<Reply> ollama_chat_reply(const Call& call, const ReplyFacts& facts);

// What is known of a model, for /api/tags, /api/ps and /api/show.
struct OllamaModel {
  std::string name;
  std::string format;  // "safetensors" or "gguf".
  std::string architecture;
  std::string chat_template;        // Jinja; empty: none.
  uint64_t bytes = 0;               // Of its files.
  int64_t modified = 0;             // Seconds since 1970.
  uint32_t context_tokens = 0;      // Of one request here.
  uint32_t context_tokens_max = 0;  // The model's own.
};
[[nodiscard]] Json ollama_tag(const OllamaModel& model);  // An entry of /api/tags.
// An entry of /api/ps. `expires`: when the model will be unloaded if nobody uses it; seconds since 1970.
[[nodiscard]] Json ollama_running(const OllamaModel& model, int64_t expires);
[[nodiscard]] Json ollama_show(const OllamaModel& model);

}  // namespace mlxf::api
