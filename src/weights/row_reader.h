// RowReader: rows of a large table that stays on the SSD, read when they are needed.
//
// For embeddings, of which a token uses one row: reading it costs a block or two per part (codes, scales, biases), and
// the table's memory goes to weights that every token needs. Rows pass through a ring of slots, at most a quarter of
// the table where that is two slots or more; nothing is kept. Equal neighbours are read once. Owned by the weight
// stream; one thread, the engine's. After an error no read is outstanding, and the next call works.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "storage/storage.h"
#include "tensor/matrix.h"
#include "weights/stored_matrix.h"

namespace mlxf::weights {

class RowReader {
 public:
  // Of the ring. 0: the table's rows cannot be read one by one, because they share scales.
  [[nodiscard]] static uint64_t buffer_bytes(const StoredMatrix& table);

  // `files` are the manifest's, opened in `storage`, which outlives this, as does the table's manifest.
  // REQUIRES: buffer_bytes(table) != 0.
  RowReader(storage::Storage& storage, std::span<const storage::FileId> files, const StoredMatrix& table);
  ~RowReader() { abandon(); }
  RowReader(const RowReader&) = delete;
  RowReader& operator=(const RowReader&) = delete;

  // Names the rows of a call in order and starts reading at once. Errors name the tensor and the row.
  // REQUIRES: all are rows of the table.
  [[nodiscard]] Status begin(std::span<const uint32_t> rows);
  // The next row as a matrix of that one row, valid until the following call, while the ones after it are being read.
  // REQUIRES: begin() named more rows than were taken.
  [[nodiscard]] Result<MatrixView> next();

  // Calls `use` once for each of `rows`, in any order, with its index and its matrix, valid during the call: begin()
  // and next() where the order does not matter, so that each row is read once however often it is named.
  using Use = std::function<void(size_t index, const MatrixView& row)>;
  [[nodiscard]] Status read(std::span<const uint32_t> rows, const Use& use);

  [[nodiscard]] double stall_seconds() const { return stall_seconds_; }

 private:
  static constexpr uint32_t kSlotsMax = 64;  // Fills any disk's queue; more rows in flight gain nothing.
  static constexpr size_t kParts = 3;
  // Data, scales, biases: where they lie, and where in a slot a row of them is put.
  struct Part {
    const formats::TensorEntry* tensor = nullptr;  // Null: the table has no such part.
    storage::FileId file;
    uint64_t row_bytes = 0;
    uint64_t slot_offset = 0;
    uint64_t capacity = 0;
  };
  struct Slot {
    std::array<storage::Ticket, kParts> tickets;
    std::array<const uint8_t*, kParts> rows{};
  };
  struct Wanted {
    uint32_t row;
    size_t index;
  };

  [[nodiscard]] Status start_more();
  [[nodiscard]] Status claim(uint64_t at);
  void abandon();
  [[nodiscard]] tl::unexpected<Error> named(const Error& error, const Part& part, uint64_t at) const;

  storage::Storage& storage_;
  const MatrixView layout_;
  std::array<Part, kParts> parts_;
  uint64_t slot_bytes_ = 0;
  std::unique_ptr<uint8_t, void (*)(void*)> memory_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> rows_;  // Of this call, equal neighbours once.
  std::vector<uint32_t> repeats_;
  uint64_t started_ = 0;  // Of rows_: reads begun,
  uint64_t claimed_ = 0;  // and complete: the last of them is being given.
  uint32_t given_ = 0;    // How often it was given.
  double stall_seconds_ = 0.0;
  std::vector<Wanted> wanted_;  // Of read(), by row.
  std::vector<uint32_t> sorted_;
};

}  // namespace mlxf::weights
