#include <cstdlib>
#include <cstring>

#include "kernels/isa_tables.h"
#include "kernels/kernel_table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mlxf::kernels {
namespace {

#if defined(__x86_64__)
// What both the processor has and the operating system saves on a context switch.
struct X86Features {
  bool avx2 = false;
  bool avx512 = false;
  bool amx = false;
};

// Linux keeps the 8 KiB of tiles from processes that have not asked for them (kernel 5.16; Documentation/arch/x86/
// xstate.rst). Threads made later inherit the permission.
bool request_tiles() {
#if defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool bit(uint32_t word, uint32_t index) { return ((word >> index) & 1u) != 0; }

X86Features detect() {
  X86Features features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !bit(c, 27) || !bit(c, 28)) return features;  // OSXSAVE, AVX
  const bool fma = bit(c, 12), f16c = bit(c, 29);
  uint32_t xcr0_low = 0, xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  const bool os_avx = (xcr0_low & 0x6u) == 0x6u;       // XMM and YMM state
  const bool os_avx512 = (xcr0_low & 0xe6u) == 0xe6u;  // and opmask, ZMM
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  features.avx2 = os_avx && fma && f16c && bit(b, 5) && bit(b, 8);               // AVX2, BMI2
  const bool foundation = bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
  const bool tiles =
      bit(d, 24) && bit(d, 25) && (xcr0_low & 0x60000u) == 0x60000u;  // AMX-TILE, AMX-INT8 and their state
  const bool vbmi = bit(c, 1), vnni = bit(c, 11);
  uint32_t a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  const bool bf16 = __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) != 0 && bit(a1, 5);
  features.avx512 = features.avx2 && os_avx512 && foundation && vbmi && vnni && bf16;
  features.amx = features.avx512 && tiles && request_tiles();
  return features;
}
#endif

// Fills what `table` leaves null from `below`.
KernelTable complete(const KernelTable& table, const KernelTable& below) {
  KernelTable t = table;
  for (int32_t format = 0; format < kWeightFormatCount; ++format) {
    if (t.matmul_f32[format] == nullptr) t.matmul_f32[format] = below.matmul_f32[format];
    if (t.matmul_i8[format] == nullptr) t.matmul_i8[format] = below.matmul_i8[format];
    if (t.decode[format] == nullptr) t.decode[format] = below.decode[format];
  }
  const auto inherit = [](auto& entry, auto fallback) {
    if (entry == nullptr) entry = fallback;
  };
  inherit(t.put_side_by_side, below.put_side_by_side);
  inherit(t.quantize, below.quantize);
  inherit(t.attention, below.attention);
  inherit(t.latent_attention, below.latent_attention);
  inherit(t.rms_norm, below.rms_norm);
  inherit(t.silu_mul, below.silu_mul);
  inherit(t.gelu_mul, below.gelu_mul);
  inherit(t.clamped_swiglu, below.clamped_swiglu);
  inherit(t.add_scaled, below.add_scaled);
  inherit(t.narrow_f16, below.narrow_f16);
  inherit(t.random_words, below.random_words);
  inherit(t.sigmoid_mul, below.sigmoid_mul);
  inherit(t.delta_rule, below.delta_rule);
  inherit(t.conv_silu, below.conv_silu);
  return t;
}

struct Available {
  KernelTable complete_tables[3];
  KernelSet set{};

  void add(const KernelTable& table, uint32_t slot) {
    complete_tables[slot] = complete(table, set.count == 0 ? reference_kernels() : *set.tables[0]);
    for (uint32_t i = set.count; i > 0; --i) set.tables[i] = set.tables[i - 1];
    set.tables[0] = &complete_tables[slot];
    ++set.count;
  }

  Available() {
    set.tables[0] = &reference_kernels();
    set.count = 1;
#if defined(__x86_64__)
    const X86Features features = detect();
    if (features.avx2) add(*avx2_table(), 0);
    if (features.avx512) add(*avx512_table(), 1);
    if (features.amx) add(*amx_table(), 2);
#elif defined(__aarch64__)
    // NEON itself is part of every such processor, the dot product of bytes is not.
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) add(*neon_table(), 0);
#endif
  }
};

}  // namespace

const KernelSet& available_kernels() {
  static const Available available;
  return available.set;
}

const KernelTable& select_kernels() {
  const KernelSet& set = available_kernels();
  if (const char* wanted = std::getenv("MLXF_ISA"))
    for (uint32_t i = 0; i < set.count; ++i)
      if (std::strcmp(set.tables[i]->isa, wanted) == 0) return *set.tables[i];
  return *set.tables[0];
}

}  // namespace mlxf::kernels
