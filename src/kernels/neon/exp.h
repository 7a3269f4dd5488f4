// The vector exponential of the NEON kernels: 2^n * p(r) with r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2] and p the
// degree-6 Taylor polynomial of Horner form (error below 2 ulp there); x is clamped to [-87.33, 88.37] so that the
// result is a normal number.
// Everything here has internal linkage: each object file carries its own copy. Pure functions; any thread.
#pragma once

#include <arm_neon.h>

namespace mlxf::kernels::neon {
namespace {

[[maybe_unused]] inline float32x4_t exp_ps(float32x4_t x) {
  const float32x4_t clamped = vmaxq_f32(vminq_f32(x, vdupq_n_f32(88.37f)), vdupq_n_f32(-87.33f));
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(clamped, 1.44269504f));
  // ln 2 in two parts, the first exact in few bits, so that the subtraction loses nothing.
  float32x4_t r = vfmsq_f32(clamped, n, vdupq_n_f32(0.693359375f));
  r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
  float32x4_t p = vdupq_n_f32(1.0f / 720.0f);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 120.0f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 24.0f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 6.0f), p, r);
  p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
  const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vmulq_f32(p, vreinterpretq_f32_s32(exponent));
}

}  // namespace
}  // namespace mlxf::kernels::neon
