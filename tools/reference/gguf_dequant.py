#!/usr/bin/env python3
"""Writes tests/data/reference/gguf_dequant.safetensors: GGUF blocks and the floats that the gguf package reads from them.

Tensors: `<TYPE>.blocks` U8 [blocks, bytes per block] and `<TYPE>.values` F32 [blocks, elements per block]; 16 blocks of 256
elements for the K and IQ4_XS types (and for F16 and BF16, whose rows are cut the same way), 64 blocks of 32 for the others.
The last six blocks of each quantised type are edges: all bytes zero; all bits of the payload set; smallest subnormal scale;
largest finite scale; negative scale; and negative zero as the scale. No scale is NaN or infinite.

Made with gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0. Run: python3 tools/reference/gguf_dequant.py OUT.safetensors
"""

import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

# Byte offsets of the f16 scales (d, then dmin or m where the type has one) within a block.
F16_SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0],
}
EDGE_SCALES = [0x0000, 0x2E66, 0x0001, 0x7BFF, 0xAE66, 0x8000]  # f16 bits, in the order of the docstring.
EDGE_EXPONENTS = [0, 127, 1, 252, 2, 251]  # The same six places for MXFP4 (one E8M0 byte; above 252 the value 12 x 2^(e-128) overflows).


def quantised_blocks(rng, name):
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    count = 16 if elements == 256 else 64
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    edges = range(count - 6, count)
    blocks[edges[0]] = 0x00
    blocks[edges[1]] = 0xFF
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(112, 131, count)
        blocks[edges, 0] = EDGE_EXPONENTS
        return blocks
    for offset in F16_SCALES[name]:
        # K types multiply d by a 6- or 8-bit scale, so a smaller d keeps the values near one.
        scales = (rng.standard_normal(count) * (0.002 if elements == 256 else 0.05)).astype(np.float16).view(np.uint16)
        scales[edges] = EDGE_SCALES
        blocks[:, offset : offset + 2] = scales.astype("<u2").view(np.uint8).reshape(count, 2)
    return blocks


def half_blocks(rng, name):
    values = rng.standard_normal((16, 256)).astype(np.float32)
    if name == "F16":
        bits = values.astype(np.float16).view(np.uint16)
        bits[-1, :8] = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF]
    else:
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        bits[-1, :8] = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F, 0xFF7F]
    return bits.view(np.uint8).reshape(16, 512)


def main():
    rng = np.random.default_rng(20261123)
    tensors = {}
    for name in [*F16_SCALES, "MXFP4", "BF16", "F16"]:
        kind = gguf.GGMLQuantizationType[name]
        blocks = half_blocks(rng, name) if name in ("BF16", "F16") else quantised_blocks(rng, name)
        values = gguf.quants.dequantize(blocks, kind).astype(np.float32)
        assert np.isfinite(values).all(), name
        tensors[f"{name}.blocks"] = np.ascontiguousarray(blocks)
        tensors[f"{name}.values"] = np.ascontiguousarray(values)
        print(name, blocks.shape, values.shape, float(np.abs(values[:-6]).max()), float(np.abs(values).max()))
    save_file(tensors, sys.argv[1], metadata={"made_with": f"gguf 0.19.0, numpy {np.__version__}"})


if __name__ == "__main__":
    main()
