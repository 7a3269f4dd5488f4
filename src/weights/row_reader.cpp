#include "weights/row_reader.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "base/check.h"

namespace mlxf::weights {

using storage::ReadRequest;
using storage::Storage;

namespace {

// Room for a row wherever in its block it begins.
uint64_t capacity_of(uint64_t bytes) {
  return bytes == 0 ? 0 : Storage::span_bytes(Storage::kAlign - 1, bytes);
}

std::array<uint64_t, 3> part_bytes(const StoredMatrix& table) {
  const MatrixView& layout = table.layout;
  return {layout.row_bytes, table.scales != nullptr ? layout.scale_row_bytes : 0,
          table.biases != nullptr ? layout.scale_row_bytes : 0};
}

}  // namespace

uint64_t RowReader::buffer_bytes(const StoredMatrix& table) {
  if (table.layout.format == WeightFormat::kF8E4M3) return 0;
  uint64_t slot = 0;
  for (const uint64_t bytes : part_bytes(table)) slot += capacity_of(bytes);
  return std::clamp<uint64_t>(table.bytes() / 4 / slot, 2, kSlotsMax) * slot;
}

RowReader::RowReader(Storage& storage, std::span<const storage::FileId> files, const StoredMatrix& table)
    : storage_(storage), layout_(table.layout), memory_(nullptr, &std::free) {
  const auto bytes = part_bytes(table);
  const std::array tensors = {table.data, table.scales, table.biases};
  for (size_t i = 0; i < kParts; ++i) {
    if (bytes[i] == 0) continue;
    parts_[i] = {tensors[i], files[tensors[i]->file], bytes[i], slot_bytes_, capacity_of(bytes[i])};
    slot_bytes_ += parts_[i].capacity;
  }
  const uint64_t buffer = buffer_bytes(table);
  CHECK(buffer != 0);
  slots_.resize(buffer / slot_bytes_);
  memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(Storage::kAlign, buffer)));
  CHECK(memory_ != nullptr);
}

Status RowReader::begin(std::span<const uint32_t> rows) {
  abandon();
  rows_.clear();
  repeats_.clear();
  given_ = 0;
  for (const uint32_t row : rows) {
    CHECK(row < layout_.rows);
    if (!rows_.empty() && rows_.back() == row) {
      ++repeats_.back();
    } else {
      rows_.push_back(row);
      repeats_.push_back(1);
    }
  }
  const Status status = start_more();
  if (!status) abandon();
  return status;
}

// As many as there are slots beside the one that is being read from.
Status RowReader::start_more() {
  while (started_ < rows_.size() && started_ + 1 < claimed_ + slots_.size()) {
    Slot& slot = slots_[started_ % slots_.size()];
    std::array<ReadRequest, kParts> reads;
    std::array<storage::Ticket, kParts> tickets;
    uint8_t* memory = memory_.get() + started_ % slots_.size() * slot_bytes_;
    uint32_t count = 0;
    for (const Part& part : parts_)
      if (part.tensor != nullptr)
        reads[count++] = {.file = part.file,
                          .offset = part.tensor->offset + uint64_t{rows_[started_]} * part.row_bytes,
                          .length = part.row_bytes,
                          .into = memory + part.slot_offset,
                          .capacity = part.capacity};
    if (const Status status = storage_.submit({reads.data(), count}, {tickets.data(), count}); !status)
      return named(status.error(), parts_[0], started_);
    slot.tickets = tickets;
    ++started_;
  }
  return {};
}

// Claims all reads of rows_[at], whether they succeed or not.
Status RowReader::claim(uint64_t at) {
  Status status;
  Slot& slot = slots_[at % slots_.size()];
  const auto start = std::chrono::steady_clock::now();
  uint32_t ticket = 0;
  for (size_t i = 0; i < kParts; ++i) {
    slot.rows[i] = nullptr;
    if (parts_[i].tensor == nullptr) continue;
    const storage::Completion done = *storage_.wait(slot.tickets[ticket++]);
    if (done.status) {
      slot.rows[i] = done.payload.data();
    } else if (status) {
      status = named(done.status.error(), parts_[i], at);
    }
  }
  stall_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return status;
}

Result<MatrixView> RowReader::next() {
  if (claimed_ == 0 || given_ == repeats_[claimed_ - 1]) {
    CHECK(claimed_ < rows_.size());
    ++claimed_;
    given_ = 0;
    Status status = claim(claimed_ - 1);
    if (status) status = start_more();
    if (!status) {
      abandon();
      return tl::unexpected<Error>(status.error());
    }
  }
  ++given_;
  const Slot& slot = slots_[(claimed_ - 1) % slots_.size()];
  MatrixView view = layout_;
  view.rows = 1;
  view.data = slot.rows[0];
  view.scales = slot.rows[1];
  view.biases = slot.rows[2];
  return view;
}

Status RowReader::read(std::span<const uint32_t> rows, const Use& use) {
  wanted_.clear();
  sorted_.clear();
  for (size_t i = 0; i < rows.size(); ++i) wanted_.push_back({rows[i], i});
  std::sort(wanted_.begin(), wanted_.end(), [](const Wanted& a, const Wanted& b) { return a.row < b.row; });
  for (const Wanted& wanted : wanted_) sorted_.push_back(wanted.row);
  RETURN_IF_ERROR(begin(sorted_));
  for (const Wanted& wanted : wanted_) {
    ASSIGN_OR_RETURN(const MatrixView view, next());
    use(wanted.index, view);
  }
  return {};
}

void RowReader::abandon() {
  for (; claimed_ < started_; ++claimed_) {
    uint32_t ticket = 0;
    for (const Part& part : parts_)
      if (part.tensor != nullptr) storage_.cancel(slots_[claimed_ % slots_.size()].tickets[ticket++]);
    static_cast<void>(claim(claimed_));
  }
  rows_.clear();
  started_ = claimed_ = 0;
}

tl::unexpected<Error> RowReader::named(const Error& error, const Part& part, uint64_t at) const {
  return tl::unexpected<Error>(
      error.within("tensor " + part.tensor->name + " row " + std::to_string(rows_[at])));
}

}  // namespace mlxf::weights
