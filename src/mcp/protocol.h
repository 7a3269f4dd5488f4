// The Model Context Protocol: one message from a client to what is to be done about it, and results to messages.
//
// Two eras on one server (modelcontextprotocol.io, revisions 2026-07-28 and 2024-11-05 to 2025-11-25). In the modern
// one each request stands alone: its _meta names the version and over HTTP its headers repeat what a proxy needs to
// know; in the older ones a client initializes first. A request says itself which it belongs to, so nothing is
// remembered between messages. This server offers tools alone: no resources, prompts, sampling or subscriptions, and it
// never asks its client anything. Batches are those of revision 2025-03-26, which alone has them.
//
// Pure translation of values, without sockets or files; any thread. What is no message becomes a JSON-RPC error.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "mcp/tools.h"

namespace mlxf::mcp {

inline constexpr uint64_t kMessageBytesMax = uint64_t{32} << 20;

// JSON-RPC's codes, and the protocol's own.
inline constexpr int kParseError = -32700;
inline constexpr int kInvalidRequest = -32600;
inline constexpr int kMethodNotFound = -32601;
inline constexpr int kInvalidParams = -32602;
inline constexpr int kHeaderMismatch = -32020;
inline constexpr int kUnsupportedVersion = -32022;

// What an HTTP request said beside its body. A header that came twice counts as "duplicate", which equals nothing.
struct HttpHeaders {
  std::optional<std::string> version, method, name;  // MCP-Protocol-Version, Mcp-Method, Mcp-Name
};

// A tool that is to be run: answer with tool_answer(), or not at all once it was cancelled.
struct ToolCall {
  Json id;  // A string or a number.
  Tool tool = Tool::kGetStatus;
  Json arguments = Json::object();
  Json progress_token = nullptr;  // Null: nobody asked for progress.
  bool modern = false;
};
// The request of this id is no longer wanted.
struct Cancel {
  Json id;
};
// A message that is the whole answer; empty: there is none, as for notifications (HTTP: 202).
struct Said {
  std::string message;
  int http_status = 200;
};
using Outcome = std::variant<Said, ToolCall, Cancel>;

struct Received {
  std::vector<Outcome> outcomes;  // Of a message each; of a batch, in its order. Never empty.
  bool batch = false;             // BatchAnswer answers it.
};

// One line, or one request's body. `version` is this program's. `http` is null where messages come over pipes.
[[nodiscard]] Received receive(std::string_view text, const std::string& version, const HttpHeaders* http);

// The one message that answers a batch, once each of its messages was heard of.
class BatchAnswer {
 public:
  explicit BatchAnswer(size_t messages) : waiting_(messages) {}
  // The answer to one of them; empty: it gets none.
  void add(const std::string& message);
  [[nodiscard]] bool done() const { return waiting_ == 0; }
  // Empty: nothing is to be said. REQUIRES: done().
  [[nodiscard]] std::string message() const { return answers_.empty() ? "" : "[" + answers_ + "]"; }

 private:
  size_t waiting_;
  std::string answers_;
};

// The error for bytes that are not even a message.
[[nodiscard]] std::string parse_error(const std::string& why);

[[nodiscard]] std::string tool_answer(const ToolCall& call, const std::string& version,
                                      const ToolResult& result);
// `total` 0: not known.
[[nodiscard]] std::string progress_message(const ToolCall& call, uint64_t progress, uint64_t total,
                                           const std::string& text);

}  // namespace mlxf::mcp
