#include "hub/http_client.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

namespace mlxf::hub {
namespace {

constexpr int kRedirectsMax = 5;
constexpr int kAttemptsMax = 6;  // In a row without a byte; pauses of 0.5, 1, 2, 4 and 8 seconds.
constexpr int kRoundsMax = 3;
constexpr int64_t kFirstPauseMs = 500, kPauseMaxS = 60;
constexpr long kConnectSeconds = 20, kStallSeconds = 30;

struct CurlFree {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  void operator()(char* text) const { curl_free(text); }
};
using CurlUrl = std::unique_ptr<CURLU, CurlFree>;

struct Origin {
  std::string scheme, host, port;
  friend bool operator==(const Origin&, const Origin&) = default;
};

std::string part_of(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return {};
  const std::unique_ptr<char, CurlFree> owned(text);
  return text;
}

// Where `url` leads; nothing for what is no plain http or https URL.
std::optional<Origin> origin_of(const std::string& url) {
  const CurlUrl parsed(curl_url());
  if (parsed == nullptr ||
      curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), CURLU_DISALLOW_USER) != CURLUE_OK)
    return std::nullopt;
  Origin origin{part_of(parsed.get(), CURLUPART_SCHEME), part_of(parsed.get(), CURLUPART_HOST),
                part_of(parsed.get(), CURLUPART_PORT)};
  if ((origin.scheme != "https" && origin.scheme != "http") || origin.host.empty()) return std::nullopt;
  return origin;
}

bool is_private_v4(uint32_t address) {
  const auto within = [&](uint32_t network, int bits) {
    return address >> (32 - bits) == network >> (32 - bits);
  };
  return within(0x00000000, 8) || within(0x0a000000, 8) || within(0x7f000000, 8) || within(0x64400000, 10) ||
         within(0xa9fe0000, 16) || within(0xac100000, 12) || within(0xc0a80000, 16) || within(0xe0000000, 3);
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}
bool is_temporary(long status) { return status == 408 || status == 429 || status >= 500; }

// Of "Content-Range: bytes 100-199/200".
std::optional<uint64_t> range_begin(CURL* curl) {
  curl_header* header = nullptr;
  if (curl_easy_header(curl, "Content-Range", 0, CURLH_HEADER, -1, &header) != CURLHE_OK) return std::nullopt;
  const std::string_view value(header->value);
  constexpr std::string_view kUnit = "bytes ";
  if (value.substr(0, kUnit.size()) != kUnit) return std::nullopt;
  uint64_t begin = 0;
  const auto [end, error] = std::from_chars(value.data() + kUnit.size(), value.data() + value.size(), begin);
  if (error != std::errc() || end == value.data() + value.size() || *end != '-') return std::nullopt;
  return begin;
}

Error status_error(long status, const std::string& endpoint, const std::string& path, bool has_token) {
  const std::string what = endpoint + path + ": ";
  if (status == 401)
    return {ErrorCode::kUnavailable,
            what + "not allowed (401): " +
                (has_token ? "the token is not accepted, or there is no such repository"
                           : "there is no such repository, or it needs a token: set HF_TOKEN")};
  if (status == 403)
    return {ErrorCode::kUnavailable, what + "not allowed (403): ask for access on the model's page" +
                                         (has_token ? "" : ", and set HF_TOKEN")};
  if (status == 404)
    return {ErrorCode::kNotFound, what + "not found (404): check the name, and the revision after \"@\""};
  return {ErrorCode::kUnavailable, what + "the server answers with status " + std::to_string(status)};
}

}  // namespace

bool is_private_address(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address, sizeof(v4));
    return is_private_v4(ntohl(v4.sin_addr.s_addr));
  }
  if (address.sa_family != AF_INET6) return true;
  sockaddr_in6 v6{};
  std::memcpy(&v6, &address, sizeof(v6));
  std::array<uint8_t, 16> bytes{};
  std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
  const bool mapped = std::all_of(bytes.begin(), bytes.begin() + 10, [](uint8_t b) { return b == 0; }) &&
                      ((bytes[10] == 0xff && bytes[11] == 0xff) || (bytes[10] == 0 && bytes[11] == 0));
  if (mapped) {  // Also "::" and "::1", as 0.0.0.0 and 0.0.0.1.
    uint32_t v4 = 0;
    std::memcpy(&v4, bytes.data() + 12, sizeof(v4));
    return is_private_v4(ntohl(v4));
  }
  return (bytes[0] & 0xfe) == 0xfc || (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80) || bytes[0] == 0xff;
}

// One request and what became of it.
struct HttpClient::Transfer {
  std::function<uint64_t()> begin;  // Before each request: the byte to go on from.
  std::function<Status()> restart;  // The server begins at 0, whatever was asked.
  std::function<Status(std::span<const uint8_t>)> sink;

  uint64_t offset = 0;  // Of the request under way.
  HttpClient* client = nullptr;
  CURL* curl = nullptr;
  bool own = true;
  bool refused = false;  // A private address.
  bool started = false;  // Something arrived.
  Status failure;        // Of the functions above.
  CURLcode code = CURLE_OK;
  long status = 0;
  int64_t retry_after_s = 0;
  std::string redirect, message;

  static size_t on_bytes(char* bytes, size_t one, size_t count, void* self);
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t);
  static curl_socket_t on_socket(void* self, curlsocktype, curl_sockaddr* address);
};

size_t HttpClient::Transfer::on_bytes(char* bytes, size_t one, size_t count, void* self) {
  auto& transfer = *static_cast<Transfer*>(self);
  const size_t size = one * count;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &transfer.status);
  if (transfer.status != 200 && transfer.status != 206) return size;  // An error's page.
  if (!transfer.started && transfer.offset != 0) {
    const bool fits = transfer.status == 206 && range_begin(transfer.curl) == transfer.offset;
    if (!fits) transfer.failure = transfer.restart();
    if (!transfer.failure || (!fits && transfer.status == 206)) return 0;
  }
  transfer.started = true;
  transfer.failure = transfer.sink({reinterpret_cast<const uint8_t*>(bytes), size});
  return transfer.failure ? size : 0;
}

int HttpClient::Transfer::on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& transfer = *static_cast<Transfer*>(self);
  return transfer.client->options_.cancelled && transfer.client->options_.cancelled() ? 1 : 0;
}

curl_socket_t HttpClient::Transfer::on_socket(void* self, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(self);
  const bool is_private = is_private_address(address->addr);
  if (transfer.own && is_private) transfer.client->private_endpoint_ = true;
  if (!transfer.own && is_private && !transfer.client->private_endpoint_) {
    transfer.refused = true;
    return CURL_SOCKET_BAD;
  }
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

HttpClient::HttpClient(Options options) : options_(std::move(options)) {}
HttpClient::~HttpClient() = default;

Result<std::unique_ptr<HttpClient>> HttpClient::make(Options options) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (started != CURLE_OK) return fail(ErrorCode::kInternal, "libcurl does not start");
  while (!options.endpoint.empty() && options.endpoint.back() == '/') options.endpoint.pop_back();
  if (!origin_of(options.endpoint) || options.endpoint.find_first_of("?# ") != std::string::npos)
    return fail(
        ErrorCode::kInvalidArgument,
        "HF_ENDPOINT is no address that models can be pulled from: it should be like https://huggingface.co");
  for (const char c : options.token)
    if (c <= ' ' || c > '~')
      return fail(ErrorCode::kInvalidArgument, "HF_TOKEN holds a character that no token has");
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(options)));
}

bool HttpClient::is_own(const std::string& url) const {
  return origin_of(url) == origin_of(options_.endpoint);
}

Result<std::string> HttpClient::checked_redirect(const std::string& url, const std::string& to) const {
  const auto from = origin_of(url), origin = origin_of(to);
  if (!origin || (from->scheme == "https" && origin->scheme != "https"))
    return fail(
        ErrorCode::kUnavailable,
        options_.endpoint + " redirects to where nothing may be pulled from (" + to.substr(0, 80) + ")");
  return to;
}

void HttpClient::perform(Transfer& transfer, const std::string& url, bool own) {
  const std::unique_ptr<CURL, CurlFree> curl(curl_easy_init());
  if (curl == nullptr) {
    transfer.code = CURLE_FAILED_INIT;
    return;
  }
  CURL* const handle = curl.get();
  transfer.client = this;
  transfer.curl = handle;
  transfer.own = own;
  transfer.started = false;
  transfer.status = 0;
  transfer.redirect.clear();
  std::array<char, CURL_ERROR_SIZE> message{};
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, message.data());
  curl_easy_setopt(handle, CURLOPT_USERAGENT, "mlx-flash");
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &Transfer::on_bytes);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_OPENSOCKETFUNCTION, &Transfer::on_socket);
  curl_easy_setopt(handle, CURLOPT_OPENSOCKETDATA, &transfer);
  const std::string range = std::to_string(transfer.offset) + "-";
  if (transfer.offset != 0) curl_easy_setopt(handle, CURLOPT_RANGE, range.c_str());
  const std::string bearer = "Authorization: Bearer " + options_.token;
  const std::unique_ptr<curl_slist, CurlFree> headers(
      own && !options_.token.empty() ? curl_slist_append(nullptr, bearer.c_str()) : nullptr);
  if (headers != nullptr) curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
  transfer.code = curl_easy_perform(handle);
  curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &transfer.status);
  curl_off_t retry_after = 0;
  curl_easy_getinfo(handle, CURLINFO_RETRY_AFTER, &retry_after);
  transfer.retry_after_s = std::clamp<int64_t>(retry_after, 0, kPauseMaxS);
  const char* redirect = nullptr;
  curl_easy_getinfo(handle, CURLINFO_REDIRECT_URL, &redirect);
  if (redirect != nullptr && is_redirect(transfer.status)) transfer.redirect = redirect;
  transfer.message = message[0] != '\0' ? message.data() : curl_easy_strerror(transfer.code);
  transfer.curl = nullptr;
}

// Waits for nothing but time, or Ctrl-C.
Status HttpClient::wait(int attempt, int64_t retry_after_s) const {
  const auto pause = std::chrono::milliseconds(
      std::max<int64_t>(kFirstPauseMs << std::min(attempt, 4), retry_after_s * 1000));
  const auto until = std::chrono::steady_clock::now() + pause;
  while (std::chrono::steady_clock::now() < until) {
    if (options_.cancelled && options_.cancelled()) return fail(ErrorCode::kCancelled, "interrupted");
    ::poll(nullptr, 0, 50);
  }
  return {};
}

// Repeats the request until the reply is complete, something cannot be mended, or patience ends; that begins anew
// whenever more has arrived than ever before.
Status HttpClient::follow(Transfer& transfer, const std::string& path) {
  uint64_t most = 0;
  for (int attempt = 0;; ++attempt) {
    std::string url = options_.endpoint + path;
    transfer.offset = transfer.begin();
    if (transfer.offset > most) attempt = 0;
    most = std::max(most, transfer.offset);
    for (int redirects = 0;; ++redirects) {
      perform(transfer, url, is_own(url));
      if (transfer.redirect.empty()) break;
      if (redirects == kRedirectsMax)
        return fail(ErrorCode::kUnavailable, options_.endpoint + path + ": too many redirects");
      ASSIGN_OR_RETURN(url, checked_redirect(url, transfer.redirect));
    }
    RETURN_IF_ERROR(transfer.failure);
    if (transfer.code == CURLE_ABORTED_BY_CALLBACK) return fail(ErrorCode::kCancelled, "interrupted");
    if (transfer.refused)
      return fail(ErrorCode::kUnavailable,
                  options_.endpoint + " redirects to a private address, which is refused");
    if (transfer.code == CURLE_OK && (transfer.status == 200 || transfer.status == 206)) return {};
    if (transfer.code == CURLE_OK && !is_temporary(transfer.status) && transfer.status != 416)
      return tl::unexpected<Error>(
          status_error(transfer.status, options_.endpoint, path, !options_.token.empty()));
    if (transfer.status == 416)
      RETURN_IF_ERROR(transfer.restart());  // What is here is no part of what is there.
    // A certificate that is not trusted will not be so a second later.
    const bool hopeless = transfer.code == CURLE_PEER_FAILED_VERIFICATION ||
                          transfer.code == CURLE_URL_MALFORMAT || transfer.code == CURLE_SSL_CACERT_BADFILE;
    if (hopeless || attempt + 1 == kAttemptsMax) {
      if (transfer.code == CURLE_OK)
        return tl::unexpected<Error>(status_error(transfer.status, options_.endpoint, path, true));
      return fail(ErrorCode::kUnavailable, options_.endpoint + path + ": " + transfer.message);
    }
    RETURN_IF_ERROR(wait(attempt, transfer.retry_after_s));
  }
}

Result<std::string> HttpClient::get(const std::string& path, uint64_t bytes_max) {
  std::string text;
  Transfer transfer;
  transfer.begin = [&] {
    text.clear();
    return uint64_t{0};
  };
  transfer.restart = [] { return Status(); };
  transfer.sink = [&](std::span<const uint8_t> bytes) -> Status {
    if (bytes.size() > bytes_max - text.size())
      return fail(ErrorCode::kCorrupt, options_.endpoint + path + ": the answer is too long");
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  };
  RETURN_IF_ERROR(follow(transfer, path));
  return text;
}

Status HttpClient::download(const std::string& path, PartialFile& file,
                            const std::function<void()>& arrived) {
  Transfer transfer;
  transfer.begin = [&] { return file.size(); };
  transfer.restart = [&] { return file.restart(); };
  transfer.sink = [&](std::span<const uint8_t> bytes) -> Status {
    RETURN_IF_ERROR(file.append(bytes));
    arrived();
    return {};
  };
  // A reply may be complete and yet too short; what then is still missing is asked for.
  for (int rounds = 0; file.size() < file.wanted(); ++rounds) {
    if (rounds == kRoundsMax)
      return fail(ErrorCode::kCorrupt, options_.endpoint + path + ": the server sends only " +
                                           std::to_string(file.size()) + " of " +
                                           std::to_string(file.wanted()) + " bytes");
    RETURN_IF_ERROR(follow(transfer, path));
  }
  return {};
}

}  // namespace mlxf::hub
