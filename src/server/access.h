// Who may ask: Host and Origin against other web pages, API keys against everybody else.
//
// A page in the user's browser can reach a server on the loopback interface. It cannot choose its Origin, and under a
// name of its own that resolves to 127.0.0.1 (DNS rebinding) it sends that name as Host; so both must be ours. Keys are
// compared in time that does not depend on them and never appear in messages. Immutable after start; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/errors.h"
#include "base/result.h"
#include "http/message.h"

namespace mlxf::server {

struct AccessRules {
  std::vector<std::string> keys;  // Empty: no key is needed.
  // The server listens beyond the loopback interface: any Host is fine then, since a key guards it.
  bool any_host = false;
  std::vector<std::string> origins;  // Of pages that may ask too, as read_origin() gives them.
};

// The value of --allow-origin: scheme://host[:port], or what every page can be, "null" (pages from files
// too) and "*", which check_rules() takes with a key alone.
[[nodiscard]] Result<std::string> read_origin(std::string_view text);
[[nodiscard]] Status check_rules(const AccessRules& rules);

// One key per line; blank lines and lines that begin with '#' are left out.
[[nodiscard]] Result<std::vector<std::string>> parse_keys(std::string_view text);

// True for names and addresses of the loopback interface: "localhost", "127.0.0.1", "::1" and their like.
[[nodiscard]] bool is_loopback_host(std::string_view host);

// kForbidden for a foreign Host or Origin.
[[nodiscard]] std::optional<api::ApiError> check_origin(const http::Request& request,
                                                        const AccessRules& rules);
// Whether the request comes from a page of another origin that may ask.
[[nodiscard]] bool is_allowed_page(const http::Request& request, const AccessRules& rules);
// For such a page, what lets its browser show it the answer (Fetch standard, section 3.2); else nothing.
void add_cors_headers(const http::Request& request, const AccessRules& rules,
                      std::vector<http::Header>& headers);
// A browser's question before a request (OPTIONS with Access-Control-Request-Method), which never carries a key.
[[nodiscard]] bool is_preflight(const http::Request& request, const AccessRules& rules);
// Its answer for a path that takes `methods`.
[[nodiscard]] http::Response preflight_response(const http::Request& request, std::string_view methods);
// Who may change what is served or end the server: whoever has a key; without keys, who asks from this machine and
// is no page of another origin.
// kForbidden else. The key itself is check_key()'s.
[[nodiscard]] std::optional<api::ApiError> check_admin(const http::Request& request,
                                                       const AccessRules& rules);
// The name of whoever gives rules.keys[index].
[[nodiscard]] std::string user_of_key(size_t index);
// kUnauthorized without a right key; `user` receives the name for the key that was given, or stays empty without keys.
[[nodiscard]] std::optional<api::ApiError> check_key(const http::Request& request, const AccessRules& rules,
                                                     std::string& user);

}  // namespace mlxf::server
