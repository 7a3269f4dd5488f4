#include "weights/side_by_side.h"

#include <cstring>
#include <vector>

#include "base/check.h"

namespace mlxf::weights {

bool can_be_side_by_side(const MatrixView& stored) {
  return kernels::side_by_side(stored.format) != stored.format && stored.rows % kRowsSideBySide == 0;
}

void put_side_by_side(kernels::SideBySideFn put, std::span<MatrixView> matrices,
                      std::span<const RecordMatrix> records, compute::ThreadPool* pool) {
  CHECK(matrices.size() == records.size());
  std::vector<std::vector<uint8_t>> groups(pool != nullptr ? pool->threads() : 1);
  for (size_t i = 0; i < matrices.size(); ++i) {
    MatrixView& w = matrices[i];
    if (!records[i].goes_side_by_side()) continue;
    const uint64_t group_bytes = kRowsSideBySide * w.row_bytes;
    const auto put_group = [&](uint32_t group, uint32_t worker) {
      std::vector<uint8_t>& memory = groups[worker];
      memory.resize(group_bytes);
      auto* data = const_cast<uint8_t*>(w.data) + group * group_bytes;
      put(w.row_slice(group * kRowsSideBySide, kRowsSideBySide), memory.data());
      std::memcpy(data, memory.data(), group_bytes);
    };
    const uint32_t count = w.rows / kRowsSideBySide;
    if (pool != nullptr) {
      pool->parallel_for(count, put_group);
    } else {
      for (uint32_t group = 0; group < count; ++group) put_group(group, 0);
    }
    w.format = kernels::side_by_side(w.format);
  }
}

}  // namespace mlxf::weights
