// Messages of strangers, over pipes and over HTTP with headers out of the same bytes: none may crash, and whatever goes
// back is one line of JSON.
#include <cstdlib>

#include "mcp/protocol.h"

namespace mlxf::mcp {
namespace {

void check_one(const Outcome& outcome) {
  if (const auto* said = std::get_if<Said>(&outcome)) {
    if (said->message.find('\n') != std::string::npos) std::abort();
    if (!said->message.empty() && !parse_json(said->message)) std::abort();
  }
  if (const auto* call = std::get_if<ToolCall>(&outcome)) {
    if (call->tool == Tool::kGenerate) {
      (void)parse_generate(call->arguments);
    } else {
      (void)check_no_arguments(call->arguments);
    }
    if (tool_answer(*call, "1", json_result(call->arguments)).find('\n') != std::string::npos) std::abort();
    if (!parse_json(progress_message(*call, 1, 2, "x"))) std::abort();
  }
}

void check(const Received& received) {
  if (received.outcomes.empty()) std::abort();
  for (const Outcome& outcome : received.outcomes) check_one(outcome);
}

}  // namespace
}  // namespace mlxf::mcp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  mlxf::mcp::check(mlxf::mcp::receive(text, "1", nullptr));
  mlxf::mcp::HttpHeaders headers;
  if (size % 2 == 1) headers.version = "2026-07-28";
  if (size % 3 == 1) headers.version = std::string(text.substr(0, 10));
  headers.method = "tools/call";
  headers.name = "generate";
  mlxf::mcp::check(mlxf::mcp::receive(text, "1", &headers));
  return 0;
}
