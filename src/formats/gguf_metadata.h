// GgufMetadata: the key-value section of a GGUF file as a typed, read-only view.
//
// It keeps the header's bytes as they lie in the file and decodes on demand, so a vocabulary of 300,000
// strings costs its text and nothing else. Copies share the bytes. The string_views of find_strings() and
// keys() point into those bytes and are valid while any copy of this metadata lives. Immutable after parsing:
// any thread may read.
//
// A finder answers nothing both when the key is absent and when its value has another type; contains() tells
// the two apart. Every value was bounds-checked when the header was parsed: bools are 0 or 1, floats are
// finite, those of arrays finite or infinite.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/name_index.h"

namespace mlxf::formats {

// The type codes of GGUF values, as in the file.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

class GgufMetadata {
 public:
  // One key-value pair: where its parts lie in the header's bytes.
  struct Entry {
    uint64_t key_offset = 0;
    uint32_t key_bytes = 0;
    GgufType type = GgufType::kU8;          // kArray for arrays.
    GgufType element_type = GgufType::kU8;  // Of arrays only.
    uint64_t count = 1;                     // Elements of an array; 1 for scalars.
    uint64_t value_offset = 0;  // First byte of the scalar, of the string's length or of element 0.
  };

  GgufMetadata() = default;

  [[nodiscard]] bool contains(std::string_view key) const { return find_entry(key) != nullptr; }
  // Integers of any width and sign that fit in int64.
  [[nodiscard]] std::optional<int64_t> find_int(std::string_view key) const;
  // Integers and floats.
  [[nodiscard]] std::optional<double> find_number(std::string_view key) const;
  [[nodiscard]] std::optional<bool> find_bool(std::string_view key) const;
  // The bytes as they are: a string value need not be valid UTF-8.
  [[nodiscard]] std::optional<std::string> find_string(std::string_view key) const;
  // Arrays of strings.
  [[nodiscard]] std::optional<std::vector<std::string_view>> find_strings(std::string_view key) const;
  // Arrays of integers, floats or bools.
  [[nodiscard]] std::optional<std::vector<double>> find_numbers(std::string_view key) const;
  // The entry itself (its type and count), or null.
  [[nodiscard]] const Entry* find_entry(std::string_view key) const;
  // All keys in file order.
  [[nodiscard]] std::vector<std::string_view> keys() const;

 private:
  friend class GgufHeaderParser;
  struct Contents {
    std::string bytes;  // The file from offset 0 to the end of the key-value section.
    std::vector<Entry> entries;
    NameIndex index;

    [[nodiscard]] std::string_view key(size_t position) const {
      return std::string_view(bytes).substr(entries[position].key_offset, entries[position].key_bytes);
    }
  };

  std::shared_ptr<const Contents> contents_;  // Shared because it is immutable and copies must be cheap.
};

}  // namespace mlxf::formats
