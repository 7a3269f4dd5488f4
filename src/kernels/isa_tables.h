// The tables of single instruction sets, as dispatch.cpp sees them: entries left null are inherited from the set below.
// Each is defined in its own folder, only on the processors it is for.
// Immutable; any thread.
#pragma once

#include "kernels/kernel_table.h"

namespace mlxf::kernels {

[[nodiscard]] const KernelTable* avx2_table();
[[nodiscard]] const KernelTable* avx512_table();
[[nodiscard]] const KernelTable* amx_table();
[[nodiscard]] const KernelTable* neon_table();

}  // namespace mlxf::kernels
