#!/usr/bin/env python3
"""Writes tests/data/reference/mlx_dequant.safetensors: tensors that MLX quantised, and the floats that MLX reads from them.

Per case `affine.b<bits>.g<group>.<f16|bf16|f32>` the tensors `.weight` U32 [rows, 256 * bits / 32], `.scales` and `.biases`
[rows, 256 / group] in the named type, and `.values` F32 [rows, 256]: mx.dequantize with scales and biases cast to f32 first,
so that nothing is rounded to the narrow type. Further `mxfp4.g32`, `mxfp8.g32` and `nvfp4.g16`, with U8 `.scales`, no `.biases`.
Row 0 is zero, row 1 constant, row 2 negative only, row 3 has one large outlier, row 4 has random packed bits; 5-7 are normal.

Made with mlx 0.32.4 (mlx-cpu, Linux). Run: python3 tools/reference/mlx_dequant.py OUT.safetensors
"""

import sys

import mlx.core as mx
import numpy as np

TYPES = {"f16": mx.float16, "bf16": mx.bfloat16, "f32": mx.float32}


def source(rng):
    rows = rng.standard_normal((8, 256)).astype(np.float32)
    rows[0] = 0.0
    rows[1] = 0.3125
    rows[2] = -np.abs(rows[2])
    rows[3, 77] = 40.0
    return mx.array(rows)


def with_random_row(rng, packed):
    bits = np.array(packed)
    bits[4] = rng.integers(0, 2**32, bits.shape[1], dtype=np.uint32)
    return mx.array(bits)


def main():
    rng = np.random.default_rng(20261123)
    tensors = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for name, dtype in TYPES.items():
                packed, scales, biases = mx.quantize(source(rng).astype(dtype), group_size=group, bits=bits)
                packed = with_random_row(rng, packed)
                values = mx.dequantize(
                    packed, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits
                )
                case = f"affine.b{bits}.g{group}.{name}"
                assert scales.dtype == dtype and values.dtype == mx.float32
                parts = {"weight": packed, "scales": scales, "biases": biases, "values": values}
                tensors |= {f"{case}.{part}": tensor for part, tensor in parts.items()}
    for mode, group in (("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)):
        packed, scales = mx.quantize(source(rng), mode=mode)
        if mode != "mxfp8":  # Random bytes of an 8-bit float may be NaN; every 4-bit code is a number.
            packed = with_random_row(rng, packed)
        values = mx.dequantize(packed, scales, mode=mode, dtype=mx.float32)
        parts = {"weight": packed, "scales": scales, "values": values}
        tensors |= {f"{mode}.g{group}.{part}": tensor for part, tensor in parts.items()}
    for name, tensor in tensors.items():
        assert not name.endswith("values") or bool(mx.all(mx.isfinite(tensor))), name
    mx.save_safetensors(sys.argv[1], tensors, metadata={"made_with": "mlx 0.32.4"})
    print(len(tensors), "tensors")


if __name__ == "__main__":
    main()
