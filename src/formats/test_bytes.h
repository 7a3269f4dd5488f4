// For tests and fuzzers of formats/: files made by hand, valid or hostile, and what must hold of an accepted one.
//
// The builders write what they are told, including nonsense; the product's writers would refuse it. One thread.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf_metadata.h"
#include "formats/manifest.h"

namespace mlxf::formats::testing {

template <typename T>
std::string le(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string gguf_string(std::string_view text) {
  return le(uint64_t{text.size()}) + std::string(text);
}

inline std::string gguf_array(GgufType type, uint64_t count, const std::string& elements) {
  return le(static_cast<uint32_t>(type)) + le(count) + elements;
}

inline std::string gguf_strings(std::initializer_list<std::string_view> texts) {
  std::string elements;
  for (const std::string_view text : texts) elements += gguf_string(text);
  return gguf_array(GgufType::kString, texts.size(), elements);
}

// A GGUF file; dimensions are given as they lie in the file, innermost first.
struct RawGguf {
  uint32_t version = 3;
  uint64_t alignment = 32;
  uint64_t data_bytes = 0;
  std::optional<uint64_t> stated_tensors;  // Instead of the true counts.
  std::optional<uint64_t> stated_pairs;

  RawGguf& pair(std::string_view key, GgufType type, const std::string& value) {
    return raw_pair(gguf_string(key) + le(static_cast<uint32_t>(type)) + value);
  }
  RawGguf& raw_pair(const std::string& bytes) {
    pairs += bytes;
    ++pair_count;
    return *this;
  }
  RawGguf& tensor(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type,
                  uint64_t offset) {
    std::string bytes = gguf_string(name) + le(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t extent : dimensions) bytes += le(extent);
    return raw_tensor(bytes + le(type) + le(offset));
  }
  RawGguf& raw_tensor(const std::string& bytes) {
    tensors += bytes;
    ++tensor_count;
    return *this;
  }
  RawGguf& data(uint64_t bytes) {
    data_bytes = bytes;
    return *this;
  }

  [[nodiscard]] std::string header() const {
    return "GGUF" + le(version) + le(stated_tensors.value_or(tensor_count)) +
           le(stated_pairs.value_or(pair_count)) + pairs + tensors;
  }
  [[nodiscard]] std::string build() const {
    std::string bytes = header();
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    for (uint64_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
    return bytes;
  }

  std::string pairs;
  std::string tensors;
  uint64_t pair_count = 0;
  uint64_t tensor_count = 0;
};

// A small valid file: 3 pairs and 2 tensors, the last of which ends the file.
inline RawGguf small_gguf() {
  RawGguf raw;
  raw.pair("general.architecture", GgufType::kString, gguf_string("llama"));
  raw.pair("llama.block_count", GgufType::kU32, le(uint32_t{1}));
  raw.pair("tokenizer.ggml.tokens", GgufType::kArray, gguf_strings({"a", "b", ""}));
  raw.tensor("a.weight", {8}, 0, 0).tensor("b.weight", {32, 2}, 8, 32);
  return raw.data(32 + 68);
}

// A safetensors file with this header text and `data_bytes` of data.
inline std::string safetensors(std::string_view header, uint64_t data_bytes) {
  return le(uint64_t{header.size()}) + std::string(header) + std::string(data_bytes, '\x01');
}

inline void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A folder of its own, removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mlxf-formats-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  std::string put(std::string_view name, std::string_view bytes) const {
    write_file(*this / name, bytes);
    return *this / name;
  }

 private:
  std::string path_;
};

// Wide enough that no product of accepted dimensions wraps.
__extension__ typedef unsigned __int128 WideCount;

// What is wrong with tensors that a parser accepted in a file of `file_bytes`; empty if nothing is.
inline std::string tensors_fault(const std::vector<TensorEntry>& tensors, uint64_t file_bytes) {
  uint64_t end = 0;
  for (const TensorEntry& tensor : tensors) {
    WideCount elements = 1;
    for (const uint64_t extent : tensor.shape) elements *= extent;
    const DTypeTraits& type = traits(tensor.dtype);
    if (elements % type.block_elements != 0) return tensor.name + " is not whole blocks";
    if (elements / type.block_elements * type.block_bytes != tensor.bytes)
      return tensor.name + " has another size";
    if (tensor.offset < end) return tensor.name + " overlaps the tensor before it";
    if (tensor.offset > file_bytes || tensor.bytes > file_bytes - tensor.offset)
      return tensor.name + " leaves the file";
    end = tensor.offset + tensor.bytes;
  }
  NameIndex index;
  const auto name_at = [&](size_t i) { return std::string_view(tensors[i].name); };
  return index.build(tensors.size(), name_at) ? "a name occurs twice" : "";
}

// Asks every finder for every key, so that a sanitizer sees each access; returns how many keys no finder answered.
inline size_t visit_metadata(const GgufMetadata& metadata) {
  size_t unanswered = 0;
  for (const std::string_view key : metadata.keys()) {
    size_t bytes = 0;
    bool answered = metadata.find_int(key).has_value() || metadata.find_number(key).has_value() ||
                    metadata.find_bool(key).has_value() || metadata.find_numbers(key).has_value();
    if (const auto text = metadata.find_string(key)) answered = true;
    if (const auto strings = metadata.find_strings(key)) {
      answered = true;
      for (const std::string_view text : *strings) {
        for (const char c : text) bytes += static_cast<uint8_t>(c);
      }
    }
    if (!answered || bytes == SIZE_MAX) ++unanswered;
  }
  return unanswered;
}

}  // namespace mlxf::formats::testing
