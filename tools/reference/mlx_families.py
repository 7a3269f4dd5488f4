#!/usr/bin/env python3
"""Writes MLX-quantised versions of newer families' oracles, as mlx-lm saves them, with logits computed by mlx-lm.

Per case a folder mlx-<oracle>-<recipe> with config.json, model.safetensors and its index exactly as mlx-lm writes them, with the
recipe of the model's own quant_predicate (routers in 8 bits), and oracle.safetensors: `input_ids` I32 [72], `logits` F32 [72, 256]:
mlx-lm over the saved folder with all that is not packed in f32.

deepseek_v3 has its keys' and values' products split and quantised, qwen3_5_moe and gemma4-moe are inside of a multimodal wrapper
with fused experts, gpt_oss is quantised from a checkpoint in mxfp4 as shipped. mlx-lm always truncates YaRN's range, so gpt_oss's
configuration says so too. mlx-lm adds the one to qwen3_5's norms in bf16, so these are other models than the oracles.

Made with mlx 0.32.4 (mlx-cpu, Linux), mlx-lm 0.32.2.
Run: python3 tools/reference/mlx_families.py tests/data/oracles tests/data/reference GPT_OSS_IN_MXFP4
(GPT_OSS_IN_MXFP4: model.safetensors of the gpt_oss oracle with `checkpoints` of llamacpp_families.py, whose second part it is)
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
from mlx_checkpoints import cast, logits_of
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

CASES = {
    "deepseek_v3": ("q4", {"group_size": 32, "bits": 4}),
    "qwen3_5_moe": ("q4", {"group_size": 64, "bits": 4}),
    "gemma4-moe": ("q4", {"group_size": 32, "bits": 4}),
    "gpt_oss": ("mxfp4", {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
}


def adapted_config(name, config):
    """The same settings under the keys that mlx-lm reads."""
    if name == "gemma4-moe":
        for layer in config.pop("per_layer_config").values():
            config["global_head_dim"] = layer.get("head_dim", config.get("global_head_dim"))
        return {"model_type": "gemma4", "text_config": config, "vocab_size": config["vocab_size"]}
    if name == "qwen3_5_moe":
        return {"model_type": name, "text_config": config}
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope | {"type": rope["rope_type"]}
    if name == "gpt_oss":
        config["rope_scaling"]["truncate"] = True
        config["quantization_config"] = {"quant_method": "mxfp4"}
    return config


def wrapped_tensors(name, tensors, config):
    """The names of the multimodal checkpoints."""
    if name == "gemma4-moe":
        return {f"language_model.{key}": value for key, value in tensors.items()}
    if name != "qwen3_5_moe":
        return tensors
    result = {key: value for key, value in tensors.items() if ".experts." not in key}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."

        def stacked(matrix, prefix=prefix):
            return mx.stack([tensors[f"{prefix}{e}.{matrix}.weight"] for e in range(config["num_experts"])])

        result[f"{prefix}gate_up_proj"] = mx.concatenate([stacked("gate_proj"), stacked("up_proj")], axis=1)
        result[f"{prefix}down_proj"] = stacked("down_proj")
    return {key.replace("model.", "model.language_model.", 1): value for key, value in result.items()}


def make(name, oracles, output, gpt_oss):
    recipe, arguments = CASES[name]
    ids = mx.load(str(oracles / name / "oracle.safetensors"))["input_ids"].astype(mx.int32)
    config = json.loads((oracles / name / "config.json").read_text())
    tensors = mx.load(gpt_oss if name == "gpt_oss" else str(oracles / name / "model.safetensors"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        mx.save_safetensors(str(source / "model.safetensors"), wrapped_tensors(name, tensors, config), {"format": "pt"})
        (source / "config.json").write_text(json.dumps(adapted_config(name, config)))
        model, config = load_model(source)
    cast(model, mx.bfloat16)
    if getattr(model, "quant_predicate", None) is not None:
        arguments = arguments | {"quant_predicate": model.quant_predicate}
    model, config = quantize_model(model, config, **arguments)
    folder = output / f"mlx-{name}-{recipe}"
    shutil.rmtree(folder, ignore_errors=True)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    saved, _ = load_model(folder)
    logits = logits_of(cast(saved, mx.float32), ids)
    mx.save_safetensors(str(folder / "oracle.safetensors"), {"input_ids": ids, "logits": logits})
    print(f"{folder.name}: logits' standard deviation {mx.std(logits).item():.2f}", flush=True)


def main():
    for name in CASES:
        make(name, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])


if __name__ == "__main__":
    main()
