// Files of kept prefixes that somebody else wrote: heads as they are, and the same bytes with the length and the
// checksum that they should have, so that what is behind the checksum is reached. What is taken says what it said.
#include <algorithm>
#include <cstdlib>

#include "base/crc32c.h"
#include "engine/prefix_file.h"

namespace mlxf::engine {
namespace {

constexpr uint32_t kContext = 4096;

void check(std::span<const uint8_t> bytes, uint64_t file_bytes) {
  const auto head = parse_head(bytes, file_bytes);
  if (!head) return;
  const std::vector<uint8_t> again = encode_head(*head);
  if (again.size() > bytes.size() || !std::equal(again.begin(), again.end(), bytes.begin())) std::abort();
  if (prefix_file_bytes(*head) != file_bytes) std::abort();
  for (const uint32_t common : {0u, 1u, 64u, 1000u, UINT32_MAX})
    if (head->reach(common) > common) std::abort();
  kv::PagePool pool;
  const kv::LayerShape shapes[] = {kv::PageShape{1, 16, 16, 0}, kv::PageShape{1, 16, 16, 100},
                                   kv::LatentShape{16}, kv::RecurrentShape{4}};
  kv::Sequence sequence(pool, shapes, kContext);
  const auto length = static_cast<uint32_t>(std::min<size_t>(head->tokens.size(), UINT32_MAX));
  if (sequence.restore(length, head->layout)) {
    if (sequence.layout() != head->layout || sequence.truncatable(length) != length) std::abort();
  } else if (sequence.length() != 0 || sequence.bytes() != 0) {
    std::abort();
  }
}

void put32(std::vector<uint8_t>& bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void run(std::span<const uint8_t> data) {
  check(data, data.size());
  if (data.size() < 76 || data.size() > (1 << 20)) return;
  std::vector<uint8_t> bytes(data.begin(), data.end());
  uint64_t payload = 0;
  for (size_t i = 0; i < 8; ++i) payload |= uint64_t{bytes[16 + i]} << (8 * i);
  bytes.resize(data.size() + 4);
  put32(bytes, 12, static_cast<uint32_t>(bytes.size()));
  put32(bytes, data.size(), crc32c(std::span(bytes).first(data.size())));
  const uint64_t chunks = payload / kPrefixChunkBytes + (payload % kPrefixChunkBytes != 0 ? 1 : 0);
  check(bytes, bytes.size() + payload + (chunks + 1) * 4);
}

}  // namespace
}  // namespace mlxf::engine

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mlxf::engine::run({data, size});
  return 0;
}
