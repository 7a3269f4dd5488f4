// OpenAI's responses protocol: POST /v1/responses, requests to Calls and answers to bytes. What Codex speaks.
//
// Pure translation of values; any thread. Nothing is stored: a request brings its whole conversation. What would
// continue a stored one, and everything but text, is an error that names it; what has no effect on an answer here
// becomes a warning. Every event of a stream has its number, heartbeats included: clients' idle timers read over
// comments, so a heartbeat is the event response.in_progress again. A stream ends with exactly one of
// response.completed, .incomplete and .failed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/call.h"
#include "api/errors.h"
#include "api/reply.h"
#include "base/json.h"

namespace mlxf::api {

[[nodiscard]] const Endpoint& responses();

// The parts of it.
[[nodiscard]] tl::expected<Call, ApiError> parse_response_request(const Json& body);
[[nodiscard]] std::unique_ptr<Reply> response_reply(const Call& call, const ReplyFacts& facts);
[[nodiscard]] std::string open_response(const Call& call, StreamState& stream);
[[nodiscard]] std::string response_heartbeat(const Call& call, StreamState& stream);
[[nodiscard]] std::string response_failure(const Call& call, StreamState& stream, const ApiError& error);

// The messages of `input`, after `instructions` where there are any. Things left out are told in `warnings`.
[[nodiscard]] tl::expected<OrderedJson, ApiError> response_messages(const Json& input,
                                                                    const std::string& instructions,
                                                                    std::vector<std::string>& warnings);

}  // namespace mlxf::api
