// The arithmetic peaks of this machine: loops of nothing but independent multiply-adds on registers.
//
// What a kernel reaches is compared with them. One entry for each instruction set of available_kernels(); their
// loops are written in assembly, because GCC 12 spills the accumulators of intrinsics and any compiler may move
// products of constants out of the loop. A multiplication and an addition count as two operations.
// Stateless; any thread.
#pragma once

#include <cstdint>

namespace mlxf::kernels {

// Runs `rounds` >= 1 rounds and returns the operations done.
using PeakFn = uint64_t (*)(uint64_t rounds);

struct PeakLoops {
  const char* isa;               // As KernelTable::isa.
  const char* int8_instruction;  // "vpdpbusd zmm"
  PeakFn int8;                   // int8 x int8 into int32.
  PeakFn f32;                    // f32 fused multiply-adds.
};

// Of an instruction set that this machine has; the portable loops for "reference" and for sets without their own.
[[nodiscard]] PeakLoops peak_loops(const char* isa);

// Each is defined in the folder of its instruction set, only on the processors it is for.
[[nodiscard]] uint64_t avx2_int8_peak(uint64_t rounds);
[[nodiscard]] uint64_t avx2_f32_peak(uint64_t rounds);
[[nodiscard]] uint64_t avx512_int8_peak(uint64_t rounds);
[[nodiscard]] uint64_t avx512_f32_peak(uint64_t rounds);
[[nodiscard]] uint64_t amx_int8_peak(uint64_t rounds);
[[nodiscard]] uint64_t neon_int8_peak(uint64_t rounds);
[[nodiscard]] uint64_t neon_f32_peak(uint64_t rounds);

}  // namespace mlxf::kernels
