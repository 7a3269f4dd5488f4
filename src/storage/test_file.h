// A scratch file of known content and page-aligned memory to read it into, for the tests of this module.
//
// Byte i of the file is content(i), so any extent can be checked without keeping a copy. The folder is removed by the
// destructor. One thread.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "storage/storage.h"

namespace mlxf::storage {

// A cheap hash of the position: neighbouring blocks and pages differ in every byte.
inline uint8_t content(uint64_t position) {
  uint64_t x = (position + 1) * 0x9E3779B97F4A7C15U;
  x ^= x >> 29;
  return static_cast<uint8_t>((x * 0xBF58476D1CE4E5B9U) >> 56);
}

class TestFile {
 public:
  explicit TestFile(uint64_t bytes) : bytes_(bytes) {
    std::string pattern = (std::filesystem::temp_directory_path() / "mlxf-storage-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    write(path(), bytes);
  }
  ~TestFile() { std::filesystem::remove_all(folder_); }
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;

  [[nodiscard]] std::string path() const { return folder_ + "/model.bin"; }
  [[nodiscard]] std::string sibling(const std::string& name) const { return folder_ + "/" + name; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  static void write(const std::string& path, uint64_t bytes) {
    std::vector<char> text(bytes);
    for (uint64_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(content(i));
    std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(bytes));
  }

 private:
  uint64_t bytes_;
  std::string folder_;
};

// Memory for one read, with guard bytes behind it that no read may touch.
class ReadMemory {
 public:
  static constexpr uint8_t kGuard = 0x5A;
  ReadMemory(uint64_t offset, uint64_t length)
      : capacity_(Storage::span_bytes(offset, length)),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(Storage::kAlign, capacity_ + Storage::kAlign)),
                &std::free) {
    std::fill_n(memory_.get(), capacity_ + Storage::kAlign, kGuard);
  }
  [[nodiscard]] ReadRequest request(FileId file, uint64_t offset, uint64_t length) const {
    ReadRequest request;
    request.file = file;
    request.offset = offset;
    request.length = length;
    request.into = memory_.get();
    request.capacity = capacity_;
    return request;
  }
  [[nodiscard]] bool guard_intact() const {
    for (uint64_t i = 0; i < Storage::kAlign; ++i)
      if (memory_.get()[capacity_ + i] != kGuard) return false;
    return true;
  }

 private:
  uint64_t capacity_;
  std::unique_ptr<uint8_t, void (*)(void*)> memory_;
};

// The first position where `payload` is not the file's content from `offset` on, or payload.size().
inline uint64_t first_difference(std::span<const uint8_t> payload, uint64_t offset) {
  uint64_t i = 0;
  while (i < payload.size() && payload[i] == content(offset + i)) ++i;
  return i;
}

}  // namespace mlxf::storage
