#include "api/errors.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"
#include "base/json.h"

namespace mlxf::api {
namespace {

constexpr std::string_view kInvalid = "invalid_request_error";
constexpr ErrorRow kRows[] = {
    {ErrorKind::kInvalidRequest, "invalid_request", 400, kInvalid, kInvalid, false},
    {ErrorKind::kUnsupported, "unsupported", 400, kInvalid, kInvalid, false},
    {ErrorKind::kContextLength, "context_length_exceeded", 400, kInvalid, kInvalid, false},
    {ErrorKind::kUnauthorized, "unauthorized", 401, "authentication_error", "authentication_error", false},
    {ErrorKind::kForbidden, "forbidden_origin", 403, "permission_error", "permission_error", false},
    {ErrorKind::kNotFound, "not_found", 404, "not_found_error", "not_found_error", false},
    {ErrorKind::kModelNotFound, "model_not_found", 404, "not_found_error", "not_found_error", false},
    {ErrorKind::kMethodNotAllowed, "method_not_allowed", 405, kInvalid, kInvalid, false},
    {ErrorKind::kTooSlow, "request_timeout", 408, kInvalid, "timeout_error", true},
    {ErrorKind::kTooLarge, "request_too_large", 413, kInvalid, "request_too_large", false},
    {ErrorKind::kUnsupportedMediaType, "unsupported_media_type", 415, kInvalid, kInvalid, false},
    {ErrorKind::kQueueFull, "queue_full", 503, "server_error", "overloaded_error", true},
    {ErrorKind::kModelLoading, "model_loading", 503, "server_error", "overloaded_error", true},
    {ErrorKind::kModelIo, "model_io_error", 503, "server_error", "api_error", false},
    {ErrorKind::kModelChanged, "model_changed", 503, "server_error", "api_error", false},
    {ErrorKind::kModelCorrupt, "model_corrupt", 500, "server_error", "api_error", false},
    {ErrorKind::kOutOfMemory, "out_of_memory", 503, "server_error", "api_error", false},
    {ErrorKind::kDraining, "draining", 503, "server_error", "overloaded_error", true},
    {ErrorKind::kInternal, "internal_error", 500, "server_error", "api_error", false},
};

}  // namespace

const ErrorRow& row_of(ErrorKind kind) {
  const auto row =
      std::find_if(std::begin(kRows), std::end(kRows), [kind](const ErrorRow& r) { return r.kind == kind; });
  CHECK(row != std::end(kRows));
  return *row;
}

ErrorKind kind_of_status(int status) {
  const auto row = std::find_if(std::begin(kRows), std::end(kRows),
                                [status](const ErrorRow& r) { return r.status == status; });
  if (row != std::end(kRows)) return row->kind;
  if (status == 414 || status == 431) return ErrorKind::kTooLarge;
  return status < 500 ? ErrorKind::kInvalidRequest : ErrorKind::kInternal;
}

ApiError from_engine(const Error& error) {
  switch (error.code) {
    case ErrorCode::kIo:
      return {ErrorKind::kModelIo, error.message};
    case ErrorCode::kChanged:
      return {ErrorKind::kModelChanged, error.message};
    case ErrorCode::kCorrupt:
      return {ErrorKind::kModelCorrupt, error.message};
    case ErrorCode::kOutOfBudget:
      return {ErrorKind::kOutOfMemory, error.message};
    case ErrorCode::kUnavailable:
      return {ErrorKind::kDraining, error.message};
    case ErrorCode::kInvalidArgument:
      return {ErrorKind::kInvalidRequest, error.message};
    case ErrorCode::kUnsupported:
      return {ErrorKind::kUnsupported, error.message};
    case ErrorCode::kNotFound:
    case ErrorCode::kCancelled:
    case ErrorCode::kDeadline:
    case ErrorCode::kInternal:
      break;
  }
  return {ErrorKind::kInternal, error.message};
}

ApiError from_request(const Error& error) { return {ErrorKind::kInvalidRequest, error.message}; }

std::string error_body(Protocol protocol, const ApiError& error, const std::string& request_id) {
  const ErrorRow& row = row_of(error.kind);
  switch (protocol) {
    case Protocol::kOpenAi:
      return dump_json({{"error",
                         {{"message", error.message},
                          {"type", row.openai_type},
                          {"param", error.param.empty() ? Json(nullptr) : Json(error.param)},
                          {"code", row.code}}}});
    case Protocol::kAnthropic:
      return dump_json({{"type", "error"},
                        {"error", {{"type", row.anthropic_type}, {"message", error.message}}},
                        {"request_id", request_id}});
    case Protocol::kOllama:
      return dump_json({{"error", error.message}});
  }
  return {};
}

}  // namespace mlxf::api
