// Record: the matrices that are read from the SSD together and evicted together: one expert, or one dense layer.
//
// Made from the manifest before anything is read; immutable. A record's matrices come from one or more extents, byte
// ranges of the model's files as they lie there; extents that touch or nearly touch are read as one.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "tensor/matrix.h"
#include "weights/int8_rows.h"
#include "weights/stored_matrix.h"

namespace mlxf::weights {

struct RecordExtent {
  uint32_t file = 0;  // Index into ModelManifest::files.
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Where a part of a matrix lies in its record.
struct RecordPart {
  uint32_t extent = UINT32_MAX;  // UINT32_MAX: the matrix has no such part.
  uint64_t at = 0;               // Bytes into the extent.
};

struct RecordMatrix {
  MatrixView layout;  // The pointers are null until the record is in memory.
  RecordPart data, scales, biases;
  uint32_t row_step = 1;
  bool transposed = false;
  bool by_row = false;  // Its rows are read or multiplied apart.
  // Whether it is converted in its slot where weights are loaded as int8 rows: one whose rows alternate with another's
  // or that was turned is left as stored, here as in ResidentWeights.
  [[nodiscard]] bool becomes_int8() const { return row_step == 1 && !transposed && can_be_int8(layout); }
  // Whether its rows go side by side where it comes to stay.
  [[nodiscard]] bool goes_side_by_side() const;
};

// A part of an extent that is stored [rows, cols] and used [cols, rows]: turned in place once it has been read.
struct RecordTranspose {
  uint32_t extent = 0;
  uint64_t at = 0;  // Bytes into the extent.
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint64_t element_bytes = 0;
  [[nodiscard]] uint64_t bytes() const { return uint64_t{rows} * cols * element_bytes; }
};

struct Record {
  std::vector<RecordExtent> extents;  // By file, then offset.
  std::vector<RecordMatrix> matrices;
  std::vector<RecordTranspose> transposes;
  [[nodiscard]] uint64_t bytes() const;
  [[nodiscard]] uint64_t transpose_bytes() const;  // Of its largest transposition.
};

// `rows` rows of a stored matrix, every row_step-th from row_begin on; of one that is transposed, rows of the result.
// REQUIRES: within its rows; of an f8 matrix, whole blocks of 128 rows and a step of 1; of a transposed one, a format
// that transposed_layout() takes and no rows of two slices.
struct RecordSlice {
  StoredMatrix stored;
  uint32_t row_begin = 0;
  uint32_t rows = 0;
  uint32_t row_step = 1;
  bool transposed = false;
  bool by_row = false;
};
[[nodiscard]] Record make_record(const std::vector<RecordSlice>& slices);

}  // namespace mlxf::weights
