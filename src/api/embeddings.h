// Embeddings: texts to vectors, in OpenAI's form (POST /v1/embeddings) and Ollama's (POST /api/embed, and the older
// /api/embeddings).
//
// A vector is the model's state behind the text's last token, of length 1: what models made for it expect (Qwen3
// Embedding) and the best that others have. Pure translation of values; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/errors.h"
#include "base/json.h"
#include "base/token_id.h"

namespace mlxf::api {

inline constexpr size_t kEmbeddingInputsMax = 2048;  // OpenAI's own limit.

struct EmbedCall {
  std::string model;
  std::vector<std::variant<std::string, std::vector<TokenId>>> inputs;
  bool base64 = false;      // OpenAI: vectors as little-endian f32.
  uint32_t dimensions = 0;  // Of the vectors returned; 0: the model's.
  bool truncate = false;  // An input that is longer than the context loses its end. Otherwise it is refused.
  uint32_t context_tokens = 0;
  std::optional<std::chrono::milliseconds> keep_alive;  // As Call's.
  std::vector<std::string> warnings;
};

struct Embeddings {
  std::string model;
  std::vector<std::vector<float>> vectors;  // By input.
  uint32_t prompt_tokens = 0;
  double seconds = 0;       // From the request to its answer,
  double load_seconds = 0;  // and of them until the model was there.
};

// How embeddings are asked for, and answered.
struct EmbedEndpoint {
  Protocol protocol;
  tl::expected<EmbedCall, ApiError> (*parse)(const Json& body);
  std::string (*answer)(const EmbedCall& call, const Embeddings& embeddings);
};
[[nodiscard]] const EmbedEndpoint& openai_embeddings();
[[nodiscard]] const EmbedEndpoint& ollama_embed();
[[nodiscard]] const EmbedEndpoint& ollama_embeddings();

// The first `dimensions` of a vector, of length 1 again. REQUIRES: there are so many.
void shorten(std::vector<float>& vector, uint32_t dimensions);

// RFC 4648, section 4.
[[nodiscard]] std::string base64_text(const void* bytes, size_t count);

}  // namespace mlxf::api
