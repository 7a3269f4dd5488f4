// POST /mcp: the Model Context Protocol over HTTP, one message per request and no sessions.
//
// A generation's answer is a stream where the client takes one, with progress if it asked for that; a client that
// leaves ends its generation, whichever revision it speaks: nothing could give it the answer later.
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

}  // namespace

void App::mcp(const Exchange& exchange, const std::string& id) {
  const http::Request& request = exchange->request();
  const mcp::HttpHeaders headers{only_header(request, "mcp-protocol-version"),
                                 only_header(request, "mcp-method"), only_header(request, "mcp-name")};
  mcp::Outcome outcome = mcp::receive(exchange->take_body(), options_.version, &headers);
  const std::vector<http::Header> reply_headers = {{"X-Request-Id", id}, {"Cache-Control", "no-store"}};
  const auto* call = std::get_if<mcp::ToolCall>(&outcome);
  if (call == nullptr) {
    const auto* said = std::get_if<mcp::Said>(&outcome);
    const bool silent = said == nullptr || said->message.empty();
    return exchange->respond({said == nullptr ? 202 : said->http_status, silent ? "" : "application/json",
                              silent ? "" : said->message, reply_headers, false});
  }
  if (call->tool == mcp::Tool::kGenerate) requests_total_.add();
  const bool streams = call->tool == mcp::Tool::kGenerate && takes_events(request);
  McpCaller caller;
  (void)check_key(request, options_.access, caller.user);  // Judged with the head; whose key it was.
  caller.no_admin = check_admin(request, options_.access);
  caller.post = [exchange](std::function<void()> work) { exchange->post(std::move(work)); };
  caller.send = [exchange, streams, reply_headers](std::string message, bool last) {
    if (streams) {
      exchange->write(api::sse_event("message", message));
      if (last) exchange->finish();
    } else if (last) {
      exchange->respond({200, "application/json", std::move(message), reply_headers, false});
    }
  };
  const auto running = std::make_shared<McpCall>(
      McpContext{host_, options_.version, started_unix_, open_answers_}, *call, std::move(caller), id);
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

}  // namespace mlxf::server
