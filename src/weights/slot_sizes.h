// Sizes of a RecordCache's slots and of the chunks that hold them.
//
// Pure functions; any thread. Sizes are in bytes.
#pragma once

#include <cstdint>
#include <map>
#include <span>

#include "weights/record.h"

namespace mlxf::weights {

// What a record takes in a slot: its extents one after the other, each widened to whole blocks.
[[nodiscard]] uint64_t span_of(const Record& record);

// Records of one size share slots, as large as the widest of them needs; with `equal_slots` all of them do. By size.
[[nodiscard]] std::map<uint64_t, uint64_t> slot_sizes(std::span<const Record> records, bool equal_slots);

[[nodiscard]] constexpr uint64_t rounded(uint64_t bytes, uint64_t granule) {
  return (bytes + granule - 1) / granule * granule;
}

// Bytes of the chunks of a pool that may have `pool_bytes`: whole granules, cut so that little is left over.
[[nodiscard]] uint64_t choose_chunk(uint64_t slot_bytes, uint64_t pool_bytes, uint64_t granule);

}  // namespace mlxf::weights
