#include "formats/gguf_header.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "base/checked.h"
#include "formats/gguf_types.h"
#include "formats/name_text.h"

namespace mlxf::formats {
namespace {

constexpr uint64_t kFixedBytes = 24;               // Magic, version, two counts.
constexpr uint64_t kPairBytesMin = 8 + 1 + 4 + 1;  // Key length, one character, type, the smallest value.
constexpr uint64_t kTensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8;
constexpr uint64_t kFirstReadBytes = uint64_t{256} << 10;
constexpr uint64_t kAlignmentMin = 8;
constexpr uint64_t kAlignmentMax = uint64_t{16} << 20;

std::optional<uint64_t> align_up(uint64_t value, uint64_t alignment) {
  const auto sum = checked_add(value, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum & ~(alignment - 1);
}

// A position in the header and the bytes read so far. Offsets are absolute, since bytes are kept from 0 on.
class HeaderReader {
 public:
  explicit HeaderReader(const ByteSource& source) : source_(source) {}

  [[nodiscard]] uint64_t position() const { return position_; }
  [[nodiscard]] uint64_t remaining() const { return source_.size() - position_; }
  [[nodiscard]] const char* at(uint64_t offset) const { return bytes_.data() + offset; }

  [[nodiscard]] tl::unexpected<Error> refuse(const std::string& field, uint64_t offset,
                                             const std::string& why,
                                             ErrorCode code = ErrorCode::kCorrupt) const {
    return fail(code, source_.name() + ": " + field + " at byte " + std::to_string(offset) + ": " + why);
  }

  // Makes the next `count` bytes readable at at(position()).
  [[nodiscard]] Status need(uint64_t count, const char* field) {
    if (count <= bytes_.size() - position_) return {};
    return read_more(count, field);
  }
  void skip(uint64_t count) { position_ += count; }

  // REQUIRES: need() covered it.
  template <typename T>
  [[nodiscard]] T take() {
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  template <typename T>
  [[nodiscard]] Result<T> read(const char* field) {
    RETURN_IF_ERROR(need(sizeof(T), field));
    return take<T>();
  }

  // Passes a string of at most `bytes_max`; returns where its characters start and how many there are.
  [[nodiscard]] Result<std::pair<uint64_t, uint64_t>> read_string(const char* field, uint64_t bytes_max) {
    const uint64_t start = position_;
    RETURN_IF_ERROR(need(sizeof(uint64_t), field));
    const auto bytes = take<uint64_t>();
    if (bytes > bytes_max)
      return refuse(field, start,
                    "a length of " + std::to_string(bytes) + " bytes is over the limit of " +
                        std::to_string(bytes_max));
    RETURN_IF_ERROR(need(bytes, field));
    const uint64_t characters = position_;
    position_ += bytes;
    return std::make_pair(characters, bytes);
  }

  [[nodiscard]] std::string_view text(const std::pair<uint64_t, uint64_t>& place) const {
    return std::string_view(bytes_).substr(place.first, place.second);
  }
  [[nodiscard]] std::string copy_until(uint64_t end) const { return bytes_.substr(0, end); }

 private:
  [[nodiscard]] Status read_more(uint64_t count, const char* field) {
    if (count > remaining())
      return refuse(field, position_,
                    "needs " + std::to_string(count) + " bytes, but the file ends after " +
                        std::to_string(remaining()) + "; it is cut short or not a GGUF file");
    const uint64_t end = position_ + count;
    if (end > kGgufHeaderBytesMax)
      return refuse(
          field, position_,
          "the header is longer than the limit of " + std::to_string(kGgufHeaderBytesMax) + " bytes",
          ErrorCode::kUnsupported);
    const uint64_t wanted = std::max({end, kFirstReadBytes, uint64_t{bytes_.size()} * 3 / 2});
    const uint64_t target = std::min({wanted, source_.size(), std::max(end, kGgufHeaderBytesMax)});
    const size_t had = bytes_.size();
    bytes_.resize(target);
    return source_.read_exact(had, {reinterpret_cast<uint8_t*>(bytes_.data()) + had, bytes_.size() - had});
  }

  const ByteSource& source_;
  std::string bytes_;
  uint64_t position_ = 0;
};

// No NaN, and no infinity where it is not an element of an array: Gemma 3n's sparsity scales hold them for "none".
template <typename T>
bool all_meaningful(const char* at, uint64_t count, bool array) {
  for (uint64_t i = 0; i < count; ++i, at += sizeof(T)) {
    T value;
    std::memcpy(&value, at, sizeof value);
    if (std::isnan(value) || (!array && std::isinf(value))) return false;
  }
  return true;
}

}  // namespace

class GgufHeaderParser {
 public:
  explicit GgufHeaderParser(const ByteSource& source) : source_(source), reader_(source) {}

  Result<GgufHeader> parse() {
    RETURN_IF_ERROR(parse_counts());
    RETURN_IF_ERROR(parse_pairs());
    RETURN_IF_ERROR(parse_alignment());
    RETURN_IF_ERROR(parse_tensors());
    RETURN_IF_ERROR(check_layout());
    return std::move(header_);
  }

 private:
  Status parse_counts() {
    if (source_.size() < kFixedBytes)
      return reader_.refuse("GGUF header", 0,
                            "needs 24 bytes, but the file holds " + std::to_string(source_.size()) +
                                "; it is cut short or not a GGUF file");
    RETURN_IF_ERROR(reader_.need(kFixedBytes, "GGUF header"));
    if (std::memcmp(reader_.at(0), "GGUF", 4) != 0)
      return reader_.refuse("GGUF magic", 0,
                            "is " + quoted_name({reader_.at(0), 4}) + " instead of \"GGUF\"");
    reader_.skip(4);
    header_.version = reader_.take<uint32_t>();
    if (header_.version != 2 && header_.version != 3) return refuse_version();
    tensor_count_ = reader_.take<uint64_t>();
    pair_count_ = reader_.take<uint64_t>();
    RETURN_IF_ERROR(check_count("tensor count", 8, tensor_count_, kGgufTensorsMax, kTensorBytesMin));
    return check_count("metadata pair count", 16, pair_count_, kGgufKeysMax, kPairBytesMin);
  }

  Status refuse_version() const {
    const uint32_t version = header_.version;
    std::string why = "version " + std::to_string(version);
    if (version == 0) return reader_.refuse("GGUF version", 4, why + " does not exist");
    if ((version & 0xffff) == 0)
      return reader_.refuse("GGUF version", 4, "the file is big-endian; convert it to little-endian",
                            ErrorCode::kUnsupported);
    why += version == 1 ? " (of 2023) is no longer read" : " is unknown";
    return reader_.refuse("GGUF version", 4,
                          why + "; versions 2 and 3 are supported: convert the model again",
                          ErrorCode::kUnsupported);
  }

  Status check_count(const char* field, uint64_t offset, uint64_t count, uint64_t count_max,
                     uint64_t bytes_min) const {
    if (count > count_max)
      return reader_.refuse(field, offset,
                            std::to_string(count) + " is over the limit of " + std::to_string(count_max));
    if (count > reader_.remaining() / bytes_min)
      return reader_.refuse(
          field, offset,
          std::to_string(count) + " need more bytes than the file has: " + std::to_string(source_.size()));
    return {};
  }

  Status parse_pairs() {
    contents_ = std::make_shared<GgufMetadata::Contents>();
    auto& entries = contents_->entries;
    entries.reserve(pair_count_);
    for (uint64_t i = 0; i < pair_count_; ++i) {
      const uint64_t start = reader_.position();
      ASSIGN_OR_RETURN(const auto key, reader_.read_string("metadata key", kGgufKeyBytesMax));
      if (const char* fault = name_fault(reader_.text(key), kGgufKeyBytesMax))
        return reader_.refuse("metadata key " + quoted_name(reader_.text(key)), start, fault);
      GgufMetadata::Entry entry;
      entry.key_offset = key.first;
      entry.key_bytes = static_cast<uint32_t>(key.second);
      if (auto status = parse_value(entry); !status)
        return tl::unexpected<Error>(
            std::move(status).error().within("metadata " + quoted_name(reader_.text(key))));
      entries.push_back(entry);
    }
    contents_->bytes = reader_.copy_until(reader_.position());
    const auto twice = contents_->index.build(entries.size(), [this](size_t i) { return contents_->key(i); });
    if (twice)
      return reader_.refuse(
          "metadata key " + quoted_name(contents_->key(twice->second)), entries[twice->second].key_offset,
          "occurs twice; first at byte " + std::to_string(entries[twice->first].key_offset));
    header_.metadata.contents_ = contents_;
    return {};
  }

  Status parse_value(GgufMetadata::Entry& entry) {
    ASSIGN_OR_RETURN(entry.type, parse_type("value type"));
    entry.value_offset = reader_.position();
    if (entry.type == GgufType::kString) return skip_string();
    if (entry.type != GgufType::kArray) return skip_scalars(entry.type, 1, false);
    const uint64_t start = reader_.position();
    ASSIGN_OR_RETURN(entry.element_type, parse_type("array element type"));
    if (entry.element_type == GgufType::kArray)
      return reader_.refuse("array element type", start, "arrays of arrays are not supported",
                            ErrorCode::kUnsupported);
    const uint64_t count_offset = reader_.position();
    ASSIGN_OR_RETURN(entry.count, reader_.read<uint64_t>("array length"));
    const uint32_t scalar_bytes = gguf_scalar_bytes(entry.element_type);
    RETURN_IF_ERROR(check_count("array length", count_offset, entry.count, kGgufArrayElementsMax,
                                scalar_bytes == 0 ? sizeof(uint64_t) : scalar_bytes));
    entry.value_offset = reader_.position();
    if (entry.element_type != GgufType::kString) return skip_scalars(entry.element_type, entry.count, true);
    for (uint64_t i = 0; i < entry.count; ++i) RETURN_IF_ERROR(skip_string());
    return {};
  }

  Result<GgufType> parse_type(const char* field) {
    const uint64_t start = reader_.position();
    ASSIGN_OR_RETURN(const uint32_t code, reader_.read<uint32_t>(field));
    if (code > static_cast<uint32_t>(GgufType::kF64))
      return reader_.refuse(field, start, "code " + std::to_string(code) + " is not a type");
    return static_cast<GgufType>(code);
  }

  Status skip_string() {
    if (auto place = reader_.read_string("string value", kGgufStringBytesMax); !place)
      return tl::unexpected<Error>(std::move(place).error());
    return {};
  }

  // REQUIRES: `count` was compared with the bytes that remain, so the product cannot overflow.
  Status skip_scalars(GgufType type, uint64_t count, bool array) {
    const uint64_t start = reader_.position();
    const uint64_t bytes = count * gguf_scalar_bytes(type);
    RETURN_IF_ERROR(reader_.need(bytes, "value"));
    const char* at = reader_.at(start);
    if (type == GgufType::kBool) {
      const char* wrong = std::find_if(at, at + count, [](char c) { return c != 0 && c != 1; });
      if (wrong != at + count)
        return reader_.refuse("bool value", start + static_cast<uint64_t>(wrong - at),
                              std::to_string(static_cast<uint8_t>(*wrong)) + " is neither 0 nor 1");
    }
    if ((type == GgufType::kF32 && !all_meaningful<float>(at, count, array)) ||
        (type == GgufType::kF64 && !all_meaningful<double>(at, count, array)))
      return reader_.refuse("float value", start, "NaN or infinity has no meaning in metadata");
    reader_.skip(bytes);
    return {};
  }

  Status parse_alignment() {
    const GgufMetadata::Entry* entry = header_.metadata.find_entry("general.alignment");
    if (entry == nullptr) return {};
    if (entry->type != GgufType::kU32)
      return reader_.refuse("general.alignment", entry->value_offset, "must be a u32");
    const auto value = static_cast<uint64_t>(header_.metadata.find_int("general.alignment").value_or(0));
    if (value < kAlignmentMin || value > kAlignmentMax || (value & (value - 1)) != 0)
      return reader_.refuse("general.alignment", entry->value_offset,
                            std::to_string(value) + " is not a power of two from 8 to 16777216");
    header_.alignment = value;
    return {};
  }

  Status parse_tensors() {
    header_.tensors.reserve(tensor_count_);
    entry_offsets_.reserve(tensor_count_);
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      const uint64_t start = reader_.position();
      ASSIGN_OR_RETURN(const auto name, reader_.read_string("tensor name", kGgufNameBytesMax));
      const std::string_view text = reader_.text(name);
      if (const char* fault = name_fault(text, kGgufNameBytesMax))
        return reader_.refuse("tensor name " + quoted_name(text), start, fault);
      TensorEntry tensor;
      tensor.name = std::string(text);
      RETURN_IF_ERROR(parse_tensor(tensor));
      header_.tensors.push_back(std::move(tensor));
      entry_offsets_.push_back(start);
    }
    NameIndex index;
    const auto& tensors = header_.tensors;
    const auto twice =
        index.build(tensors.size(), [&](size_t i) { return std::string_view(tensors[i].name); });
    if (twice)
      return reader_.refuse("tensor name " + quoted_name(tensors[twice->second].name),
                            entry_offsets_[twice->second],
                            "occurs twice; first at byte " + std::to_string(entry_offsets_[twice->first]));
    return {};
  }

  Status parse_tensor(TensorEntry& tensor) {
    // A function, because text is made only for refusals: there may be a million tensors.
    const auto field = [&] { return "tensor " + quoted_name(tensor.name); };
    const uint64_t start = reader_.position();
    ASSIGN_OR_RETURN(const uint32_t dimensions, reader_.read<uint32_t>("tensor dimension count"));
    if (dimensions == 0 || dimensions > kGgufDimensionsMax)
      return reader_.refuse(
          field(), start,
          std::to_string(dimensions) + " dimensions; there are 1 to " + std::to_string(kGgufDimensionsMax));
    RETURN_IF_ERROR(reader_.need(dimensions * sizeof(uint64_t) + 12, "tensor entry"));
    tensor.shape.resize(dimensions);
    uint64_t rows = 1;
    uint64_t columns = 0;
    for (uint32_t d = 0; d < dimensions; ++d) {
      const uint64_t offset = reader_.position();
      const auto extent = reader_.take<uint64_t>();
      const auto name = [&] { return "dimension " + std::to_string(d) + " of " + field(); };
      if (extent == 0) return reader_.refuse(name(), offset, "is 0");
      if (extent > static_cast<uint64_t>(INT64_MAX)) return reader_.refuse(name(), offset, "is negative");
      const auto product = checked_mul(rows, d == 0 ? 1 : extent);
      if (!product) return reader_.refuse(name(), offset, "the number of elements overflows 64 bits");
      rows = *product;
      if (d == 0) columns = extent;
      tensor.shape[dimensions - 1 - d] = extent;
    }
    const uint64_t type_offset = reader_.position();
    const auto code = reader_.take<uint32_t>();
    const auto dtype = dtype_of_gguf(code);
    if (!dtype) return refuse_type(field(), type_offset, code);
    tensor.dtype = *dtype;
    const uint32_t block = traits(*dtype).block_elements;
    if (columns % block != 0)
      return reader_.refuse(field(), start,
                            "a row of " + std::to_string(columns) + " elements is not a whole number of " +
                                std::string(traits(*dtype).name) + " blocks of " + std::to_string(block));
    const auto columns_bytes = row_bytes(*dtype, columns);
    const auto bytes = columns_bytes ? checked_mul(*columns_bytes, rows) : std::nullopt;
    if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX))
      return reader_.refuse(field(), start, "its size in bytes overflows 63 bits");
    tensor.bytes = *bytes;
    tensor.offset = reader_.take<uint64_t>();  // Relative until check_layout().
    return {};
  }

  Status refuse_type(const std::string& field, uint64_t offset, uint32_t code) const {
    const std::string_view name = gguf_type_name(code);
    const std::string type = name.empty()
                                 ? "unknown type " + std::to_string(code)
                                 : "type " + std::string(name) + " (code " + std::to_string(code) + ")";
    return reader_.refuse(
        field, offset,
        type + " is not supported; take a Q2_K to Q8_0, IQ4, MXFP4 or 16-bit file of this model",
        ErrorCode::kUnsupported);
  }

  // Turns relative offsets into absolute ones and proves that the tensors tile the data section: each starts
  // where the one before it ends, rounded up to the alignment, and nothing but padding follows the last.
  Status check_layout() {
    const auto data_offset = align_up(reader_.position(), header_.alignment);
    if (!data_offset)
      return reader_.refuse("tensor data", reader_.position(), "its offset overflows 64 bits");
    header_.data_offset = *data_offset;
    auto& tensors = header_.tensors;
    const auto by_offset = [](const TensorEntry& a, const TensorEntry& b) { return a.offset < b.offset; };
    if (!std::is_sorted(tensors.begin(), tensors.end(), by_offset))
      std::stable_sort(tensors.begin(), tensors.end(), by_offset);
    uint64_t end = 0;
    const TensorEntry* previous = nullptr;
    for (TensorEntry& tensor : tensors) {
      RETURN_IF_ERROR(check_place(tensor, previous, end));
      const auto padded = align_up(tensor.offset + tensor.bytes, header_.alignment);
      if (!padded)
        return reader_.refuse("tensor " + quoted_name(tensor.name), tensor.offset,
                              "its end overflows 64 bits");
      end = *padded;
      previous = &tensor;
    }
    for (TensorEntry& tensor : tensors) tensor.offset += header_.data_offset;
    const auto file_end = checked_add(header_.data_offset, end);
    if (tensors.empty() || (file_end && source_.size() <= *file_end)) return {};
    ASSIGN_OR_RETURN(const bool zeros, ends_in_zeros(file_end.value_or(0)));
    if (!zeros)
      return reader_.refuse("trailing bytes", file_end.value_or(0),
                            std::to_string(source_.size() - file_end.value_or(0)) +
                                " bytes follow the last tensor; the file was damaged or joined with another");
    return {};
  }

  // Some writers pad the whole file, to a page for example. From `begin` on, which lies before its end.
  Result<bool> ends_in_zeros(uint64_t begin) const {
    if (source_.size() - begin >= kGgufFilePaddingMax) return false;
    std::vector<uint8_t> bytes(source_.size() - begin);
    RETURN_IF_ERROR(source_.read_exact(begin, bytes));
    return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
  }

  // `end` is the padded end of the tensor before, relative to the data section like `tensor.offset`.
  Status check_place(const TensorEntry& tensor, const TensorEntry* previous, uint64_t end) const {
    const auto field = [&] { return "tensor " + quoted_name(tensor.name); };
    const auto offset = [&] { return "its offset " + std::to_string(tensor.offset); };
    if (tensor.offset % header_.alignment != 0)
      return reader_.refuse(
          field(), header_.data_offset,
          offset() + " is not a multiple of the alignment " + std::to_string(header_.alignment));
    const auto last = checked_add(tensor.offset, tensor.bytes);
    const auto absolute = last ? checked_add(*last, header_.data_offset) : std::nullopt;
    if (!absolute || *absolute > source_.size())
      return reader_.refuse(field(), header_.data_offset,
                            offset() + " and its " + std::to_string(tensor.bytes) +
                                " bytes reach past the end of the file at byte " +
                                std::to_string(source_.size()) + "; the download may be incomplete");
    if (tensor.offset == end) return {};
    const std::string before =
        previous == nullptr ? "the start of the data" : "tensor " + quoted_name(previous->name);
    return reader_.refuse(field(), header_.data_offset + tensor.offset,
                          tensor.offset < end ? "overlaps " + before
                                              : "a gap of " + std::to_string(tensor.offset - end) +
                                                    " bytes lies between it and " + before);
  }

  const ByteSource& source_;
  HeaderReader reader_;
  GgufHeader header_;
  std::shared_ptr<GgufMetadata::Contents> contents_;  // Shared with header_.metadata once it is complete.
  std::vector<uint64_t> entry_offsets_;               // Where each tensor's entry starts, in file order.
  uint64_t tensor_count_ = 0;
  uint64_t pair_count_ = 0;
};

Result<GgufHeader> parse_gguf_header(const ByteSource& source) { return GgufHeaderParser(source).parse(); }

}  // namespace mlxf::formats
