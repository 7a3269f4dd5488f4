#!/usr/bin/env python3
"""Runs llama.cpp's own convert_hf_to_gguf.py on a checkpoint that has no tokenizer.

A byte-level BPE vocabulary is written in place of the missing one: <pad>, <s>, </s>, the 243 bytes that occur in UTF-8, then
merges of letter pairs up to the checkpoint's vocabulary size. All else, names, layouts and hyperparameters, is the converter's.

Made with llama.cpp v0.5.0 (its gguf package 0.19.0), torch 2.15.0, transformers 5.23.0.
Run: python3 tools/reference/llamacpp_convert.py LLAMA_CPP_FOLDER CHECKPOINT --outfile OUT.gguf --outtype f32
"""

import itertools
import string
import sys


def byte_letters():
    """GPT-2's printable stand-ins for bytes, without those bytes that UTF-8 never contains."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + shift)
    return [letters[byte] for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]


def vocabulary(size):
    tokens = ["<pad>", "<s>", "</s>", *byte_letters()]
    pairs = itertools.product("\u0120" + string.ascii_lowercase, string.ascii_lowercase)
    merges = [f"{left} {right}" for left, right in itertools.islice(pairs, size - len(tokens))]
    tokens += [merge.replace(" ", "") for merge in merges]
    assert len(tokens) == size
    return tokens, merges


def write_vocabulary(model):
    import gguf

    tokens, merges = vocabulary(model.hparams["vocab_size"])
    writer = model.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def main():
    folder = sys.argv.pop(1)
    sys.path[:0] = [folder, f"{folder}/gguf-py"]
    import convert_hf_to_gguf as converter

    find_class = converter.get_model_class

    def class_with_vocabulary(*args, **kwargs):
        found = find_class(*args, **kwargs)
        found.set_vocab = write_vocabulary
        return found

    converter.get_model_class = class_with_vocabulary
    converter.main()


if __name__ == "__main__":
    main()
