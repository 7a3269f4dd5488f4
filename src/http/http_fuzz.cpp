// Bytes of a connection: heads, then chunked bodies, whole and byte by byte, which must come to the same.
#include <cstdlib>

#include "http/head.h"

namespace mlxf::http {
namespace {

void fuzz(std::string_view bytes) {
  const HeadLimits limits;
  size_t length = 0;
  Head head;
  if (!find_head_end(bytes, limits, length) && length != 0 &&
      !parse_head(bytes.substr(0, length), limits, head))
    bytes.remove_prefix(length);
  constexpr uint64_t kMost = 4096;
  std::string whole, pieces;
  std::string_view rest = bytes;
  ChunkedDecoder at_once(kMost), bytewise(kMost);
  const ChunkedDecoder::State state = at_once.push(rest, whole);
  ChunkedDecoder::State last = ChunkedDecoder::State::kMore;
  size_t used = 0;
  while (used < bytes.size() && last == ChunkedDecoder::State::kMore) {
    std::string_view one = bytes.substr(used, 1);
    last = bytewise.push(one, pieces);
    if (one.empty()) ++used;
  }
  if (state != last || whole != pieces || whole.size() > kMost) std::abort();
}

}  // namespace
}  // namespace mlxf::http

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mlxf::http::fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
