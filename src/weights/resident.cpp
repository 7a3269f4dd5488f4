#include "weights/resident.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <thread>
#include <tuple>

#include "base/check.h"
#include "base/mutex.h"
#include "kernels/kernel_table.h"
#include "platform/direct_file.h"
#include "platform/file.h"
#include "platform/huge_memory.h"
#include "tensor/float16.h"
#include "weights/int8_rows.h"
#include "weights/side_by_side.h"
#include "weights/transpose.h"

namespace mlxf::weights {
namespace {

using formats::ModelManifest;
using formats::TensorEntry;

// Reads of this size reach the disk's and the page cache's full speed, and make progress visible.
constexpr uint64_t kPieceBytes = uint64_t{8} << 20;
// Of what is put side by side: what is read has to lie in a core's L2 still.
constexpr uint64_t kSideBySidePieceBytes = uint64_t{512} << 10;
constexpr uint64_t kAlign = 64;

enum class Form : uint8_t { kStored, kStoredOnly, kTransposed };

struct Entry {
  StoredMatrix stored;
  Form form = Form::kStored;
  bool rows_apart = false;
  bool keeps_floats = false;
  uint32_t part = 0;
  MatrixView view;
};

// A piece of loading work: bytes to copy from a file, or rows to convert on the way.
struct Piece {
  uint32_t entry = 0;
  const TensorEntry* tensor = nullptr;
  uint64_t source = 0;  // Offset within the tensor.
  uint64_t bytes = 0;
  uint8_t* target = nullptr;
  uint32_t row = 0;  // First row, for converted pieces.
};

bool is_side_by_side(const MatrixView& view) { return kernels::row_by_row(view.format) != view.format; }

uint64_t aligned(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

struct ResidentWeights::State {
  const ModelManifest& manifest;
  std::vector<Entry> entries;
  std::map<std::tuple<std::string, Form, uint32_t>, uint32_t> handles;
  std::vector<platform::HugeMemory> arenas;  // By part; there is always the first.
  bool loaded = false;

  [[nodiscard]] uint32_t part() const { return static_cast<uint32_t>(arenas.size() - 1); }
  Result<uint32_t> add(const std::string& name, Form form);
  uint64_t place(Entry& entry, const Options& options, uint8_t* memory, uint64_t offset) const;
  void plan_pieces(uint32_t index, std::vector<Piece>& pieces) const;
  Status read_piece(const Piece& piece, const std::vector<platform::File>& files, const Options& options,
                    std::vector<uint8_t>& buffer) const;
  Status read_pieces(const std::vector<Piece>& pieces, const Options& options) const;
  Status make_blank(const Options& options);
};

Result<uint32_t> ResidentWeights::State::add(const std::string& name, Form form) {
  CHECK(!loaded);
  if (const auto found = handles.find({name, form, part()}); found != handles.end()) return found->second;
  Entry entry;
  entry.form = form;
  entry.part = part();
  ASSIGN_OR_RETURN(entry.stored, find_matrix(manifest, name));
  entry.view = entry.stored.layout;
  if (form == Form::kTransposed) {
    ASSIGN_OR_RETURN(entry.view, transposed_layout(entry.stored));
  }
  entries.push_back(entry);
  const auto handle = static_cast<uint32_t>(entries.size() - 1);
  handles[{name, form, part()}] = handle;
  return handle;
}

// Gives the entry its addresses from memory + offset on and returns the offset after it; null memory: only
// measures.
uint64_t ResidentWeights::State::place(Entry& entry, const Options& options, uint8_t* memory,
                                       uint64_t offset) const {
  const auto take = [&](uint64_t bytes) -> const uint8_t* {
    const uint8_t* taken = memory == nullptr ? nullptr : memory + offset;
    offset += aligned(bytes);
    return taken;
  };
  MatrixView& view = entry.view;
  const MatrixView& stored = entry.stored.layout;
  if (options.int8_rows && entry.form == Form::kStored && !entry.keeps_floats && can_be_int8(stored))
    view = int8_layout(stored);
  if (options.put_side_by_side != nullptr && entry.form == Form::kStored && !entry.rows_apart &&
      can_be_side_by_side(stored))
    view.format = kernels::side_by_side(stored.format);
  view.data = take(view.rows * view.row_bytes);
  if (view.scale_row_bytes == 0) return offset;
  const uint64_t scale_rows = view.format == WeightFormat::kF8E4M3 ? (view.rows + 127) / 128 : view.rows;
  view.scales = take(scale_rows * view.scale_row_bytes);
  if (entry.stored.biases != nullptr) view.biases = take(view.rows * view.scale_row_bytes);
  return offset;
}

void ResidentWeights::State::plan_pieces(uint32_t index, std::vector<Piece>& pieces) const {
  const Entry& entry = entries[index];
  const auto cut = [&](const TensorEntry* tensor, const uint8_t* target, uint64_t piece_bytes,
                       uint64_t row_bytes) {
    if (tensor == nullptr) return;
    for (uint64_t at = 0; at < tensor->bytes; at += piece_bytes)
      pieces.push_back({index, tensor, at, std::min(piece_bytes, tensor->bytes - at),
                        const_cast<uint8_t*>(target) + at,
                        static_cast<uint32_t>(row_bytes != 0 ? at / row_bytes : 0)});
  };
  const MatrixView& stored = entry.stored.layout;
  if (entry.form == Form::kTransposed) {
    const uint64_t slice_bytes = entry.view.cols * stored.row_bytes;
    cut(entry.stored.data, entry.view.data, slice_bytes, 0);
  } else if (is_side_by_side(entry.view)) {
    const uint64_t group_bytes = kRowsSideBySide * stored.row_bytes;
    cut(entry.stored.data, entry.view.data,
        std::max<uint64_t>(1, kSideBySidePieceBytes / group_bytes) * group_bytes, stored.row_bytes);
  } else if (entry.view.format != stored.format) {
    cut(entry.stored.data, entry.view.data,
        std::max<uint64_t>(1, kPieceBytes / stored.row_bytes) * stored.row_bytes, stored.row_bytes);
  } else {
    cut(entry.stored.data, entry.view.data, kPieceBytes, 0);
    cut(entry.stored.scales, entry.view.scales, kPieceBytes, 0);
    cut(entry.stored.biases, entry.view.biases, kPieceBytes, 0);
  }
}

Status ResidentWeights::State::read_piece(const Piece& piece, const std::vector<platform::File>& files,
                                          const Options& options, std::vector<uint8_t>& buffer) const {
  const Entry& entry = entries[piece.entry];
  const MatrixView& stored = entry.stored.layout;
  const bool converted = entry.form == Form::kTransposed || entry.view.format != stored.format;
  uint8_t* target = piece.target;
  if (converted) {
    buffer.resize(piece.bytes);
    target = buffer.data();
  }
  const platform::File& file = files[piece.tensor->file];
  const uint64_t offset = piece.tensor->offset + piece.source;
  const auto status = file.read_exact(offset, {target, piece.bytes});
  if (!status)
    return tl::unexpected<Error>(status.error().within("while reading tensor " + piece.tensor->name));
  if (options.drop_cached) platform::drop_cached(file.descriptor(), offset, piece.bytes);
  if (entry.form == Form::kTransposed) {
    transpose(buffer.data(), entry.view.cols, stored.cols, stored.row_bytes / stored.cols, piece.target);
  } else if (converted) {
    MatrixView rows = stored;
    rows.data = buffer.data();
    rows.rows = static_cast<uint32_t>(piece.bytes / stored.row_bytes);
    if (is_side_by_side(entry.view)) {
      options.put_side_by_side(rows, piece.target);
    } else {
      convert_rows(rows, entry.view, piece.row);
    }
  }
  return {};
}

Status ResidentWeights::State::read_pieces(const std::vector<Piece>& pieces, const Options& options) const {
  std::vector<platform::File> files;
  for (const std::string& path : manifest.files) {
    ASSIGN_OR_RETURN(platform::File file, platform::File::open(path));
    files.push_back(std::move(file));
  }
  uint64_t total = 0;
  for (const Piece& piece : pieces) total += piece.bytes;
  std::atomic<size_t> next{0};      // Index of the next piece; relaxed: joining orders the data.
  std::atomic<uint64_t> done{0};    // Bytes read so far, for progress only.
  std::atomic<bool> failed{false};  // Set once; tells the others to stop early.
  Mutex mutex;
  Error first_error;
  const auto work = [&](bool reports) {
    std::vector<uint8_t> buffer;
    for (size_t i; !failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < pieces.size();) {
      const Status status = read_piece(pieces[i], files, options, buffer);
      if (!status) {
        MutexLock lock(mutex);
        if (!failed.exchange(true)) first_error = status.error();
        return;
      }
      const uint64_t now = done.fetch_add(pieces[i].bytes) + pieces[i].bytes;
      if (reports && options.progress) options.progress(now, total);
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t t = 1; t < options.threads; ++t) threads.emplace_back(work, false);
  work(true);
  for (std::thread& thread : threads) thread.join();
  // The headers, what was read ahead, and blocks that two pieces share.
  if (options.drop_cached)
    for (const platform::File& file : files) platform::drop_cached(file.descriptor(), 0, file.size());
  if (failed.load()) return tl::unexpected<Error>(first_error);
  if (options.progress) options.progress(total, total);
  return {};
}

ResidentWeights::ResidentWeights(const ModelManifest& manifest)
    : state_(new State{manifest, {}, {}, {}, false}) {
  state_->arenas.resize(1);
}
ResidentWeights::~ResidentWeights() = default;
ResidentWeights::ResidentWeights(ResidentWeights&&) noexcept = default;

uint32_t ResidentWeights::begin_part() {
  CHECK(!state_->loaded);
  state_->arenas.emplace_back();
  return state_->part();
}

Result<uint32_t> ResidentWeights::add_matrix(const std::string& name) {
  return state_->add(name, Form::kStored);
}
Result<uint32_t> ResidentWeights::add_matrix_as_stored(const std::string& name) {
  return state_->add(name, Form::kStoredOnly);
}
Result<uint32_t> ResidentWeights::add_transposed(const std::string& name) {
  return state_->add(name, Form::kTransposed);
}

void ResidentWeights::keep_rows_apart(uint32_t handle) {
  CHECK(!state_->loaded && handle < state_->entries.size());
  state_->entries[handle].rows_apart = true;
}

void ResidentWeights::keep_floats(uint32_t handle) {
  CHECK(!state_->loaded && handle < state_->entries.size());
  state_->entries[handle].keeps_floats = true;
}

bool ResidentWeights::has(const std::string& name) const {
  return state_->manifest.find(name) != nullptr || state_->manifest.find(name + ".weight") != nullptr;
}

Result<std::vector<float>> ResidentWeights::read_f32(const std::string& name) const {
  const ModelManifest& manifest = state_->manifest;
  ASSIGN_OR_RETURN(const StoredMatrix matrix, find_matrix(manifest, name));
  const TensorEntry& tensor = *matrix.data;
  if (matrix.scales != nullptr)
    return fail(ErrorCode::kUnsupported,
                "tensor " + tensor.name + " is quantised where plain numbers are expected");
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(manifest.files[tensor.file]));
  std::vector<uint8_t> bytes(tensor.bytes);
  const auto status = file.read_exact(tensor.offset, bytes);
  if (!status) return tl::unexpected<Error>(status.error().within("while reading tensor " + tensor.name));
  MatrixView view = matrix.layout;
  view.data = bytes.data();
  std::vector<float> values(uint64_t{view.rows} * view.cols);
  const auto decode = kernels::select_kernels().decode[static_cast<uint32_t>(view.format)];
  for (uint32_t row = 0; row < view.rows; ++row)
    decode(view, row, 0, view.cols, values.data() + uint64_t{row} * view.cols);
  return values;
}

// Zeros instead of the files' contents. Every page is written to: those never written share one page of zeros.
Status ResidentWeights::State::make_blank(const Options& options) {
  uint64_t total = 0, largest = 0;
  for (Entry entry : entries) {
    const uint64_t bytes = place(entry, options, nullptr, 0);
    largest = std::max(largest, bytes);
    total += bytes;
  }
  platform::HugeMemory& arena = arenas[0];
  ASSIGN_OR_RETURN(arena,
                   platform::HugeMemory::allocate(std::max(largest, std::min(total, options.blank_bytes))));
  uint64_t offset = 0;
  for (Entry& entry : entries) {
    Entry measured = entry;
    if (offset + place(measured, options, nullptr, 0) > arena.bytes()) offset = 0;
    offset = place(entry, options, arena.data(), offset);
  }
  const uint64_t part = arena.bytes() / std::max(1u, options.threads) + 1;
  std::vector<std::thread> threads;
  for (uint64_t at = 0; at < arena.bytes(); at += part)
    threads.emplace_back(
        [&arena, at, part] { std::memset(arena.data() + at, 0, std::min(part, arena.bytes() - at)); });
  for (std::thread& thread : threads) thread.join();
  return {};
}

Status ResidentWeights::load(const Options& options) {
  State& s = *state_;
  CHECK(!s.loaded);
  if (options.blank_bytes != 0) {
    RETURN_IF_ERROR(s.make_blank(options));
    s.loaded = true;
    return {};
  }
  std::vector<uint64_t> offsets(s.arenas.size(), 0);
  for (Entry entry : s.entries) offsets[entry.part] = s.place(entry, options, nullptr, offsets[entry.part]);
  for (size_t part = 0; part < s.arenas.size(); ++part) {
    auto memory = part == 0 ? platform::HugeMemory::allocate(offsets[part])
                            : platform::HugeMemory::allocate_tight(offsets[part]);
    if (!memory) return tl::unexpected<Error>(memory.error().within("while loading " + s.manifest.path));
    s.arenas[part] = std::move(*memory);
    offsets[part] = 0;
  }
  std::vector<Piece> pieces;
  for (uint32_t i = 0; i < s.entries.size(); ++i) {
    Entry& entry = s.entries[i];
    offsets[entry.part] = s.place(entry, options, s.arenas[entry.part].data(), offsets[entry.part]);
    s.plan_pieces(i, pieces);
  }
  RETURN_IF_ERROR(s.read_pieces(pieces, options));
  s.loaded = true;
  return {};
}

const MatrixView& ResidentWeights::matrix(uint32_t handle) const {
  CHECK(state_->loaded && handle < state_->entries.size());
  return state_->entries[handle].view;
}

uint64_t ResidentWeights::bytes() const {
  uint64_t total = 0;
  for (const platform::HugeMemory& arena : state_->arenas) total += arena.bytes();
  return total;
}

platform::HugeMemory ResidentWeights::take_part(uint32_t part) {
  CHECK(state_->loaded && part != 0 && part < state_->arenas.size());
  return std::move(state_->arenas[part]);
}

}  // namespace mlxf::weights
