// Embedding: one request for vectors of texts, from its body to its answer.
//
// As Answer, but the texts of a request are submitted a few at a time, so that one request of many does not fill the
// queue that others wait in. Runs on the exchange's strand; when the client leaves, what is under way is cancelled.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/embeddings.h"
#include "engine/scheduler.h"
#include "http/server.h"
#include "server/answer.h"
#include "server/model_host.h"

namespace mlxf::server {

class Embedding final : public std::enable_shared_from_this<Embedding> {
 public:
  // `context`'s references and `endpoint` outlive this.
  Embedding(std::shared_ptr<http::Exchange> exchange, const api::EmbedEndpoint& endpoint, std::string user,
            std::string id, const AnswerContext& context);
  ~Embedding();
  // Once, from the handler.
  void start();

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    size_t input;
    engine::Ticket ticket;
  };
  void on_model(const Result<std::shared_ptr<ServedModel>>& model);
  [[nodiscard]] tl::expected<std::vector<TokenId>, api::ApiError> tokens_of(size_t input);
  // Submits inputs until as many run as may; the error of the first that cannot.
  [[nodiscard]] std::optional<api::ApiError> submit_more();
  void wake();
  void pump();
  void fail(const api::ApiError& error);

  const std::shared_ptr<http::Exchange> exchange_;
  const api::EmbedEndpoint& endpoint_;
  const std::string user_, id_;
  const AnswerContext context_;
  const Clock::time_point started_ = Clock::now();
  api::EmbedCall call_;
  ModelHost::Wanted wanted_;
  std::shared_ptr<ServedModel> model_;  // Until the end: in use between two submissions, too.
  std::vector<Running> running_;
  size_t next_ = 0;  // The first input that was not submitted.
  api::Embeddings out_;
  bool ended_ = false;
  std::atomic<bool> woken_{false};  // As Answer's.
};

}  // namespace mlxf::server
