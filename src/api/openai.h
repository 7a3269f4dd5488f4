// OpenAI's protocol: chat completions and completions, requests to Calls and answers to bytes.
//
// Pure translation of values; any thread. An option that cannot be honoured is an error that names it; one that is
// unknown, or has no effect on an answer here, becomes a warning.
#pragma once

#include <memory>

#include "api/call.h"
#include "api/errors.h"
#include "api/reply.h"
#include "base/json.h"

namespace mlxf::api {

// POST /v1/chat/completions and /v1/completions.
[[nodiscard]] const Endpoint& chat_completions();
[[nodiscard]] const Endpoint& completions();

// The halves of these: requests, and answers.
[[nodiscard]] tl::expected<Call, ApiError> parse_chat_completion(const Json& body);
[[nodiscard]] tl::expected<Call, ApiError> parse_completion(const Json& body);
[[nodiscard]] std::unique_ptr<Reply> chat_completion_reply(const Call& call, const ReplyFacts& facts);
[[nodiscard]] std::unique_ptr<Reply> completion_reply(const Call& call, const ReplyFacts& facts);

}  // namespace mlxf::api
