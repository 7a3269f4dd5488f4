#include "weights/slot_sizes.h"

#include <algorithm>

#include "storage/storage.h"

namespace mlxf::weights {
namespace {

constexpr uint64_t kChunkBytesMax = uint64_t{64} << 20;

// The part of a chunk that whole slots fill.
double used_share(uint64_t chunk_bytes, uint64_t slot_bytes) {
  const uint64_t used = chunk_bytes - chunk_bytes % slot_bytes;
  return static_cast<double>(used) / static_cast<double>(chunk_bytes);
}

}  // namespace

uint64_t span_of(const Record& record) {
  uint64_t total = 0;
  for (const RecordExtent& extent : record.extents)
    total += storage::Storage::span_bytes(extent.offset, extent.bytes);
  return total;
}

std::map<uint64_t, uint64_t> slot_sizes(std::span<const Record> records, bool equal_slots) {
  std::map<uint64_t, uint64_t> slots;
  for (const Record& record : records) {
    uint64_t& slot = slots[equal_slots ? 0 : record.bytes()];
    slot = std::max(slot, span_of(record));
  }
  return slots;
}

uint64_t choose_chunk(uint64_t slot_bytes, uint64_t pool_bytes, uint64_t granule) {
  uint64_t best = rounded(slot_bytes, granule);
  const uint64_t most = std::max(best, std::min(kChunkBytesMax, pool_bytes / 8 / granule * granule));
  for (uint64_t bytes = best; bytes <= most; bytes += granule)
    if (used_share(bytes, slot_bytes) >= used_share(best, slot_bytes)) best = bytes;
  return best;
}

}  // namespace mlxf::weights
