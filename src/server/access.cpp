#include "server/access.h"

#include <algorithm>
#include <utility>

namespace mlxf::server {
namespace {

using api::ApiError;
using api::ErrorKind;

// "localhost:8080" and "[::1]:8080" without the port.
std::string_view without_port(std::string_view host) {
  if (!host.empty() && host.front() == '[') {
    const size_t end = host.find(']');
    return end == std::string_view::npos ? host : host.substr(1, end - 1);
  }
  const size_t colon = host.find(':');
  return host.substr(0, colon);
}

// Takes the time of the longer text, wherever they differ.
bool same_secret(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < std::max(given.size(), key.size()); ++i) {
    const auto a = static_cast<unsigned char>(given.empty() ? 0 : given[i % given.size()]);
    const auto b = static_cast<unsigned char>(key[i % key.size()]);
    difference |= static_cast<unsigned>(a ^ b);
  }
  return difference == 0;
}

bool is_own_page(const std::string& origin, const std::string& host) {
  return origin == "http://" + host || origin == "https://" + host;
}

}  // namespace

Result<std::vector<std::string>> parse_keys(std::string_view text) {
  std::vector<std::string> keys;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 1));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
      line.remove_suffix(1);
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    if (line.empty() || line.front() == '#') continue;
    if (!std::all_of(line.begin(), line.end(), [](char c) { return c > 0x20 && c < 0x7f; }))
      return fail(ErrorCode::kInvalidArgument, "an API key has blanks or characters beyond ASCII");
    if (line.size() < 8) return fail(ErrorCode::kInvalidArgument, "an API key is shorter than 8 characters");
    keys.emplace_back(line);
  }
  return keys;
}

bool is_loopback_host(std::string_view host) {
  if (host == "::1" || http::same_name(host, "localhost")) return true;
  // 127.0.0.0/8, written with four numbers.
  if (host.substr(0, 4) != "127.") return false;
  int dots = 0, digits = 0;
  for (const char c : host) {
    if (c == '.') {
      if (digits == 0) return false;
      ++dots;
      digits = 0;
    } else if (c < '0' || c > '9' || ++digits > 3) {
      return false;
    }
  }
  return dots == 3 && digits > 0;
}

std::optional<ApiError> check_origin(const http::Request& request, const AccessRules& rules) {
  const std::string* host = request.find_header("host");  // The parser saw to it that there is one.
  if (host == nullptr || (!rules.any_host && !is_loopback_host(without_port(*host))))
    return ApiError{
        ErrorKind::kForbidden,
        "the Host header must be localhost or a loopback address: this server listens there alone"};
  const std::string* origin = request.find_header("origin");
  if (origin == nullptr) return std::nullopt;
  if (is_own_page(*origin, *host) || is_allowed_page(request, rules)) return std::nullopt;
  return ApiError{ErrorKind::kForbidden,
                  "requests from pages of other origins are not taken unless --allow-origin names them"};
}

Result<std::string> read_origin(std::string_view text) {
  std::string origin(text);
  std::transform(origin.begin(), origin.end(), origin.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  if (origin == "*" || origin == "null") return origin;
  const size_t scheme = origin.find("://");
  const std::string_view rest = scheme == std::string::npos || scheme == 0
                                    ? std::string_view()
                                    : std::string_view(origin).substr(scheme + 3);
  const bool clean = std::all_of(origin.begin(), origin.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (rest.empty() || !clean || rest.find_first_of("/?#@*\\") != std::string_view::npos)
    return fail(ErrorCode::kInvalidArgument,
                "'" + std::string(text) +
                    "' is no origin: give scheme://host or scheme://host:port without a path, null or *");
  // Browsers leave out the port that the scheme implies.
  for (const auto& [begin, port] : {std::pair("http://", ":80"), std::pair("https://", ":443")})
    if (origin.starts_with(begin) && origin.ends_with(port))
      origin.erase(origin.size() - std::string_view(port).size());
  return origin;
}

Status check_rules(const AccessRules& rules) {
  // Any page can make itself a frame whose origin is null.
  for (const std::string& origin : rules.origins)
    if (rules.keys.empty() && (origin == "*" || origin == "null"))
      return fail(ErrorCode::kInvalidArgument,
                  "--allow-origin " + origin +
                      " lets every web page in, so it needs an API key: give --api-key-file FILE or set "
                      "MLX_FLASH_API_KEY, or name the origins");
  return {};
}

bool is_allowed_page(const http::Request& request, const AccessRules& rules) {
  const std::string* origin = request.find_header("origin");
  return origin != nullptr &&
         std::any_of(rules.origins.begin(), rules.origins.end(),
                     [&](const std::string& o) { return o == "*" || http::same_name(o, *origin); });
}

void add_cors_headers(const http::Request& request, const AccessRules& rules,
                      std::vector<http::Header>& headers) {
  if (rules.origins.empty()) return;
  headers.push_back({"Vary", "Origin"});
  if (!is_allowed_page(request, rules)) return;
  headers.push_back({"Access-Control-Allow-Origin", *request.find_header("origin")});
  headers.push_back(
      {"Access-Control-Expose-Headers", "X-Request-Id, Request-Id, Retry-After, Mcp-Session-Id"});
}

bool is_preflight(const http::Request& request, const AccessRules& rules) {
  return request.method == "OPTIONS" && request.find_header("access-control-request-method") != nullptr &&
         is_allowed_page(request, rules);
}

http::Response preflight_response(const http::Request& request, std::string_view methods) {
  http::Response response{204, "", "", {{"Access-Control-Allow-Methods", std::string(methods)}}, false};
  // By name, as asked for: "*" would not cover Authorization.
  if (const std::string* names = request.find_header("access-control-request-headers"))
    response.headers.push_back({"Access-Control-Allow-Headers", *names});
  if (request.find_header("access-control-request-private-network") != nullptr)
    response.headers.push_back({"Access-Control-Allow-Private-Network", "true"});
  response.headers.push_back({"Access-Control-Max-Age", "600"});
  return response;
}

std::optional<ApiError> check_admin(const http::Request& request, const AccessRules& rules) {
  const bool from_here = is_loopback_host(request.peer) && !is_allowed_page(request, rules);
  if (!rules.keys.empty() || from_here) return std::nullopt;
  return ApiError{
      ErrorKind::kForbidden,
      "without an API key (--api-key-file) only programs of this machine itself, no web pages of other "
      "origins, may change what is served"};
}

std::string user_of_key(size_t index) { return "key " + std::to_string(index + 1); }

std::optional<ApiError> check_key(const http::Request& request, const AccessRules& rules, std::string& user) {
  user.clear();
  if (rules.keys.empty()) return std::nullopt;
  std::vector<std::string_view> given;
  for (const http::Header& header : request.headers) {
    const std::string_view value(header.value);
    if (http::same_name(header.name, "x-api-key")) given.push_back(value);
    if (http::same_name(header.name, "authorization")) {
      const size_t blank = value.find(' ');
      if (blank == std::string_view::npos || !http::same_name(value.substr(0, blank), "bearer"))
        return ApiError{ErrorKind::kUnauthorized, "the Authorization header must be: Bearer KEY"};
      given.push_back(value.substr(blank + 1));
    }
  }
  if (given.empty())
    return ApiError{ErrorKind::kUnauthorized,
                    "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"};
  for (const std::string_view key : given)
    if (key != given.front())
      return ApiError{ErrorKind::kUnauthorized, "Authorization and x-api-key give different keys"};
  for (size_t i = 0; i < rules.keys.size(); ++i)
    if (same_secret(given.front(), rules.keys[i])) user = user_of_key(i);
  if (user.empty()) return ApiError{ErrorKind::kUnauthorized, "the API key is not known"};
  return std::nullopt;
}

}  // namespace mlxf::server
