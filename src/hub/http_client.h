// HttpClient: GET from one server, over libcurl, with what downloads of many gigabytes need: going on where a
// connection broke, retries with growing pauses, redirects.
//
// The token goes to the endpoint alone (same scheme, host and port), never along with a redirect; a redirect may not
// leave https, carry a user, or lead from a public endpoint to a private address. Proxies as libcurl's environment
// variables say. One thread; `cancelled` is asked several times a second. Sizes are bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "hub/partial_file.h"

struct sockaddr;

namespace mlxf::hub {

// Of this machine or of a private network, whatever notation led there.
[[nodiscard]] bool is_private_address(const sockaddr& address);

class HttpClient {
 public:
  struct Options {
    std::string endpoint;  // "https://huggingface.co"
    std::string token;     // Empty: none.
    std::function<bool()> cancelled;
  };
  // kInvalidArgument for an endpoint or a token that cannot be one.
  [[nodiscard]] static Result<std::unique_ptr<HttpClient>> make(Options options);
  ~HttpClient();

  // `path` begins with a slash and is escaped. kNotFound, kUnavailable (also: not allowed), kCancelled.
  [[nodiscard]] Result<std::string> get(const std::string& path, uint64_t bytes_max);
  // Appends what is missing; `arrived` is called after each piece.
  [[nodiscard]] Status download(const std::string& path, PartialFile& file,
                                const std::function<void()>& arrived);

 private:
  struct Transfer;
  explicit HttpClient(Options options);
  [[nodiscard]] Status follow(Transfer& transfer, const std::string& path);
  void perform(Transfer& transfer, const std::string& url, bool own);
  [[nodiscard]] Result<std::string> checked_redirect(const std::string& url, const std::string& to) const;
  [[nodiscard]] bool is_own(const std::string& url) const;
  [[nodiscard]] Status wait(int attempt, int64_t retry_after_s) const;
  Options options_;
  bool private_endpoint_ = false;  // The endpoint, or the proxy to it, is at a private address itself.
};

}  // namespace mlxf::hub
