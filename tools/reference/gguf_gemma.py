#!/usr/bin/env python3
"""Writes the gemma4 and gemma3n oracles as GGUF with the gguf package: its writer and its map of tensor names.

gguf-<oracle>/model.gguf holds the same bf16 weights, so its logits are those of the oracle. Keys, stacked tensors, the divisors
of the proportional rope and the sparsity scales (-inf where a layer has none) follow llama.cpp's converter, which also stores
one-dimensional tensors as F32. gemma4-moe is written with gate and up fused, as there.

Made with gguf 0.19.0. Run: python3 tools/reference/gguf_gemma.py tests/data/oracles tests/data/reference
"""

import json
import math
import statistics
import struct
import sys
from pathlib import Path

import gguf
import numpy as np


def read_safetensors(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(raw, np.uint16, offset=8 + size + begin, count=(end - begin) // 2)
        yield name, (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def add_keys(writer, config, arch):
    layers = config["num_hidden_layers"]
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    overrides = config.get("per_layer_config", {})
    full_dim = next((o["head_dim"] for o in overrides.values()), config["head_dim"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(full_dim)
    writer.add_value_length(full_dim)
    writer.add_rope_freq_base(config["rope_parameters"]["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(config["rope_parameters"]["sliding_attention"]["rope_theta"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(config["num_kv_shared_layers"])
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "gemma4":
        writer.add_key_length_swa(config["head_dim"])
        writer.add_value_length_swa(config["head_dim"])
        writer.add_rope_dimension_count(full_dim)
        writer.add_rope_dimension_count_swa(config["head_dim"])
        turning = int(full_dim * config["rope_parameters"]["full_attention"]["partial_rotary_factor"] / 2)
        divisors = [1.0] * turning + [1e30] * (full_dim // 2 - turning)
        writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    else:
        writer.add_altup_active_idx(config["altup_active_idx"])
        writer.add_altup_num_inputs(config["altup_num_inputs"])
        writer.add_activation_sparsity_scale(
            [statistics.NormalDist().inv_cdf(share) if share > 0 else -math.inf for share in config["activation_sparsity_pattern"]])
    if config.get("enable_moe_block"):
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["top_k_experts"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_weight(writer, name, values):
    if values.ndim < 2:
        writer.add_tensor(name, values.astype(np.float32))
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def convert(folder, target):
    config = json.loads((folder / "config.json").read_text())
    arch = config["model_type"].removesuffix("_text")
    writer = gguf.GGUFWriter(str(target), arch)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    add_keys(writer, config, arch)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config["num_hidden_layers"])
    stacked = {"altup_projections": [], "altup_unembed_projections": []}
    for name, values in read_safetensors(folder / "model.safetensors"):
        stack = name.split(".")[1]
        if stack in stacked:
            stacked[stack].append((int(name.split(".")[2]), values))
            continue
        layer = name.split(".")[2]
        if name.endswith("router.scale"):
            add_weight(writer, f"blk.{layer}.ffn_gate_inp.scale", values)
        elif name.endswith("router.per_expert_scale"):
            add_weight(writer, f"blk.{layer}.ffn_down_exps.scale", values)
        else:
            add_weight(writer, names.get_name(name.removesuffix(".weight"), try_suffixes=()) + ".weight", values)
    for stack, parts in stacked.items():
        if parts:
            whole = np.stack([values for _, values in sorted(parts, key=lambda part: part[0])])
            add_weight(writer, names.get_name(f"model.{stack}", try_suffixes=()) + ".weight", whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    oracles, out = Path(sys.argv[1]), Path(sys.argv[2])
    for oracle in ("gemma4", "gemma4-ple", "gemma4-moe", "gemma3n"):
        folder = out / f"gguf-{oracle}"
        folder.mkdir(exist_ok=True)
        convert(oracles / oracle, folder / "model.gguf")


if __name__ == "__main__":
    main()
