// McpCall: one call of a tool of the Model Context Protocol, over the served model, whichever way it came.
//
// A generation waits for the model, runs in the scheduler like every other request, tells how far it is where that was
// asked for, and ends when it is cancelled; a change of the model is answered once it is done, whoever still waits for
// it; the other tools answer at once. Everything but the engine's wake-up and the host's word runs on the caller's
// strand: what `post` is given is run one piece at a time. It lives as long as whoever started it keeps it.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "api/answer_reader.h"
#include "api/call.h"
#include "engine/scheduler.h"
#include "mcp/protocol.h"
#include "server/model_host.h"

namespace mlxf::server {

// Who asked: where work runs, and where messages go.
struct McpCaller {
  std::string user;                            // See Submission::user.
  std::optional<api::ApiError> no_admin = {};  // Why it may not change what is served; nothing: it may.
  std::function<void(std::function<void()> work)> post;
  // One message; with `last` it is the call's answer and nothing follows.
  std::function<void(std::string message, bool last)> send;
};

struct McpContext {
  ModelHost& host;
  const std::string& version;   // Of this program.
  int64_t started = 0;          // Of this process: seconds since 1970.
  std::atomic<uint32_t>& open;  // Calls under way, this one included once it is made; relaxed.
};

class McpCall final : public std::enable_shared_from_this<McpCall> {
 public:
  // `context`'s references outlive this. `id` is unique among the server's requests.
  McpCall(const McpContext& context, mcp::ToolCall call, McpCaller caller, std::string id);
  ~McpCall();
  // Once, on the strand.
  void start();
  // On the strand. Nothing is sent from now on.
  void cancel();
  [[nodiscard]] const Json& id() const { return tool_call_.id; }

 private:
  void start_generation();
  void start_switch();
  void start_release();
  // Sends what a change of the model came to, from the strand; for the host's thread.
  void end_later(const mcp::ToolResult& result);
  void on_model(const Result<std::shared_ptr<ServedModel>>& model);
  void wake();
  void pump();
  void handle(const engine::Event& event);
  void say_progress();
  void end(const mcp::ToolResult& result);

  const McpContext context_;
  const mcp::ToolCall tool_call_;
  const McpCaller caller_;
  const std::string request_id_;
  api::Call call_;
  engine::Ticket ticket_;
  std::optional<api::AnswerReader> reader_;
  uint64_t tokens_ = 0, tokens_told_ = 0;
  std::chrono::steady_clock::time_point told_at_;
  bool ended_ = false;
  std::atomic<bool> woken_{false};  // As Answer's.
};

}  // namespace mlxf::server
