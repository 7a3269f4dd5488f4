// Result<T>: a value or an Error, returned by every function that can fail for a reason outside our control.
//
// We never throw. Library exceptions are caught in the adapter that calls the library. An Error names what
// failed, where (file, tensor, byte offset, flag) and, where there is one, the remedy; context is added once,
// where the knowledge is gained.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace mlxf {

enum class ErrorCode {
  kInvalidArgument,  // The caller asked for something that makes no sense: a flag, a request field.
  kNotFound,         // A file, model or tensor does not exist.
  kCorrupt,          // A file contradicts itself or its format.
  kUnsupported,      // Well-formed, but nothing here can do it.
  kIo,               // The operating system failed a read or write.
  kChanged,          // A file was replaced, truncated or written to while it was in use.
  kOutOfBudget,      // Needs more memory than it was given.
  kCancelled,
  kDeadline,
  kUnavailable,
  kInternal,
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  // Returns this error with `context` in front: "context: message".
  [[nodiscard]] Error within(const std::string& context) const { return {code, context + ": " + message}; }
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

[[nodiscard]] inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

// The process exit code of a failed command: 2 for wrong usage, 1 for everything else.
[[nodiscard]] inline int exit_code(const Error& error) {
  return error.code == ErrorCode::kInvalidArgument ? 2 : 1;
}

}  // namespace mlxf

#define MLXF_CONCAT_INNER(a, b) a##b
#define MLXF_CONCAT(a, b) MLXF_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                           \
  do {                                                                        \
    if (auto mlxf_status = (expression); !mlxf_status)                        \
      return ::tl::unexpected<::mlxf::Error>(std::move(mlxf_status).error()); \
  } while (false)

#define ASSIGN_OR_RETURN(declaration, expression)                                                   \
  auto MLXF_CONCAT(mlxf_result_, __LINE__) = (expression);                                          \
  if (!MLXF_CONCAT(mlxf_result_, __LINE__))                                                         \
    return ::tl::unexpected<::mlxf::Error>(std::move(MLXF_CONCAT(mlxf_result_, __LINE__)).error()); \
  declaration = std::move(*MLXF_CONCAT(mlxf_result_, __LINE__))
