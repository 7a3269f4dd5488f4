// TensorStream: the part that both writers share. Header first, then tensors in declared order, each checked to be
// the one that is due and to get exactly its bytes, with zero padding between them where the format wants it.
//
// Owns the temporary file; see platform::NewFile for how it appears or disappears. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/tensor_spec.h"
#include "platform/file.h"

namespace mlxf::formats {

struct DeclaredTensor {
  std::string name;
  uint64_t bytes = 0;
};

// Bytes of the tensor that `spec` declares; refused when rows are not whole blocks or the size overflows.
[[nodiscard]] Result<uint64_t> tensor_bytes(const TensorSpec& spec);

class TensorStream {
 public:
  // Creates the file and writes `header`. `alignment` is 1 for none, else a power of two; the header's length must be
  // a multiple of it.
  [[nodiscard]] static Result<TensorStream> create(const std::string& path, Overwrite overwrite,
                                                   std::span<const uint8_t> header,
                                                   std::vector<DeclaredTensor> tensors, uint64_t alignment);

  [[nodiscard]] Status append(std::string_view tensor, std::span<const uint8_t> bytes);
  // All of a tensor, zeros that take no room on the disk.
  [[nodiscard]] Status append_hole(std::string_view tensor);
  [[nodiscard]] Status finish();

 private:
  TensorStream(platform::NewFile file, std::vector<DeclaredTensor> tensors, uint64_t alignment);
  // Moves `next_` past tensors that have all their bytes, writing the padding behind each.
  [[nodiscard]] Status close_complete();

  platform::NewFile file_;
  std::vector<DeclaredTensor> tensors_;
  uint64_t alignment_;
  size_t next_ = 0;       // The first tensor that is not complete.
  uint64_t written_ = 0;  // Bytes of it so far.
};

}  // namespace mlxf::formats
