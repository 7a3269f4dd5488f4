#include "api/reply.h"

#include <ctime>

#include "text/utf8.h"

namespace mlxf::api {

std::string sse_data(std::string_view data) { return "data: " + std::string(data) + "\n\n"; }

std::string sse_event(std::string_view name, std::string_view data) {
  return "event: " + std::string(name) + "\n" + sse_data(data);
}

std::string_view stream_type(Protocol protocol) {
  return protocol == Protocol::kOllama ? "application/x-ndjson" : "text/event-stream";
}

std::string stream_error(Protocol protocol, const ApiError& error, const std::string& request_id) {
  const std::string body = error_body(protocol, error, request_id);
  switch (protocol) {
    case Protocol::kOpenAi:
      return sse_data(body);
    case Protocol::kAnthropic:
      return sse_event("error", body);
    case Protocol::kOllama:
      return body + "\n";
  }
  return {};
}

std::string stream_warnings(const Endpoint& endpoint, const Call& call, StreamState& stream,
                            const std::vector<std::string>& warnings) {
  if (endpoint.protocol == Protocol::kOllama) {
    Json line = parse_json(endpoint.heartbeat(call, stream)).value_or(Json::object());
    line["warnings"] = warnings;
    return dump_json(line) + "\n";
  }
  std::string out;
  for (const std::string& warning : warnings) out.append(": warning: ").append(warning).append("\n");
  return out + "\n";
}

std::string time_text(int64_t unix_seconds) {
  const std::time_t time = unix_seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string shown_token(const text::Tokenizer& tokenizer, TokenId id) {
  text::Utf8Repair repair;
  std::string out;
  repair.append(tokenizer.token_bytes(id), out);
  repair.finish(out);
  return out;
}

}  // namespace mlxf::api
