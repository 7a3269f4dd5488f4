// Request and Response: plain values of an HTTP exchange, the same for every connection.
//
// Values; no thread owns them. Sizes are bytes. Header names compare without regard to case.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mlxf::http {

struct Header {
  std::string name;
  std::string value;
};

// Whether two header names, or tokens that compare like them, are the same.
[[nodiscard]] bool same_name(std::string_view a, std::string_view b);

struct Request {
  std::string method;
  std::string path;       // Percent-decoded; begins with '/'.
  std::string query;      // Behind '?', as it was sent.
  int minor_version = 1;  // HTTP/1.x
  std::vector<Header> headers;
  std::string body;
  std::string peer;  // The client's address, without its port.

  // The first header of that name, or null.
  [[nodiscard]] const std::string* find_header(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type = {};  // Empty: no body.
  std::string body = {};
  std::vector<Header> headers = {};
  bool close = false;  // Ends the connection.
};

[[nodiscard]] std::string_view reason_of(int status);

}  // namespace mlxf::http
