// POST /mcp: the Model Context Protocol over HTTP, no sessions: a request brings a message, or a batch of them.
//
// A generation's answer is a stream where the client takes one, with progress if it asked for that; a client that
// leaves ends its generation, whichever revision it speaks: nothing could give it the answer later.
#include <utility>

#include "server/answer.h"
#include "server/app.h"
#include "server/mcp_call.h"

namespace mlxf::server {
namespace {

// A header that several readers would read differently reads as one that equals nothing.
std::optional<std::string> only_header(const http::Request& request, std::string_view name) {
  std::optional<std::string> value;
  for (const http::Header& header : request.headers)
    if (http::same_name(header.name, name)) value = value ? "duplicate" : header.value;
  return value;
}

bool takes_events(const http::Request& request) {
  const std::string* accept = request.find_header("accept");
  return accept != nullptr && accept->find("text/event-stream") != std::string::npos;
}

std::vector<http::Header> mcp_headers(const std::string& id) {
  return {{"X-Request-Id", id}, {"Cache-Control", "no-store"}};
}

http::Response said_response(const std::string& message, int status, std::vector<http::Header> headers) {
  return {status, message.empty() ? "" : "application/json", message, std::move(headers), false};
}

}  // namespace

std::shared_ptr<McpCall> App::mcp_call(const Exchange& exchange, const mcp::ToolCall& call,
                                       const std::string& id,
                                       std::function<void(std::string message, bool last)> send) {
  if (call.tool == mcp::Tool::kGenerate) requests_total_.add();
  McpCaller caller;
  (void)check_key(exchange->request(), options_.access,
                  caller.user);  // Judged with the head; whose key it was.
  caller.no_admin = check_admin(exchange->request(), options_.access);
  caller.post = [exchange](std::function<void()> work) { exchange->post(std::move(work)); };
  caller.send = std::move(send);
  return std::make_shared<McpCall>(McpContext{host_, options_.version, started_unix_, open_answers_}, call,
                                   std::move(caller), id);
}

void App::mcp(const Exchange& exchange, const std::string& id) {
  const http::Request& request = exchange->request();
  const mcp::HttpHeaders headers{only_header(request, "mcp-protocol-version"),
                                 only_header(request, "mcp-method"), only_header(request, "mcp-name")};
  const mcp::Received received = mcp::receive(exchange->take_body(), options_.version, &headers);
  if (received.batch) return mcp_batch(exchange, id, received.outcomes);
  const std::vector<http::Header> reply_headers = mcp_headers(id);
  const mcp::Outcome& outcome = received.outcomes.front();
  const auto* call = std::get_if<mcp::ToolCall>(&outcome);
  if (call == nullptr) {
    const auto* said = std::get_if<mcp::Said>(&outcome);
    return exchange->respond(said == nullptr
                                 ? said_response("", 202, reply_headers)
                                 : said_response(said->message, said->http_status, reply_headers));
  }
  const bool streams = call->tool == mcp::Tool::kGenerate && takes_events(request);
  const auto running = mcp_call(exchange, *call, id,
                                [exchange, streams, reply_headers](const std::string& message, bool last) {
                                  if (streams) {
                                    exchange->write(api::sse_event("message", message));
                                    if (last) exchange->finish();
                                  } else if (last) {
                                    exchange->respond(said_response(message, 200, reply_headers));
                                  }
                                });
  // Keeps it alive until the exchange ends.
  exchange->on_closed([running] { running->cancel(); });
  if (streams) {
    http::StreamHead head;
    head.content_type = "text/event-stream";
    head.headers = reply_headers;
    head.headers.push_back({"X-Accel-Buffering", "no"});
    head.heartbeat = [] { return std::string(": \n\n"); };
    exchange->begin(std::move(head));
  }
  running->start();
}

// Answered whole, once all of it is done.
void App::mcp_batch(const Exchange& exchange, const std::string& id,
                    const std::vector<mcp::Outcome>& outcomes) {
  const auto gathered = std::make_shared<mcp::BatchAnswer>(outcomes.size());  // Shared by its calls.
  const auto answer = [exchange, gathered, id](const std::string& message) {
    gathered->add(message);
    if (!gathered->done()) return;
    const std::string all = gathered->message();
    exchange->respond(said_response(all, all.empty() ? 202 : 200, mcp_headers(id)));
  };
  std::vector<std::shared_ptr<McpCall>> running;
  running.reserve(outcomes.size());
  for (const mcp::Outcome& outcome : outcomes)
    if (const auto* call = std::get_if<mcp::ToolCall>(&outcome))
      running.push_back(mcp_call(exchange, *call, id + "-" + std::to_string(running.size()),
                                 [answer](const std::string& message, bool last) {
                                   if (last) answer(message);
                                 }));
  exchange->on_closed([running] {
    for (const auto& call : running) call->cancel();
  });
  for (const mcp::Outcome& outcome : outcomes) {
    if (const auto* said = std::get_if<mcp::Said>(&outcome)) answer(said->message);
    if (std::holds_alternative<mcp::Cancel>(outcome)) answer("");
  }
  for (const auto& call : running) call->start();
}

}  // namespace mlxf::server
