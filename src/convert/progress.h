// ProgressFn: how long work tells whoever watches how far it is.
//
// Called by the thread that does the work, a few times a second at most is not promised: the receiver thins
// out. `done` never falls and reaches `total` exactly when the work succeeded. An empty function is allowed.
#pragma once

#include <cstdint>
#include <functional>

namespace mlxf::convert {

using ProgressFn = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

}  // namespace mlxf::convert
