#!/usr/bin/env python3
"""Writes the newer families' oracles as GGUF by llama.cpp's own converter, with logits by transformers over the same weights.

llamacpp-<oracle>/model.gguf is Q8_0 as convert_hf_to_gguf.py writes it (gpt_oss: experts in MXFP4, from a checkpoint that has them
so, and the rest in BF16). The checkpoint that is converted has its matrices rounded to Q8_0 (MXFP4) first, in the direction in
which the file stores them, so the converter's own rounding changes nothing, and transformers computes with the very weights of
the file. Beside it lies model.oracle.safetensors: `input_ids` I32 [72] and `logits_f32` F32 [72, 256], rope and all else in f32.

llamacpp-fused-<oracle> is converted with --fuse-qkv, and experts with --fuse-gate-up-exps.

Options: llama.cpp has no key for the length of llama4's chunks nor for the position where its temperatures begin, which are those
of the published models, 8192; the logits have them too. The layers that predict further tokens are not in the oracles (--no-mtp).

Made with llama.cpp as in llama-cpp-python 0.3.36, gguf 0.19.0, torch 2.15.0, transformers 5.24.0.
Run: python3 tools/reference/llamacpp_families.py LLAMA_CPP_FOLDER tests/data/oracles tests/data/reference [oracle …]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FAMILIES = ("deepseek_v2", "deepseek_v3", "qwen3_next", "qwen3_5", "qwen3_5_moe", "gpt_oss", "glm4_moe", "minimax_m2", "llama4",
            "qwen2")
FUSED = ("qwen3_next", "qwen2")
OPTIONS = {"llama4": {"attention_chunk_size": 8192, "floor_scale": 8192}}
# Of a code, in halves.
MXFP4_VALUES = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=torch.float32) / 2


def rounded(values):
    """To Q8_0, in blocks of 32 along the last dimension."""
    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values.contiguous().numpy(), kind), kind))


def rounded_weight(name, values, config):
    if values.ndim < 2 or "conv1d" in name or values.shape[-1] % 32 != 0:
        return values
    if values.ndim == 3:  # Experts as [experts, in, out], which GGUF transposes.
        return rounded(values.transpose(1, 2)).transpose(1, 2).contiguous()
    if "kv_b_proj" in name:  # The keys' part is transposed.
        nope = config["qk_nope_head_dim"]
        heads = values.reshape(config["num_attention_heads"], -1, values.shape[1])
        keys = rounded(heads[:, :nope].transpose(1, 2)).transpose(1, 2)
        return torch.cat([keys, rounded(heads[:, nope:])], dim=1).reshape(values.shape).contiguous()
    return rounded(values)


def as_mxfp4(values):
    """[experts, in, out] to blocks U8 [experts, out, in / 32, 16] and scales U8 [experts, out, in / 32], and back."""
    groups = values.transpose(1, 2).reshape(values.shape[0], values.shape[2], -1, 32)
    # The largest value of a code is 6: exponents that leave nothing above it.
    exponents = torch.ceil(torch.log2(groups.abs().amax(-1, keepdim=True) / 6)).clamp(-127, 127)
    codes = ((groups / 2.0**exponents).unsqueeze(-1) - MXFP4_VALUES).abs().argmin(-1)
    plain = (MXFP4_VALUES[codes] * 2.0**exponents).reshape(values.shape[0], values.shape[2], -1)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return blocks, (exponents[..., 0] + 127).to(torch.uint8), plain.transpose(1, 2).contiguous()


def checkpoints(oracle, config):
    """The tensors for transformers, and those for the converter where they differ."""
    plain = {name: values.float() for name, values in load_file(oracle / "model.safetensors").items()}
    if config["model_type"] != "gpt_oss":
        plain = {name: rounded_weight(name, values, config) for name, values in plain.items()}
        return plain, plain
    shipped = {name: values.bfloat16() for name, values in plain.items()}
    for name in [name for name in plain if name.endswith(("gate_up_proj", "down_proj"))]:
        del shipped[name]
        shipped[f"{name}_blocks"], shipped[f"{name}_scales"], plain[name] = as_mxfp4(plain[name])
    return plain, shipped


def write_folder(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def logits_of(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(ids[None].long(), use_cache=False).logits[0].float().contiguous()


def make(llama_cpp, oracle, output, scratch):
    config = json.loads((oracle / "config.json").read_text()) | OPTIONS.get(oracle.name, {})
    plain, shipped = checkpoints(oracle, config)
    reference = load_file(oracle / "oracle.safetensors")
    write_folder(scratch / "plain", config, plain)
    logits = logits_of(scratch / "plain", reference["input_ids"])
    write_folder(scratch / "shipped", config, shipped)
    if config["model_type"] == "gpt_oss":
        config["quantization_config"] = {"quant_method": "mxfp4"}
        (scratch / "shipped/config.json").write_text(json.dumps(config))
    folder = output / f"llamacpp-{'fused-' if oracle.name in FUSED else ''}{oracle.name}"
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("llamacpp_convert.py")
    command = [sys.executable, str(script), str(llama_cpp), str(scratch / "shipped"), "--outfile", str(folder / "model.gguf"),
               "--outtype", "bf16" if config["model_type"] == "gpt_oss" else "q8_0", "--model-name", "tiny"]
    command += ["--no-mtp"] if oracle.name.startswith("qwen3") else []
    command += ["--fuse-qkv"] if oracle.name in FUSED else []
    command += ["--fuse-gate-up-exps"] if oracle.name == "qwen3_next" else []
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    save_file({"input_ids": reference["input_ids"], "logits_f32": logits}, folder / "model.oracle.safetensors",
              metadata={"made_with": "transformers 5.24.0"})
    distance = (logits - reference["logits"]).abs().mean() / reference["logits"].abs().mean()
    kinds = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(folder / "model.gguf").tensors})
    print(f"{oracle.name}: {kinds}, mean change from the oracle {distance:.3f}", flush=True)


def main():
    torch.set_num_threads(1)
    llama_cpp, oracles, output = (Path(argument) for argument in sys.argv[1:4])
    for name in sys.argv[4:] or FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            make(llama_cpp, oracles / name, output, Path(scratch))


if __name__ == "__main__":
    main()
