// Reply: an answer in the making, as the bytes of one protocol.
//
// Streamed: begin(), token() for each, then end(), each returning what is sent next; a heartbeat may stand between any
// two, and stream_error() in place of what is left. Whole: token() for each, which returns nothing, then whole(). One
// request, one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/call.h"
#include "api/errors.h"
#include "engine/scheduler.h"
#include "text/answer_format.h"
#include "text/tokenizer.h"

namespace mlxf::api {

// What a protocol numbers or repeats in a stream, from its first byte on, before there is a Reply. Whoever answers owns
// it.
struct StreamState {
  std::string id, model;  // As in ReplyFacts below.
  int64_t created = 0;
  uint64_t events = 0;  // Sent so far.
};

struct ReplyFacts {
  std::string id;       // Without a protocol's prefix.
  std::string model;    // As it is served.
  int64_t created = 0;  // Seconds since 1970.
  text::Tokenizer tokenizer;
  uint32_t prompt_tokens = 0;
  std::string prompt_text = {};    // For `echo`.
  text::AnswerFormat format = {};  // How the model writes calls and reasoning; none for raw completions.
  std::string prompt_end = {};     // Of a chat's prompt: it may have begun the answer.
  StreamState* stream = nullptr;   // Outlives the reply.
};

class Reply {
 public:
  virtual ~Reply() = default;
  [[nodiscard]] virtual std::string begin() = 0;
  [[nodiscard]] virtual std::string token(const engine::GeneratedToken& token) = 0;
  [[nodiscard]] virtual std::string end(const engine::Finished& finished) = 0;
  [[nodiscard]] virtual std::string whole(const engine::Finished& finished) = 0;
};

// A way to ask for an answer: how its requests are read and its answers written.
struct Endpoint {
  Protocol protocol;
  tl::expected<Call, ApiError> (*parse)(const Json& body);
  std::unique_ptr<Reply> (*reply)(const Call& call, const ReplyFacts& facts);
  // What a stream sends while there is nothing to say.
  std::string (*heartbeat)(const Call& call, StreamState& stream);
  // Where not null: what a stream begins with, while the model may still be loading, and ends with when it fails.
  std::string (*open)(const Call& call, StreamState& stream) = nullptr;
  std::string (*failure)(const Call& call, StreamState& stream, const ApiError& error) = nullptr;
  // Where not null: the whole answer to a call that asks for no more than that the model be unloaded.
  std::string (*unloaded)(const Call& call, const StreamState& stream) = nullptr;
};

// The content type of a protocol's streams, and the event that ends one that fails.
[[nodiscard]] std::string_view stream_type(Protocol protocol);
[[nodiscard]] std::string stream_error(Protocol protocol, const ApiError& error,
                                       const std::string& request_id);

// What a stream that has begun already says of options that have no effect: comments, which clients read over; where
// every line is an object, one without text that has `warnings`. Each of them is one line.
[[nodiscard]] std::string stream_warnings(const Endpoint& endpoint, const Call& call, StreamState& stream,
                                          const std::vector<std::string>& warnings);

// One server-sent event.
[[nodiscard]] std::string sse_data(std::string_view data);
[[nodiscard]] std::string sse_event(std::string_view name, std::string_view data);

// "2026-11-24T15:14:17Z".
[[nodiscard]] std::string time_text(int64_t unix_seconds);

// A token's own bytes as valid UTF-8, and as numbers.
[[nodiscard]] std::string shown_token(const text::Tokenizer& tokenizer, TokenId id);

}  // namespace mlxf::api
