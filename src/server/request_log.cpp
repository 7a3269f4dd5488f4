#include "server/request_log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "api/reply.h"

namespace mlxf::server {
namespace {

constexpr size_t kRecent = 100;
constexpr size_t kShownPathMax = 512;

std::string timestamp(int64_t unix_ms) {
  std::string text = api::time_text(unix_ms / 1000);  // Ends in Z.
  char fraction[8];
  std::snprintf(fraction, sizeof fraction, ".%03dZ", static_cast<int>(unix_ms % 1000));
  text.pop_back();
  return text + fraction;
}

// Without what could end a line or a field, or move a terminal's cursor: the path is decoded, and in UTF-8 such
// characters have many bytes.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kShownPathMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7f && c != '\\') {
      out += c;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
    out += escaped;
  }
  if (text.size() > kShownPathMax) out += "...";
  return out;
}

std::string_view level_of(const http::Outcome& outcome) {
  if (outcome.status >= 500) return "error";
  return outcome.status >= 400 || !outcome.complete ? "warning" : "info";
}

std::string request_id(const http::Outcome& outcome) {
  for (const http::Header& header : outcome.headers)
    if (http::same_name(header.name, "x-request-id")) return header.value;
  return "-";
}

double milliseconds(const http::Outcome& outcome) {
  return static_cast<double>(outcome.took.count()) / 1000.0;
}

// What a person reads first: "POST /v1/completions 200".
std::string message(const http::Request& request, const http::Outcome& outcome) {
  std::string text = request.method.empty() ? "?" : shown(request.method);
  text += ' ';
  text += shown(request.path);
  text += ' ';
  text += outcome.status == 0 ? "unanswered" : std::to_string(outcome.status);
  if (!outcome.complete) text += " (not taken whole)";
  return text;
}

}  // namespace

Json log_entry(const http::Request& request, const http::Outcome& outcome, int64_t unix_ms) {
  Json entry = {{"timestamp", timestamp(unix_ms)},
                {"level", level_of(outcome)},
                {"component", "http"},
                {"message", message(request, outcome)},
                {"request_id", request_id(outcome)},
                {"peer", request.peer},
                {"method", shown(request.method)},
                {"path", shown(request.path)},
                {"status", outcome.status},
                {"complete", outcome.complete},
                {"bytes", outcome.bytes},
                {"duration_ms", milliseconds(outcome)}};
  for (const auto& [name, value] : outcome.notes) entry[name] = value;
  return entry;
}

std::string log_text(const http::Request& request, const http::Outcome& outcome, int64_t unix_ms) {
  char took[32];
  std::snprintf(took, sizeof took, "%.1f ms", milliseconds(outcome));
  std::string line = timestamp(unix_ms);
  line.append(" ").append(level_of(outcome));
  line.append(" ").append(request_id(outcome));
  line.append(" ").append(request.peer.empty() ? "-" : request.peer);
  line.append(" ").append(message(request, outcome));
  line.append(" ").append(took);
  for (const auto& [name, value] : outcome.notes) {
    line += ' ';
    line += name;
    line += '=';
    line += std::to_string(value);
  }
  return line;
}

Result<std::unique_ptr<RequestLog>> RequestLog::open(const RequestLogOptions& options) {
  std::unique_ptr<RequestLog> log(new RequestLog(options));
  if (!options.file.empty()) {
    log->file_.reset(std::fopen(options.file.c_str(), "ae"));
    if (log->file_ == nullptr) return fail(ErrorCode::kIo, options.file + ": " + std::strerror(errno));
    std::setvbuf(log->file_.get(), nullptr, _IONBF, 0);
  }
  return log;
}

void RequestLog::add(const http::Request& request, const http::Outcome& outcome, int64_t unix_ms) {
  Json entry = log_entry(request, outcome, unix_ms);
  if (options_.to_stderr || file_ != nullptr)
    write_line(
        (options_.format == LogFormat::kJson ? dump_json(entry) : log_text(request, outcome, unix_ms)) +
        "\n");
  const MutexLock lock(mutex_);
  recent_.push_front(std::move(entry));
  if (recent_.size() > kRecent) recent_.pop_back();
}

void RequestLog::write_line(const std::string& line) {
  if (options_.to_stderr) std::fputs(line.c_str(), stderr);
  if (file_ == nullptr || std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size()) return;
  if (!failed_.exchange(true, std::memory_order_relaxed))
    std::fprintf(stderr, "mlx-flash: cannot write to the log %s: %s\n", options_.file.c_str(),
                 std::strerror(errno));
}

Json RequestLog::recent() const {
  const MutexLock lock(mutex_);
  Json entries = Json::array();
  for (const Json& entry : recent_) entries.push_back(entry);
  return entries;
}

}  // namespace mlxf::server
