#include "http/head.h"

#include <algorithm>
#include <cstring>

namespace mlxf::http {
namespace {

constexpr size_t kMethodBytesMax = 20;
constexpr size_t kChunkLineBytesMax = 256;
constexpr size_t kTrailersMax = 32;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// RFC 9110, section 5.6.2.
bool is_token_char(char c) {
  return is_digit(c) || is_alpha(c) || (c != '\0' && std::strchr("!#$%&'*+-.^_`|~", c) != nullptr);
}
bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}
// Visible characters, blanks, and bytes of other encodings.
bool is_field_char(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }
bool is_target_char(char c) { return c > 0x20 && c < 0x7f; }

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

Refusal bad(std::string message) { return {400, std::move(message)}; }

std::optional<Refusal> parse_request_line(std::string_view line, const HeadLimits& limits, Head& head) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last)
    return bad("the request line is not METHOD TARGET HTTP/1.1");
  const std::string_view method = line.substr(0, first), version = line.substr(last + 1);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  if (!is_token(method) || method.size() > kMethodBytesMax) return bad("the method is not a token");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    const bool other = version.size() == 8 && version.substr(0, 5) == "HTTP/" && is_digit(version[5]) &&
                       version[6] == '.' && is_digit(version[7]);
    return other ? Refusal{505, "this server speaks HTTP/1.1"} : bad("the request line has no HTTP version");
  }
  if (target.size() > limits.target_bytes) return Refusal{414, "the request target is too long"};
  if (!std::all_of(target.begin(), target.end(), is_target_char))
    return bad("the request target has characters that must be percent-encoded");
  head.request.method = method;
  head.request.minor_version = version.back() - '0';
  if (target == "*" && method == "OPTIONS") {
    head.request.path = "*";
    return std::nullopt;
  }
  if (target.empty() || target.front() != '/')
    return bad("the request target must be a path: this server is no proxy");
  const size_t question = target.find('?');
  const auto path = decode_path(target.substr(0, question));
  if (!path) return bad("the request path has a broken percent-escape or is not UTF-8");
  head.request.path = *path;
  if (question != std::string_view::npos) head.request.query = target.substr(question + 1);
  return std::nullopt;
}

std::optional<Refusal> parse_header(std::string_view line, Head& head) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bad("a header line has no colon");
  const std::string_view name = line.substr(0, colon), value = trimmed(line.substr(colon + 1));
  // A blank before the colon and a folded line both end here.
  if (!is_token(name)) return bad("a header name is not a token");
  if (!std::all_of(value.begin(), value.end(), is_field_char)) return bad("a header has a control character");
  head.request.headers.push_back({std::string(name), std::string(value)});
  return std::nullopt;
}

std::optional<Refusal> frame_length(std::string_view value, Head& head) {
  if (head.content_length) return bad("Content-Length is given twice");
  if (value.empty() || value.size() > 18 || !std::all_of(value.begin(), value.end(), is_digit))
    return bad("Content-Length is not a number");
  uint64_t length = 0;
  for (const char c : value) length = length * 10 + static_cast<uint64_t>(c - '0');
  head.content_length = length;
  return std::nullopt;
}

void read_connection(std::string_view value, Head& head) {
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    const std::string_view option = trimmed(value.substr(0, comma));
    if (same_name(option, "close")) head.keep_alive = false;
    value.remove_prefix(std::min(value.size(), comma + 1));
  }
}

// What the headers say about the body's length and the connection.
std::optional<Refusal> read_framing(Head& head) {
  size_t hosts = 0;
  head.keep_alive = head.request.minor_version == 1;
  for (const Header& header : head.request.headers) {
    if (same_name(header.name, "host")) {
      ++hosts;
      if (header.value.find_first_of(" \t,/@\\") != std::string::npos)
        return bad("the Host header is not a host");
    } else if (same_name(header.name, "content-length")) {
      if (auto refusal = frame_length(header.value, head)) return refusal;
    } else if (same_name(header.name, "transfer-encoding")) {
      if (head.chunked || head.request.minor_version == 0 || !same_name(header.value, "chunked"))
        return bad("the only Transfer-Encoding that is taken is chunked, once, with HTTP/1.1");
      head.chunked = true;
    } else if (same_name(header.name, "connection")) {
      read_connection(header.value, head);
    } else if (same_name(header.name, "content-encoding")) {
      if (!same_name(header.value, "identity")) return Refusal{415, "compressed bodies are not taken"};
    } else if (same_name(header.name, "expect")) {
      if (!same_name(header.value, "100-continue")) return Refusal{417, "the only Expect is 100-continue"};
      head.expects_continue = head.request.minor_version == 1;
    }
  }
  if (hosts != 1) return bad(hosts == 0 ? "there is no Host header" : "there is more than one Host header");
  if (head.chunked && head.content_length)
    return bad("Transfer-Encoding and Content-Length contradict each other");
  return std::nullopt;
}

}  // namespace

std::optional<std::string> decode_path(std::string_view path) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != '%') {
      out += path[i];
      continue;
    }
    const int high = i + 2 < path.size() ? hex_value(path[i + 1]) : -1;
    const int low = i + 2 < path.size() ? hex_value(path[i + 2]) : -1;
    if (high < 0 || low < 0) return std::nullopt;
    const char byte = static_cast<char>(high * 16 + low);
    if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f) return std::nullopt;
    out += byte;
    i += 2;
  }
  return out;
}

std::optional<Refusal> find_head_end(std::string_view bytes, const HeadLimits& limits, size_t& length) {
  length = 0;
  const std::string_view seen = bytes.substr(0, kMethodBytesMax);
  const size_t word =
      static_cast<size_t>(std::find_if_not(seen.begin(), seen.end(), is_token_char) - seen.begin());
  if (word == 0 || word == kMethodBytesMax || (word < seen.size() && seen[word] != ' ')) {
    if (!bytes.empty()) return bad("this is not an HTTP/1.1 request");
  }
  const size_t end = bytes.substr(0, limits.head_bytes).find("\r\n\r\n");
  if (end != std::string_view::npos) {
    length = end + 4;
    return std::nullopt;
  }
  if (bytes.size() < limits.head_bytes) return std::nullopt;
  if (bytes.find("\r\n") >= limits.target_bytes) return Refusal{414, "the request line is too long"};
  return Refusal{431, "the request's headers are over " + std::to_string(limits.head_bytes) + " bytes"};
}

std::optional<Refusal> parse_head(std::string_view bytes, const HeadLimits& limits, Head& head) {
  head = Head();
  bool first = true;
  while (true) {
    const size_t end = bytes.find("\r\n");
    if (end == std::string_view::npos) return bad("the head has no end");
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(end + 2);
    if (line.find_first_of(std::string_view("\r\n\0", 3)) != std::string_view::npos)
      return bad("a line has a bare CR, LF or NUL");
    if (line.empty()) break;
    if (!first && head.request.headers.size() >= limits.headers)
      return Refusal{431, "there are more than " + std::to_string(limits.headers) + " headers"};
    if (auto refusal = first ? parse_request_line(line, limits, head) : parse_header(line, head))
      return refusal;
    first = false;
  }
  if (first) return bad("there is no request line");
  if (!bytes.empty()) return bad("there are bytes behind the head");
  return read_framing(head);
}

ChunkedDecoder::State ChunkedDecoder::line(std::string_view text) {
  if (part_ == Part::kTrailer) {
    if (text.empty()) {
      part_ = Part::kDone;
      return State::kDone;
    }
    return ++trailers_ > kTrailersMax || text.find(':') == std::string_view::npos ? State::kBad
                                                                                  : State::kMore;
  }
  size_t digits = 0;
  uint64_t size = 0;
  while (digits < text.size() && hex_value(text[digits]) >= 0) {
    if (digits == 15) return State::kBad;
    size = size * 16 + static_cast<uint64_t>(hex_value(text[digits++]));
  }
  if (digits == 0 || (digits < text.size() && text[digits] != ';')) return State::kBad;
  if (size > body_bytes_max_ - total_) return State::kTooLarge;
  total_ += size;
  left_ = size;
  part_ = size == 0 ? Part::kTrailer : Part::kContent;
  return State::kMore;
}

ChunkedDecoder::State ChunkedDecoder::push(std::string_view& bytes, std::string& body) {
  while (part_ != Part::kDone) {
    if (bytes.empty()) return State::kMore;
    if (part_ == Part::kContent) {
      const size_t take = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size()));
      body.append(bytes.substr(0, take));
      bytes.remove_prefix(take);
      left_ -= take;
      if (left_ != 0) return State::kMore;
      part_ = Part::kContentEnd;
      left_ = 2;
    } else if (part_ == Part::kContentEnd) {
      if (bytes.front() != (left_ == 2 ? '\r' : '\n')) return State::kBad;
      bytes.remove_prefix(1);
      if (--left_ == 0) part_ = Part::kSize;
    } else {
      const char c = bytes.front();
      bytes.remove_prefix(1);
      if (!line_.empty() && line_.back() == '\r') {
        if (c != '\n') return State::kBad;
        line_.pop_back();
        const State state = line(line_);
        line_.clear();
        if (state != State::kMore) return state;
      } else if ((c != '\r' && !is_field_char(c)) || line_.size() >= kChunkLineBytesMax) {
        return State::kBad;
      } else {
        line_ += c;
      }
    }
  }
  return State::kDone;
}

}  // namespace mlxf::http
