// ByteSource: what a header parser reads from: a file, or bytes in memory (fuzzers, tests).
//
// Borrowed by the parsers for one call. name() stands at the head of every error message.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "platform/file.h"

namespace mlxf::formats {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual uint64_t size() const = 0;
  [[nodiscard]] virtual Status read_exact(uint64_t offset, std::span<uint8_t> out) const = 0;
};

class FileSource final : public ByteSource {
 public:
  explicit FileSource(const platform::File& file) : file_(file) {}
  [[nodiscard]] const std::string& name() const override { return file_.path(); }
  [[nodiscard]] uint64_t size() const override { return file_.size(); }
  [[nodiscard]] Status read_exact(uint64_t offset, std::span<uint8_t> out) const override {
    return file_.read_exact(offset, out);
  }

 private:
  const platform::File& file_;  // Outlives this.
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(std::string name, std::string_view bytes) : name_(std::move(name)), bytes_(bytes) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] Status read_exact(uint64_t offset, std::span<uint8_t> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset)
      return fail(ErrorCode::kIo, name_ + ": a read at byte " + std::to_string(offset) + " is past the end");
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }

 private:
  std::string name_;
  std::string_view bytes_;  // Outlives this.
};

}  // namespace mlxf::formats
