// Tells model files apart by content, so that a wrong file is refused by what it is rather than by its name.
//
// Looks at the first 512 bytes alone. Stateless; any thread.
#pragma once

#include "base/result.h"
#include "formats/byte_source.h"
#include "formats/manifest.h"

namespace mlxf::formats {

// The container of `source`. Files that are known to be something else (pickle, zip, an HTML error page, a Git LFS
// pointer…) are refused with what to do about it; nothing in them is ever interpreted.
[[nodiscard]] Result<Container> detect_container(const ByteSource& source);

}  // namespace mlxf::formats
