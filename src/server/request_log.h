// RequestLog: one entry per HTTP request, in text or JSON lines to stderr and a file, the newest ones kept for
// /logs/recent.
//
// An entry says when, who, what, with which outcome; never a query, a header's value, a key or a body. Control
// characters are escaped, so that no client can forge a line. Owned by the App; thread-safe. A line goes out in one
// write, so lines of several processes in one file stay whole; when the file cannot be written, that is said once on
// stderr and serving goes on.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/mutex.h"
#include "base/result.h"
#include "http/server.h"

namespace mlxf::server {

enum class LogFormat : uint8_t { kText, kJson };

struct RequestLogOptions {
  bool to_stderr = false;
  std::string file = {};  // Appended to; empty: none.
  LogFormat format = LogFormat::kText;
};

class RequestLog {
 public:
  // kIo where the file cannot be opened.
  [[nodiscard]] static Result<std::unique_ptr<RequestLog>> open(const RequestLogOptions& options);

  // `unix_ms`: now, in milliseconds since 1970.
  void add(const http::Request& request, const http::Outcome& outcome, int64_t unix_ms);
  // The newest entries, newest first: an array of objects.
  [[nodiscard]] Json recent() const;

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit RequestLog(const RequestLogOptions& options) : options_(options) {}
  void write_line(const std::string& line);

  const RequestLogOptions options_;
  std::unique_ptr<std::FILE, Closer> file_;  // Unbuffered: a line is one write.
  std::atomic<bool> failed_{false};          // Said once; relaxed.
  mutable Mutex mutex_;
  std::deque<Json> recent_ MLXF_GUARDED_BY(mutex_);
};

// The entry as an object: timestamp, level, component, message, request_id, peer, method, path, status, complete,
// bytes, duration_ms, and the exchange's notes.
[[nodiscard]] Json log_entry(const http::Request& request, const http::Outcome& outcome, int64_t unix_ms);
// "2026-11-24T15:14:17.042Z info 1a2b 127.0.0.1 POST /v1/completions 200 12 ms generated_tokens=2"
[[nodiscard]] std::string log_text(const http::Request& request, const http::Outcome& outcome,
                                   int64_t unix_ms);

}  // namespace mlxf::server
