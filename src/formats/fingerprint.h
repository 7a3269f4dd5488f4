// fingerprint: a name for a checkpoint's content, to find again what was learnt about it.
//
// Made from the headers, and from samples of the tensor data, so that two models of one shape differ. Not a checksum: a
// change between the samples goes unnoticed. Reads a few pages of each file; any thread.
#pragma once

#include <string>

#include "base/result.h"
#include "formats/manifest.h"

namespace mlxf::formats {

// 16 hexadecimal digits.
[[nodiscard]] Result<std::string> fingerprint(const ModelManifest& manifest);

}  // namespace mlxf::formats
