// What goes wrong, as clients see it: one table of kinds with their code, HTTP status and names in each protocol.
//
// Pure functions and values; any thread. Every error that leaves the server passes through here, so that the same cause
// has the same name everywhere, whether it is a response or an event in a stream.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace mlxf::api {

enum class ErrorKind : uint8_t {
  kInvalidRequest,
  kUnsupported,  // A known option that nothing here can honour.
  kContextLength,
  kUnauthorized,
  kForbidden,  // A foreign Host or Origin.
  kNotFound,
  kModelNotFound,
  kMethodNotAllowed,
  kTooSlow,
  kTooLarge,
  kUnsupportedMediaType,
  kQueueFull,
  kModelLoading,
  kModelIo,
  kModelChanged,
  kModelCorrupt,
  kOutOfMemory,
  kDraining,
  kInternal,
};

struct ApiError {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
  std::string param = {};  // The field that is to blame.
};

struct ErrorRow {
  ErrorKind kind;
  std::string_view code;
  int status;
  std::string_view openai_type;
  std::string_view anthropic_type;
  bool retry;  // The same request may succeed a little later.
};
[[nodiscard]] const ErrorRow& row_of(ErrorKind kind);
// The kind for a request that was refused before it reached a route.
[[nodiscard]] ErrorKind kind_of_status(int status);

// What an engine's error means to a client.
[[nodiscard]] ApiError from_engine(const Error& error);
// A request that was refused by check_request() or by what reads it: always the client's to mend.
[[nodiscard]] ApiError from_request(const Error& error);

enum class Protocol : uint8_t { kOpenAi, kAnthropic, kOllama };
// The body that the protocol gives an error.
[[nodiscard]] std::string error_body(Protocol protocol, const ApiError& error, const std::string& request_id);

}  // namespace mlxf::api
