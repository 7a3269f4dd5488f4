#!/usr/bin/env python3
"""Writes MLX-quantised versions of the tiny checkpoints, as mlx-lm saves them, with logits computed by mlx-lm.

Per case a folder mlx-<arch>-<recipe> with config.json, model.safetensors and its index exactly as mlx-lm writes them, and
oracle.safetensors: `input_ids` I32 [72], `logits` F32 [72, 256], `greedy` I32 [24] (the continuation of the prompt) and
`greedy_gap` F32 [24] (best minus second-best logit at each step: ids are comparable where the error is below it), and
`logits_rope_bf16` F32 [72, 256]: the same, with rope's inverse frequencies rounded to bf16.

The logits are exact arithmetic over the quantised weights as far as f32 goes: scales and biases are cast to f32, weights
dequantised to f32, and everything else runs in f32. Before quantising, each model is run as it is and compared with the
checkpoint's own oracle, so a config that mlx-lm misreads stops the script. Those oracles were computed with inverse
frequencies rounded to bf16 (found by a float64 forward pass: 1e-6 off with the rounding, 1e-3 to 5e-3 without), so the
comparison rounds them too. Gemma 2 is left out: mlx-lm gives all its layers full attention.

The checkpoints' config.json has rope settings that mlx-lm does not read (rope_parameters); the older keys are written instead.

Made with mlx 0.32.4 (mlx-cpu, Linux), mlx-lm 0.32.2, transformers 5.23.0.
Run: python3 tools/reference/mlx_checkpoints.py tests/data/oracles tests/data/reference
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

GREEDY_TOKENS = 24
# Largest difference from the unquantised oracle, as a share of its largest logit.
ORACLE_BOUND = 2e-5


def per_layer(path, module):
    """A mix with other bits, other groups and layers left alone, as hand-made recipes have."""
    if path.endswith("layers.0.self_attn.o_proj"):
        return False
    if "v_proj" in path:
        return {"group_size": 32, "bits": 8}
    if "down_proj" in path:
        return {"group_size": 64, "bits": 6}
    if "embed_tokens" in path:
        return {"group_size": 32, "bits": 3}
    return {"group_size": 64, "bits": 5} if "lm_head" in path else True


# (architecture, recipe, dtype of what is not quantised, arguments of quantize_model)
CASES = [
    ("llama", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("llama", "q4-f16", mx.float16, {"group_size": 64, "bits": 4}),
    ("llama", "q8-g32", mx.bfloat16, {"group_size": 32, "bits": 8}),
    ("llama", "per-layer", mx.bfloat16, {"group_size": 64, "bits": 4, "quant_predicate": per_layer}),
    ("llama", "mxfp4", mx.bfloat16, {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
    ("llama-tied", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("qwen2", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("qwen3", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("phi3", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("gemma3", "q4-g32", mx.bfloat16, {"group_size": 32, "bits": 4}),
    ("gemma3", "q8", mx.bfloat16, {"group_size": 64, "bits": 8}),
    ("qwen3_moe", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("qwen3_moe", "mixed-3-6", mx.bfloat16, {"group_size": 64, "bits": 3, "quant_predicate": "mixed_3_6"}),
    ("mixtral", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("qwen2_moe", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
    ("olmoe", "q4", mx.bfloat16, {"group_size": 64, "bits": 4}),
]


def adapted_config(config):
    """The same settings under the keys that mlx-lm reads."""
    config = dict(config)
    rope = config.pop("rope_parameters", None) or {}
    if "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    elif rope:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    if config["model_type"] in ("qwen3_moe", "qwen2_moe", "olmoe") and "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    return config


def cast(model, dtype):
    model.update(tree_map(lambda p: p.astype(dtype) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters()))
    return model


def as_exact_f32(model):
    """REQUIRES: a loaded model. Dequantises with f32 scales (the MX formats are exact in the bf16 that MLX gives)."""
    return cast(dequantize_model(cast(model, mx.float32)), mx.float32)


class FixedFrequencyRope(nn.Module):
    """Rope with the given wavelengths (1 / inverse frequency) instead of a base."""

    def __init__(self, dims, wavelengths):
        super().__init__()
        self.dims = dims
        self._freqs = wavelengths

    def __call__(self, x, offset=0):
        return mx.fast.rope(x, self.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._freqs)


def with_rounded_rope(model):
    """Rounds the inverse frequencies of every rope in the model to bf16, as casting a whole model to bf16 does."""
    for layer in model.layers:
        rope = layer.self_attn.rope
        if isinstance(rope, nn.RoPE):
            assert rope.scale == 1.0 and not rope.traditional
            wavelengths = rope.base ** (mx.arange(0, rope.dims, 2, dtype=mx.float32) / rope.dims)
        else:
            wavelengths = rope._freqs
        rounded = (1.0 / wavelengths).astype(mx.bfloat16).astype(mx.float32)
        layer.self_attn.rope = FixedFrequencyRope(rope.dims, 1.0 / rounded)
    return model


def logits_of(model, ids):
    return model(ids[None])[0].astype(mx.float32)


def oracle_of(model, ids):
    logits = logits_of(model, ids)
    tokens, gaps, current = [], [], ids
    for _ in range(GREEDY_TOKENS):
        last = logits_of(model, current)[-1]
        best_two = mx.sort(last)[-2:]
        token = mx.argmax(last).astype(mx.int32)
        tokens.append(token.item())
        gaps.append((best_two[1] - best_two[0]).item())
        current = mx.concatenate([current, token[None]])
    return {
        "input_ids": ids,
        "logits": logits,
        "greedy": mx.array(tokens, dtype=mx.int32),
        "greedy_gap": mx.array(gaps, dtype=mx.float32),
    }


def make(arch, recipe, dtype, arguments, oracles, output):
    reference = mx.load(str(oracles / arch / "oracle.safetensors"))
    ids = reference["input_ids"].astype(mx.int32)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        shutil.copy(oracles / arch / "model.safetensors", source)
        config = adapted_config(json.loads((oracles / arch / "config.json").read_text()))
        (source / "config.json").write_text(json.dumps(config))
        plain, _ = load_model(source)
        error = mx.abs(logits_of(with_rounded_rope(cast(plain, mx.float32)), ids) - reference["logits"]).max()
        share = (error / mx.abs(reference["logits"]).max()).item()
        assert share < ORACLE_BOUND, f"{arch}: mlx-lm is {share:.1e} off the checkpoint's own oracle"
        model, config = load_model(source)
        cast(model, dtype)
        arguments = dict(arguments)
        if isinstance(arguments.get("quant_predicate"), str):
            arguments["quant_predicate"] = mixed_quant_predicate_builder(arguments["quant_predicate"], model)
        model, config = quantize_model(model, config, **arguments)
        folder_out = output / f"mlx-{arch}-{recipe}"
        shutil.rmtree(folder_out, ignore_errors=True)
        save_model(folder_out, model)
        save_config(config, folder_out / "config.json")
    saved, _ = load_model(folder_out)
    saved = as_exact_f32(saved)
    oracle = oracle_of(saved, ids)
    oracle["logits_rope_bf16"] = logits_of(with_rounded_rope(saved), ids)
    mx.save_safetensors(str(folder_out / "oracle.safetensors"), oracle)
    distance = (mx.abs(oracle["logits"] - reference["logits"]).mean() / mx.abs(reference["logits"]).mean()).item()
    print(f"{folder_out.name}: unquantised error {share:.1e}, mean change by quantising {distance:.3f}, "
          f"smallest greedy gap {oracle['greedy_gap'].min().item():.1e}")


def main():
    oracles, output = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = sys.argv[3:]
    for arch, recipe, dtype, arguments in CASES:
        if not wanted or arch in wanted:
            make(arch, recipe, dtype, arguments, oracles, output)


if __name__ == "__main__":
    main()
