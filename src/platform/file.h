// Files: positional reads of regular files, and new files that appear whole or not at all.
//
// File is what every reader of models, configs and headers opens: read-only, move-only, positional, so
// threads may share one for reading. It refuses everything but regular files (a FIFO would block, a device
// never ends). Errors name the path and the byte offset. Sizes and offsets are bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace mlxf::platform {

// Tells whether two paths lead to one file, and whether a file changed since it was opened.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns =
      0;  // Of the inode: also moves when content is rewritten and the old modification time restored.
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

class File {
 public:
  [[nodiscard]] static Result<File> open(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] uint64_t size() const { return identity_.bytes; }           // When it was opened.
  [[nodiscard]] const FileIdentity& identity() const { return identity_; }  // When it was opened.
  [[nodiscard]] int descriptor() const { return descriptor_; }              // Stays owned by this.

  // kChanged when the open file was truncated or written to, or its path leads to another file or to none.
  [[nodiscard]] Status check_unchanged() const;

  // Fills `out` from `offset`. Fewer bytes than asked for is an error; interrupted and short reads are
  // resumed. Thread-safe.
  [[nodiscard]] Status read_exact(uint64_t offset, std::span<uint8_t> out) const;

 private:
  File(std::string path, int descriptor, const FileIdentity& identity);
  std::string path_;
  int descriptor_ = -1;
  FileIdentity identity_;
};

// The whole of a file that is at most `bytes_max` long.
[[nodiscard]] Result<std::string> read_whole_file(const std::string& path, uint64_t bytes_max);

// So that a name that was given or taken in the folder of `path` is on the disk. A file system that cannot do that for
// folders has nothing to flush.
[[nodiscard]] Status flush_folder_of(const std::string& path);

enum class Overwrite : uint8_t { kRefuse, kReplace };
enum class Readers : uint8_t { kEverybody, kOwner };

// What stands between a new file's name and what mkstemp() adds to it until commit().
inline constexpr const char* kPartSuffix = ".part-";

// A file being written under a temporary name in the same folder. commit() flushes it to the disk and gives
// it its name in one step, which is on the disk, too, once it returns; without commit() the destructor removes it.
// One thread.
class NewFile {
 public:
  [[nodiscard]] static Result<NewFile> create(const std::string& path, Overwrite overwrite,
                                              Readers readers = Readers::kEverybody);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&& other) noexcept;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] uint64_t size() const { return size_; }  // Bytes appended so far.
  // After a failure the temporary file is gone and every later call fails.
  [[nodiscard]] Status append(std::span<const uint8_t> bytes);
  // The same of zeros, which take no room on file systems with holes.
  [[nodiscard]] Status append_hole(uint64_t bytes);
  // Under Overwrite::kRefuse fails if the name was taken meanwhile. Nothing may be appended after it.
  [[nodiscard]] Status commit();

 private:
  NewFile(std::string path, std::string temporary, int descriptor, Overwrite overwrite);
  void discard();
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  Overwrite overwrite_ = Overwrite::kRefuse;
  uint64_t size_ = 0;
};

}  // namespace mlxf::platform
