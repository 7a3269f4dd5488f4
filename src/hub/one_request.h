// One HTTP request to a server that the user named, such as this program's own, over libcurl.
//
// No retries, redirects or proxies: the answer is what that server says, or why there is none. The answer's length and
// the wait for it are bounded. Stateless; any thread, which it blocks.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace mlxf::hub {

struct OneRequest {
  enum class Method : uint8_t { kGet, kPost } method = Method::kGet;
  std::string url;
  std::string bearer = {};  // A key; empty: none.
  std::string body = {};    // JSON, of kPost.
  std::chrono::milliseconds wait{30'000};
};
struct OneReply {
  long status = 0;
  std::string body;
};

// kInvalidArgument for what is no http or https address, else kUnavailable.
[[nodiscard]] Result<OneReply> request_once(const OneRequest& request);

}  // namespace mlxf::hub
