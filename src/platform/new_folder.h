// NewFolder: a folder that is filled under a temporary name and appears under its own name whole or not at all.
//
// commit() renames it; without commit() the destructor removes it with the files directly inside (no deeper).
// Refuses a path that exists. One thread. Its name is on the disk once commit() returns, as are those of the folders
// that make_folders() makes.
#pragma once

#include <string>

#include "base/result.h"
#include "platform/file.h"

namespace mlxf::platform {

class NewFolder {
 public:
  [[nodiscard]] static Result<NewFolder> create(const std::string& path);
  NewFolder(NewFolder&& other) noexcept;
  NewFolder& operator=(NewFolder&& other) noexcept;
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder();

  // Where `name` is to be written until commit().
  [[nodiscard]] std::string file(const std::string& name) const { return temporary_ + "/" + name; }
  // A whole small file.
  [[nodiscard]] Status write_file(const std::string& name, const std::string& text) const;
  [[nodiscard]] Status commit();

 private:
  NewFolder(std::string path, std::string temporary);
  void discard();
  std::string path_;
  std::string temporary_;  // Empty after commit().
};

// The folder, and those above it that are missing; `readers` is for the last. Fine where it is there already, whoever
// may read it.
[[nodiscard]] Status make_folders(const std::string& path, Readers readers = Readers::kEverybody);

// The same where the folder above it must be there.
[[nodiscard]] Status make_folder(const std::string& path, Readers readers = Readers::kEverybody);

}  // namespace mlxf::platform
