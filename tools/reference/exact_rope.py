#!/usr/bin/env python3
"""Writes exact_rope.safetensors: the checkpoints' logits with rope's inverse frequencies in f32, by transformers itself.

The oracles beside the checkpoints were computed with inverse frequencies rounded to bf16, as happens when a whole model is cast
to bf16 and back. Loading the same weights straight into float32 gives what a user of a real checkpoint gets. Tensors
`<folder>.logits` F32 [72, 256] (and nothing else: the prompts are the oracles' own). For each the script prints the distance to
the oracle as a share of its largest logit, first exact, then with the frequencies rounded.

Made with transformers 5.23.0 (eager attention), torch 2.15.0, safetensors 0.8.0.
Run: python3 tools/reference/exact_rope.py tests/data/oracles tests/data/reference/exact_rope.safetensors
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids[None].long(), use_cache=False).logits[0].float().contiguous()


def main():
    torch.set_num_threads(1)
    tensors = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        oracle = load_file(folder / "oracle.safetensors")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        scale = oracle["logits"].abs().max()
        exact = logits_of(model.eval(), oracle["input_ids"])
        for name, buffer in model.named_buffers():
            if name.endswith("inv_freq"):
                buffer.copy_(buffer.bfloat16().float())
        rounded = logits_of(model, oracle["input_ids"])
        distances = [((logits - oracle["logits"]).abs().max() / scale).item() for logits in (exact, rounded)]
        print(f"{folder.name}: exact {distances[0]:.1e}, rounded {distances[1]:.1e}", flush=True)
        assert distances[1] < 2e-5
        tensors[f"{folder.name}.logits"] = exact
    save_file(tensors, sys.argv[2], metadata={"made_with": "transformers 5.23.0, torch 2.15.0"})


if __name__ == "__main__":
    main()
