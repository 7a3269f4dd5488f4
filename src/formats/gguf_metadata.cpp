#include "formats/gguf_metadata.h"

#include <cstring>
#include <limits>

#include "base/check.h"
#include "formats/gguf_header.h"

namespace mlxf::formats {
namespace {

// Values lie unaligned, little-endian; the parser has checked that they lie within the bytes.
template <typename T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::optional<int64_t> integer_at(GgufType type, const char* at) {
  switch (type) {
    case GgufType::kU8:
      return load<uint8_t>(at);
    case GgufType::kI8:
      return load<int8_t>(at);
    case GgufType::kU16:
      return load<uint16_t>(at);
    case GgufType::kI16:
      return load<int16_t>(at);
    case GgufType::kU32:
      return load<uint32_t>(at);
    case GgufType::kI32:
      return load<int32_t>(at);
    case GgufType::kI64:
      return load<int64_t>(at);
    case GgufType::kU64: {
      const auto value = load<uint64_t>(at);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> number_at(GgufType type, const char* at) {
  if (type == GgufType::kF32) return load<float>(at);
  if (type == GgufType::kF64) return load<double>(at);
  if (type == GgufType::kU64) return static_cast<double>(load<uint64_t>(at));
  if (const auto value = integer_at(type, at)) return static_cast<double>(*value);
  return std::nullopt;
}

}  // namespace

uint32_t gguf_scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

const GgufMetadata::Entry* GgufMetadata::find_entry(std::string_view key) const {
  if (contents_ == nullptr) return nullptr;
  const auto position = contents_->index.find(key, [this](size_t i) { return contents_->key(i); });
  return position ? &contents_->entries[*position] : nullptr;
}

std::vector<std::string_view> GgufMetadata::keys() const {
  std::vector<std::string_view> keys;
  if (contents_ == nullptr) return keys;
  keys.reserve(contents_->entries.size());
  for (size_t i = 0; i < contents_->entries.size(); ++i) keys.push_back(contents_->key(i));
  return keys;
}

std::optional<int64_t> GgufMetadata::find_int(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr) return std::nullopt;
  return integer_at(entry->type, contents_->bytes.data() + entry->value_offset);
}

std::optional<double> GgufMetadata::find_number(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr) return std::nullopt;
  return number_at(entry->type, contents_->bytes.data() + entry->value_offset);
}

std::optional<bool> GgufMetadata::find_bool(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr || entry->type != GgufType::kBool) return std::nullopt;
  return contents_->bytes[entry->value_offset] != 0;
}

std::optional<std::string> GgufMetadata::find_string(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr || entry->type != GgufType::kString) return std::nullopt;
  const char* at = contents_->bytes.data() + entry->value_offset;
  return std::string(at + sizeof(uint64_t), load<uint64_t>(at));
}

std::optional<std::vector<std::string_view>> GgufMetadata::find_strings(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr || entry->type != GgufType::kArray || entry->element_type != GgufType::kString)
    return std::nullopt;
  std::vector<std::string_view> strings;
  strings.reserve(entry->count);
  const char* at = contents_->bytes.data() + entry->value_offset;
  for (uint64_t i = 0; i < entry->count; ++i) {
    const auto bytes = load<uint64_t>(at);
    strings.emplace_back(at + sizeof bytes, bytes);
    at += sizeof bytes + bytes;
  }
  return strings;
}

std::optional<std::vector<double>> GgufMetadata::find_numbers(std::string_view key) const {
  const Entry* entry = find_entry(key);
  if (entry == nullptr || entry->type != GgufType::kArray || entry->element_type == GgufType::kString)
    return std::nullopt;
  const GgufType type = entry->element_type;
  const uint32_t element_bytes = gguf_scalar_bytes(type);
  CHECK(element_bytes != 0);  // The parser accepts arrays of scalars and strings alone.
  std::vector<double> numbers;
  numbers.reserve(entry->count);
  const char* at = contents_->bytes.data() + entry->value_offset;
  for (uint64_t i = 0; i < entry->count; ++i, at += element_bytes) {
    numbers.push_back(type == GgufType::kBool ? load<uint8_t>(at) : number_at(type, at).value_or(0.0));
  }
  return numbers;
}

}  // namespace mlxf::formats
