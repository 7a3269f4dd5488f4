// FolderLock: a folder that this process alone works in, as far as others ask too.
//
// An advisory lock on the file `lock` inside, which stays there empty; the system lets go of it when the process ends,
// however it ends. Move-only; any one thread.
#pragma once

#include <string>

#include "base/result.h"

namespace mlxf::platform {

class FolderLock {
 public:
  // kUnavailable while another process, or another FolderLock of this one, has it.
  [[nodiscard]] static Result<FolderLock> take(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_ = -1;
};

}  // namespace mlxf::platform
