// PartialFile: a file on its way: what has arrived lies under NAME.partial and survives an interruption; it gets its
// name once its checksum is right.
//
// Move-only; one thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "hub/digest.h"
#include "hub/repository.h"

namespace mlxf::hub {

class PartialFile {
 public:
  // Goes on with `path`.partial where it is there: reads it, for the checksum.
  [[nodiscard]] static Result<PartialFile> open(const std::string& path, const RemoteFile& file);
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&&) = delete;
  ~PartialFile();

  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] uint64_t wanted() const { return file_.bytes; }
  // kCorrupt for more than there should be; then all of it is forgotten.
  [[nodiscard]] Status append(std::span<const uint8_t> bytes);
  // Forgets what has arrived.
  [[nodiscard]] Status restart();
  // Checks size and checksum, flushes, and gives it its name. What is wrong is deleted: kCorrupt.
  [[nodiscard]] Status finish();

 private:
  PartialFile(std::string path, const RemoteFile& file, int descriptor);
  [[nodiscard]] Status read_back(uint64_t bytes);
  std::string path_;
  RemoteFile file_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  Digest digest_;
};

}  // namespace mlxf::hub
