#include "hub/one_request.h"

#include <curl/curl.h>

#include <memory>

namespace mlxf::hub {
namespace {

constexpr size_t kReplyBytesMax = size_t{16} << 20;
constexpr long kConnectMs = 5'000;

struct CurlFree {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Headers = std::unique_ptr<curl_slist, CurlFree>;

size_t on_bytes(char* bytes, size_t one, size_t count, void* into) {
  auto& body = *static_cast<std::string*>(into);
  const size_t size = one * count;
  if (size > kReplyBytesMax - body.size()) return 0;
  body.append(bytes, size);
  return size;
}

void add(Headers& headers, const std::string& line) {
  curl_slist* longer = curl_slist_append(headers.get(), line.c_str());
  if (longer == nullptr) return;
  (void)headers.release();
  headers.reset(longer);
}

}  // namespace

Result<OneReply> request_once(const OneRequest& request) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, CurlFree> curl(started == CURLE_OK ? curl_easy_init() : nullptr);
  if (curl == nullptr) return fail(ErrorCode::kInternal, "libcurl does not start");
  CURL* const handle = curl.get();
  OneReply reply;
  Headers headers;
  if (!request.bearer.empty()) add(headers, "Authorization: Bearer " + request.bearer);
  if (request.method == OneRequest::Method::kPost) {
    add(headers, "Content-Type: application/json");
    curl_easy_setopt(handle, CURLOPT_POST, 1L);
    curl_easy_setopt(handle, CURLOPT_POSTFIELDS, request.body.c_str());
    curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  curl_easy_setopt(handle, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_PROXY, "");
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_USERAGENT, "mlx-flash");
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS, kConnectMs);
  curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, static_cast<long>(request.wait.count()));
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &on_bytes);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &reply.body);
  if (headers != nullptr) curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
  const CURLcode code = curl_easy_perform(handle);
  if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL)
    return fail(ErrorCode::kInvalidArgument, request.url + " is no http address");
  if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
    return fail(ErrorCode::kUnavailable, "nobody answers at " + request.url);
  if (code != CURLE_OK) return fail(ErrorCode::kUnavailable, request.url + ": " + curl_easy_strerror(code));
  curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &reply.status);
  return reply;
}

}  // namespace mlxf::hub
