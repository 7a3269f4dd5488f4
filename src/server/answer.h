// Answer: one request for a generation, from its body to the last byte of its answer.
//
// It reads the request, waits for the model, makes the prompt, submits it, and writes what the scheduler's events say
// in the endpoint's protocol. It lives as long as its exchange: when the client leaves, the generation is cancelled.
// Runs on the exchange's strand; a client that reads slowly is written to only as fast as it reads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/reply.h"
#include "engine/scheduler.h"
#include "http/server.h"
#include "server/model_host.h"

namespace mlxf::server {

// The prompt's tokens, and its text where it is echoed. Errors are the client's to mend; what was asked for and cannot
// be had of this model is added to `warnings`.
struct Prompt {
  std::vector<TokenId> tokens;
  std::string text;
  bool chat = false;             // Made by the template: the answer is in the model's format.
  std::string end;               // Of a chat's text.
  text::Thinking thinking = {};  // Where a structured answer begins.
};
[[nodiscard]] tl::expected<Prompt, api::ApiError> make_prompt(const api::Call& call, const ServedModel& model,
                                                              std::vector<std::string>& warnings);

// A call that the scheduler has taken; until it has ended the model is in use. `id` gives it a seed of its own where it
// names none.
struct Submitted {
  engine::Ticket ticket;
  api::ReplyFacts facts;
  std::vector<std::string> warnings = {};  // What was asked for and has no effect with this model.
};
[[nodiscard]] tl::expected<Submitted, api::ApiError> submit_call(const api::Call& call,
                                                                 const std::shared_ptr<ServedModel>& model,
                                                                 const std::string& id, std::string user,
                                                                 std::function<void()> on_event);

[[nodiscard]] tl::unexpected<api::ApiError> no_such_model(const std::string& asked, const std::string& name);
// What resolve() says of a name, as the client is told: 404, or, of one that may mean several models, 400.
[[nodiscard]] tl::expected<ModelHost::Wanted, api::ApiError> wanted_model(const std::string& asked,
                                                                          const ModelHost& host);
// Why when_ready() gave no model for `asked`.
[[nodiscard]] api::ApiError wait_error(const Error& problem, const std::string& asked, const ModelHost& host);

// A response with the protocol's body and the headers that tell clients whether to try again.
[[nodiscard]] http::Response error_response(api::Protocol protocol, const api::ApiError& error,
                                            const std::string& request_id);

// Of an answer: the request's id, and what was asked for in vain.
[[nodiscard]] std::vector<http::Header> reply_headers(const std::string& id,
                                                      const std::vector<std::string>& warnings);

// Why there is no model, and why the scheduler takes no request, as the client is told.
[[nodiscard]] api::ApiError load_error(const Error& problem, const ModelHost& host);
// Why the model was not released, reloaded or switched.
[[nodiscard]] api::ApiError change_error(const Error& problem, const ModelHost& host);
[[nodiscard]] api::ApiError submit_error(const Error& problem, const engine::Scheduler& scheduler);

struct AnswerContext {
  ModelHost& host;
  uint64_t write_bytes_max = 0;  // See http::Limits::write_bytes.
  std::atomic<uint32_t>& open;   // Answers under way, this one included once it is made; relaxed.
};

class Answer final : public std::enable_shared_from_this<Answer> {
 public:
  // `context`'s references and `endpoint` outlive this.
  Answer(std::shared_ptr<http::Exchange> exchange, const api::Endpoint& endpoint, std::string user,
         std::string id, const AnswerContext& context);
  ~Answer();
  // Once, from the handler.
  void start();

 private:
  void on_model(const Result<std::shared_ptr<ServedModel>>& model);
  void say_loaded(const ServedModel& model);
  void unload();
  [[nodiscard]] std::optional<api::ApiError> submit(const std::shared_ptr<ServedModel>& model);
  void begin_stream();
  void wake();
  void pump();
  void handle(engine::Event event);
  void fail(const api::ApiError& error);

  const std::shared_ptr<http::Exchange> exchange_;
  const api::Endpoint& endpoint_;
  const std::string user_, id_;
  const AnswerContext context_;
  api::Call call_;
  ModelHost::Wanted wanted_;
  api::StreamState stream_;
  engine::Ticket ticket_;
  std::unique_ptr<api::Reply> reply_;
  bool streaming_ = false;  // The stream has begun.
  bool ended_ = false;
  std::atomic<bool> woken_{
      false};  // A pump() is on its way; set by the engine's thread, cleared by the strand.
};

}  // namespace mlxf::server
