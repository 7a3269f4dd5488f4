#!/usr/bin/env python3
"""Writes GGUF checkpoints made by llama.cpp's converter and llama-quantize, with logits computed by llama.cpp.

1. llamacpp-<oracle>: the tiny checkpoints, converted by llama.cpp's converter. model.gguf is BF16 (the same weights) or Q8_0
   (mixtures of experts, to save space; 64 columns are too few for the K types), prompt: the oracle's 72 ids. Mistral is left
   out: llama.cpp gives it full attention instead of its sliding window.
2. llamacpp-wide-llama and llamacpp-wide-qwen3_moe: random models of hidden size 256 and two layers, quantised by llama-quantize to
   every block type between them: <TYPE>.gguf, prompt: 48 random ids. MIX.gguf holds Q4_1, Q5_0, Q5_1 and IQ4_NL tensors.

Beside each GGUF lies <its name>.oracle.safetensors: `input_ids` I32 [tokens]; `logits_f32` F32 [tokens, vocab]: llama.cpp over the same
file with all tensors dequantised to F32 first, so exact arithmetic over the stored weights as far as f32 goes; and for quantised
files `logits_int8`: llama.cpp over the file as it is, which quantises activations to 8 bits. Rope is exact (f32) in both.

REQUIRES: exact_rope.safetensors in OUT (see exact_rope.py): conversions are checked against it before anything is written.

Made with llama.cpp v0.5.0 (llama-quantize, and tools/reference/llamacpp_logits.cpp linked to libllama), CPU, AVX2.
Run: python3 tools/reference/llamacpp_checkpoints.py LLAMA_CPP_FOLDER LLAMACPP_LOGITS_PROGRAM tests/data/oracles OUT
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

ORACLES = {
    "llama": "BF16", "llama-tied": "BF16", "phi3": "BF16", "qwen2": "BF16", "qwen3": "BF16",
    "gemma2": "BF16", "gemma3": "BF16", "mixtral": "Q8_0", "qwen2_moe": "Q8_0", "qwen3_moe": "Q8_0", "olmoe": "Q8_0",
}
WIDE = {
    "llama": ["Q4_0", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "MIX"],
    "qwen3_moe": ["Q4_K_M", "MXFP4_MOE"],
}
MIX = {"attn_q": "q4_1", "attn_k": "q5_0", "attn_v": "q5_1", "attn_output": "iq4_nl",
       "ffn_gate": "q4_1", "ffn_up": "iq4_nl", "ffn_down": "q5_0", "token_embd": "q5_1"}
COMMON = {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
          "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "bos_token_id": 1,
          "eos_token_id": 2, "pad_token_id": 0, "attention_bias": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
CONFIGS = {
    "llama": COMMON | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "intermediate_size": 256,
                       "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "qwen3_moe": COMMON | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": 512,
                           "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
                           "decoder_sparse_step": 1, "mlp_only_layers": [],
                           "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
}


def write_wide(arch, folder):
    """A random checkpoint in the hub's format; matrices scaled so that logits have a standard deviation near 1.5."""
    generator = torch.Generator().manual_seed(20261123)
    tensors = {}

    def matrix(name, rows, columns, gain=1.0):
        values = torch.randn(rows, columns, generator=generator) * gain / columns**0.5
        tensors[f"{name}.weight"] = values.bfloat16()

    def norm(name, size):
        tensors[f"{name}.weight"] = (1 + 0.1 * torch.randn(size, generator=generator)).bfloat16()

    matrix("model.embed_tokens", 256, 256, 16.0)
    for layer in range(2):
        base = f"model.layers.{layer}"
        for name, rows in (("q_proj", 256), ("k_proj", 128), ("v_proj", 128), ("o_proj", 256)):
            matrix(f"{base}.self_attn.{name}", rows, 256, 1.5)
        norms = [("input_layernorm", 256), ("post_attention_layernorm", 256)]
        if arch == "qwen3_moe":
            norms += [("self_attn.q_norm", 64), ("self_attn.k_norm", 64)]
            matrix(f"{base}.mlp.gate", 4, 256)
        for name, size in norms:
            norm(f"{base}.{name}", size)
        for prefix in [f"mlp.experts.{e}" for e in range(4)] if arch == "qwen3_moe" else ["mlp"]:
            for name in ("gate_proj", "up_proj", "down_proj"):
                matrix(f"{base}.{prefix}.{name}", 256, 256, 1.5)
    norm("model.norm", 256)
    matrix("lm_head", 256, 256, 1.5)
    (folder / "config.json").write_text(json.dumps(CONFIGS[arch]))
    save_torch(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Tools:
    def __init__(self, llama_cpp, logits_program, scratch):
        self.llama_cpp, self.logits_program, self.scratch = Path(llama_cpp), logits_program, scratch

    def run(self, *command):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def convert(self, checkpoint, out, kind):
        # The Gemma converter opens tokenizer.json to learn the vocabulary's size, so it works on a copy that has one.
        copy = self.scratch / "checkpoint"
        copy.mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (copy / name).write_bytes((checkpoint / name).read_bytes())
        vocab = json.loads((copy / "config.json").read_text())["vocab_size"]
        (copy / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(vocab)}}, "added_tokens": []}))
        script = Path(__file__).with_name("llamacpp_convert.py")
        self.run(sys.executable, script, self.llama_cpp, copy, "--outfile", out, "--outtype", kind, "--model-name", "tiny")

    def quantise(self, source, out, kind, *options):
        return self.run(self.llama_cpp / "build/bin/llama-quantize", "--allow-requantize", *options, source, out, kind, 1)

    def logits(self, model, ids):
        out = self.scratch / "logits.bin"
        self.run(self.logits_program, model, out, *ids)
        return np.fromfile(out, dtype="<f4").reshape(len(ids), -1)

    def record(self, gguf, ids, quantised):
        plain = self.scratch / "plain.gguf"
        self.quantise(gguf, plain, "F32")
        tensors = {"input_ids": ids.astype(np.int32), "logits_f32": self.logits(plain, ids)}
        if quantised:
            tensors["logits_int8"] = self.logits(gguf, ids)
        save_file(tensors, gguf.with_suffix(".oracle.safetensors"), metadata={"made_with": "llama.cpp v0.5.0"})
        return tensors


def distance(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def make_oracle(tools, arch, kind, oracles, exact, output):
    ids = load_file(oracles / arch / "oracle.safetensors")["input_ids"]
    plain = tools.scratch / "oracle-f32.gguf"
    tools.convert(oracles / arch, plain, "f32")
    error = distance(tools.logits(plain, ids), exact[f"{arch}.logits"])
    print(f"{arch}: converted, {error:.1e} off transformers", flush=True)
    # The Gemma models' GELU is a half-precision table in llama.cpp.
    assert error < (1e-3 if arch.startswith("gemma") else 1e-5)
    folder = output / f"llamacpp-{arch}"
    folder.mkdir(exist_ok=True)
    tools.quantise(plain, folder / "model.gguf", kind)
    tensors = tools.record(folder / "model.gguf", ids, quantised=kind != "BF16")
    print(f"  {kind}: f32 {distance(tensors['logits_f32'], exact[f'{arch}.logits']):.1e} off unquantised", flush=True)


def make_wide(tools, arch, kinds, output):
    checkpoint = tools.scratch / f"wide-{arch}"
    checkpoint.mkdir()
    write_wide(arch, checkpoint)
    plain = tools.scratch / f"wide-{arch}.gguf"
    tools.convert(checkpoint, plain, "f32")
    ids = np.random.default_rng(7).integers(3, 256, 48)
    reference = tools.logits(plain, ids)
    print(f"wide {arch}: logits' standard deviation {reference.std():.2f}")
    folder = output / f"llamacpp-wide-{arch}"
    folder.mkdir(exist_ok=True)
    for kind in kinds:
        options = []
        if kind == "MIX":
            options = [part for name, typ in MIX.items() for part in ("--tensor-type", f"{name}={typ}")]
        log = tools.quantise(plain, folder / f"{kind}.gguf", "Q6_K" if kind == "MIX" else kind, *options)
        types = sorted(set(re.findall(r"converting to (\w+)", log)))
        tensors = tools.record(folder / f"{kind}.gguf", ids, quantised=True)
        f32, int8 = tensors["logits_f32"], tensors["logits_int8"]
        print(f"  {kind} {types}: {distance(f32, reference):.3f} off unquantised, int8 {distance(int8, f32):.4f} off f32")


def main():
    llama_cpp, logits_program, oracles, output = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    exact = load_file(output / "exact_rope.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        tools = Tools(llama_cpp, logits_program, Path(scratch))
        for arch, kind in ORACLES.items():
            make_oracle(tools, arch, kind, oracles, exact, output)
        for arch, kinds in WIDE.items():
            make_wide(tools, arch, kinds, output)


if __name__ == "__main__":
    main()
