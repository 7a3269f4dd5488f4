// The head of an HTTP/1.x request, parsed strictly (RFC 9112), and the decoder of chunked bodies.
//
// Whatever two programs could read in two ways is refused, since that is how requests are smuggled past a proxy: bare
// CR or LF, folded lines, blanks before a colon, a second Host or Content-Length, Transfer-Encoding beside
// Content-Length or anything but "chunked". Pure functions over bytes; any thread. Everything is bounded by HeadLimits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "http/message.h"

namespace mlxf::http {

struct HeadLimits {
  size_t head_bytes = 32 << 10;  // Request line and headers.
  size_t target_bytes = 8 << 10;
  size_t headers = 100;
};

struct Head {
  Request request;  // Without body and peer.
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = true;
  bool expects_continue = false;
};

// Why a request was refused: a status, and a sentence for its sender.
struct Refusal {
  int status = 400;
  std::string message;
};

// Looks for the end of a head in `bytes`, which begin with it: its length with the empty line; 0: not all of it is
// there yet. A refusal once it is over the limits, or as soon as its first bytes cannot be HTTP.
[[nodiscard]] std::optional<Refusal> find_head_end(std::string_view bytes, const HeadLimits& limits,
                                                   size_t& length);
// Parses a whole head, the empty line included.
[[nodiscard]] std::optional<Refusal> parse_head(std::string_view bytes, const HeadLimits& limits, Head& head);

// Decodes "%41" once; nothing for a broken or zero escape, or bytes that are no UTF-8 text without controls.
[[nodiscard]] std::optional<std::string> decode_path(std::string_view path);

// Bytes of a chunked body, in pieces of any size. Chunk extensions are read over; trailers are read over too, within
// the bound of one line each. One body, one thread.
class ChunkedDecoder {
 public:
  enum class State : uint8_t { kMore, kDone, kBad, kTooLarge };
  explicit ChunkedDecoder(uint64_t body_bytes_max) : body_bytes_max_(body_bytes_max) {}

  // Takes from the front of `bytes` what belongs to the body and appends its content to `body`.
  State push(std::string_view& bytes, std::string& body);

 private:
  enum class Part : uint8_t { kSize, kContent, kContentEnd, kTrailer, kDone };
  [[nodiscard]] State line(std::string_view text);

  const uint64_t body_bytes_max_;
  Part part_ = Part::kSize;
  uint64_t left_ = 0;  // Of the chunk, or of the CRLF behind it.
  uint64_t total_ = 0;
  size_t trailers_ = 0;
  std::string line_;
};

}  // namespace mlxf::http
