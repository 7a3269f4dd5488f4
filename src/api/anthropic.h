// Anthropic's protocol: messages, requests to Calls and answers to bytes.
//
// Pure translation of values; any thread. What cannot be honoured (images, calls that are forced, an answer
// that is begun by the client) is an error that names it.
#pragma once

#include <memory>

#include "api/call.h"
#include "api/errors.h"
#include "api/reply.h"
#include "base/json.h"

namespace mlxf::api {

// POST /v1/messages.
[[nodiscard]] const Endpoint& anthropic_messages();

// The halves of it. Counting tokens takes the same request, without max_tokens.
[[nodiscard]] tl::expected<Call, ApiError> parse_anthropic_message(const Json& body);
[[nodiscard]] tl::expected<Call, ApiError> parse_anthropic_count(const Json& body);
[[nodiscard]] std::unique_ptr<Reply> anthropic_reply(const Call& call, const ReplyFacts& facts);

}  // namespace mlxf::api
