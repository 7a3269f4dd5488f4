#include <cstring>

#include "base/check.h"
#include "kernels/reference/blocks.h"
#include "kernels/reference/reference.h"
#include "tensor/float16.h"

namespace mlxf::kernels {
namespace reference {
namespace {

void decode_codes(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                  const CodeRow& out) {
  const CodeTraits t = code_traits(w);
  const uint32_t subs = t.block / t.sub;
  Block block;
  for (uint32_t b = block_begin; b < block_end; ++b) {
    read_block(w, row, b, block);
    const uint32_t at = b - block_begin;
    for (uint32_t i = 0; i < t.block; ++i) out.codes[at * t.block + i] = static_cast<uint8_t>(block.codes[i]);
    for (uint32_t j = 0; j < subs; ++j) {
      out.scales[at * subs + j] = static_cast<int16_t>(block.scales[j]);
      if (t.minimum != MinimumKind::kNone)
        out.minimums[at * subs + j] = static_cast<int16_t>(block.minimums[j]);
    }
    out.d[at] = block.d;
    if (t.minimum == MinimumKind::kAffine) out.e[at] = block.e;
  }
}

float plain_value(const MatrixView& w, uint32_t row, uint32_t col) {
  const uint8_t* data = w.data + row * w.row_bytes;
  uint16_t half = 0;
  switch (w.format) {
    case WeightFormat::kF32: {
      float value;
      std::memcpy(&value, data + uint64_t{col} * 4, 4);
      return value;
    }
    case WeightFormat::kF16:
      std::memcpy(&half, data + uint64_t{col} * 2, 2);
      return f32_from_f16(half);
    case WeightFormat::kBF16:
      std::memcpy(&half, data + uint64_t{col} * 2, 2);
      return f32_from_bf16(half);
    case WeightFormat::kF8E4M3: {
      float scale = 1.0f;
      if (w.scales != nullptr)
        std::memcpy(&scale, w.scales + row / 128 * w.scale_row_bytes + col / 128 * 4, 4);
      return f32_from_f8e4m3(data[col]) * scale;
    }
    default:
      CHECK(false);
  }
}

// The value of a code in the order of operations of the format's own definition (gguf-py, MLX), so that bits agree.
float quantised_value(const CodeTraits& t, const Block& block, uint32_t i) {
  const uint32_t j = i / t.sub;
  const auto scale = static_cast<float>(block.scales[j]);
  if (t.minimum == MinimumKind::kAffine)
    return block.d * scale * static_cast<float>(block.codes[i]) +
           block.e * static_cast<float>(block.minimums[j]);
  int32_t code = block.codes[i];
  if (t.minimum == MinimumKind::kSymmetric && block.scales[j] != 0)
    code += block.minimums[j] / block.scales[j];
  return block.d * scale * static_cast<float>(code);
}

}  // namespace

void decode_values(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out) {
  const CodeTraits t = code_traits(w);
  if (t.block == 0) {
    for (uint32_t col = col_begin; col < col_end; ++col) out[col - col_begin] = plain_value(w, row, col);
    return;
  }
  Block block;
  for (uint32_t col = col_begin; col < col_end; col += t.block) {
    read_block(w, row, col / t.block, block);
    for (uint32_t i = 0; i < t.block; ++i) out[col - col_begin + i] = quantised_value(t, block, i);
  }
}

}  // namespace reference

DecodeCodesFn reference_code_decoder(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
    case WeightFormat::kF8E4M3:
      return nullptr;
    default:
      return reference::decode_codes;
  }
}

}  // namespace mlxf::kernels
