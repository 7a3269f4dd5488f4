// Peak rate of AMX: tdpbusd on four tiles of results, which cover its latency of 52 cycles at one per 16 cycles.
// A product of tiles is 16 x 16 x 64 multiply-adds.
#include <immintrin.h>

#include <cstdint>

#include "kernels/peak.h"

namespace mlxf::kernels {

uint64_t amx_int8_peak(uint64_t rounds) {
  alignas(64) uint8_t config[64] = {1};
  alignas(64) uint8_t codes[1024];
  for (uint8_t& code : codes) code = 3;
  for (uint32_t i = 0; i < 8; ++i) {
    config[16 + 2 * i] = 64;  // Bytes of a line.
    config[48 + i] = 16;      // Lines.
  }
  __asm__ volatile("" ::: "memory");
  _tile_loadconfig(config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, codes, 64);
  _tile_loadd(5, codes, 64);
  for (uint64_t round = 0; round < rounds; ++round) {
    _tile_dpbusd(0, 4, 5);
    _tile_dpbusd(1, 4, 5);
    _tile_dpbusd(2, 4, 5);
    _tile_dpbusd(3, 4, 5);
  }
  _tile_release();
  return rounds * 4 * 16 * 16 * 64 * 2;
}

}  // namespace mlxf::kernels
