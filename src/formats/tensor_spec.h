// What both writers are told about a tensor before its data comes, and what to do with a file that exists.
//
// A plain value; the writer that gets it checks it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "platform/file.h"
#include "tensor/dtype.h"

namespace mlxf::formats {

using platform::Overwrite;

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // Outermost first, for GGUF as well.
};

}  // namespace mlxf::formats
