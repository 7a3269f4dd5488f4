#!/usr/bin/env python3
"""Writes what tests/data/text/ holds: small tokenizers, and token ids by Hugging Face's `tokenizers` for the corpus there.

    text_reference.py train              trains tests/data/text/{byte_bpe,spm_bpe,unigram}.json, 40-100 KB each
    text_reference.py ids                ids for these three and for models/classics-moe-4bit
    text_reference.py ids FOLDER         ids for every FOLDER/NAME/tokenizer.json (see tools/fetch_tokenizers.sh)

NAME.ids.json, per line of corpus.jsonl, in the order of its lines:
    encode   ids with control tokens recognised and nothing added
    literal  ids with control tokens taken for text, where they differ: {"line": ids}
    decoded  the text of `encode`'s ids, where it differs from the line
and `added`, what an encoding of "" holds with special tokens added; `random`, ids and the text they decode to, for
byte-level tokenizers (byte fallback has another definition of broken UTF-8 there, one U+FFFD per byte).

Made with tokenizers 0.23.3 (PyPI; it splits with Oniguruma, we with fancy-regex).
"""

import array
import hashlib
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "text"
SPACE = "\u2581"


def corpus():
    return [json.loads(line) for line in (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def training_text():
    return corpus() + (ROOT / "tests/data/classics/valid-head.txt").read_text(encoding="utf-8").splitlines()


def add_control_tokens(tokenizer, names):
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])


def train_byte_bpe():
    tokenizer = Tokenizer(models.BPE())
    words = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    add_control_tokens(tokenizer, ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])
    return json.loads(tokenizer.to_str())


def train_spm_bpe():
    """As Llama 2's: ▁ for space, one in front of each text, bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(vocab_size=1300, limit_alphabet=150,
                                                                       show_progress=False))
    trained = json.loads(tokenizer.to_str())
    pieces = sorted(trained["model"]["vocab"], key=trained["model"]["vocab"].get)
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {name: i for i, name in enumerate(names + [piece for piece in pieces if piece not in names])}
    added = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, name in enumerate(names[:3])]
    trained.update({
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    })
    trained["model"].update({"vocab": vocab, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True})
    return trained


def train_unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(vocab_size=1200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                      show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    trained = json.loads(tokenizer.to_str())
    trained["normalizer"] = None
    # GGUF stores scores in 32 bits: rounded here, so that both forms of the vocabulary choose alike between near ties.
    rounded = array.array("f", [score for _, score in trained["model"]["vocab"]])
    trained["model"]["vocab"] = [[piece, score] for (piece, _), score in zip(trained["model"]["vocab"], rounded)]
    return trained


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def train():
    for name, make in (("byte_bpe", train_byte_bpe), ("spm_bpe", train_spm_bpe), ("unigram", train_unigram)):
        (DATA / f"{name}.json").write_text(compact(make()) + "\n", encoding="utf-8")


def is_control(token):
    text = token.content
    return token.special or any(
        text.startswith(begin) and text.endswith(end) and len(text) > len(begin + end)
        for begin, end in (("<|", "|>"), ("<｜", "｜>")))


def literal_tokenizer(text):
    """One that cannot produce control tokens from text."""
    tokenizer = Tokenizer.from_str(text)
    control = [token for token in tokenizer.get_added_tokens_decoder().values() if is_control(token)]
    for token in control:
        token.special = True
    tokenizer.add_special_tokens(control)
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        # The model itself would still choose the pieces that spell control tokens: their spelling is made unreachable.
        names = {token.content for token in control}
        whole = json.loads(text)
        whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in names]
        whole["post_processor"] = None
        whole["model"]["vocab"] = [[f"\U0010f000{i}" if piece in names else piece, score]
                                   for i, (piece, score) in enumerate(whole["model"]["vocab"])]
        tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.encode_special_tokens = True
    return tokenizer


def random_ids(tokenizer, count):
    generator = random.Random(20)
    ids = [i for i in range(tokenizer.get_vocab_size()) if tokenizer.id_to_token(i) is not None]
    return [[generator.choice(ids) for _ in range(24)] for _ in range(count)]


def write_ids(name, path):
    text = path.read_bytes()
    tokenizer = Tokenizer.from_str(text.decode("utf-8"))
    lines = corpus()
    encode = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    decoded = {str(i): tokenizer.decode(ids, skip_special_tokens=False) for i, ids in enumerate(encode)}
    added = tokenizer.encode("").ids
    reference = {"tokenizer": name, "sha256": hashlib.sha256(text).hexdigest(), "added": added, "encode": encode,
                 "decoded": {i: decoded[i] for i in decoded if decoded[i] != lines[int(i)]}}
    if "ByteLevel" in compact(json.loads(text)["decoder"]):
        reference["random"] = [[ids, tokenizer.decode(ids, skip_special_tokens=False)]
                               for ids in random_ids(tokenizer, 40)]
    tokenizer = literal_tokenizer(text.decode("utf-8"))
    literal = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    reference["literal"] = {str(i): ids for i, ids in enumerate(literal) if ids != encode[i]}
    out = DATA / f"{name}.ids.json"
    out.write_text("{" + ",\n".join(f"{compact(key)}:{compact(value)}" for key, value in reference.items()) + "}\n",
                   encoding="utf-8")
    print(out.relative_to(ROOT), sum(map(len, encode)), "ids,", len(reference["literal"]), "lines with look-alikes")


def main(arguments):
    if arguments == ["train"]:
        train()
    elif arguments == ["ids"]:
        for name in ("byte_bpe", "spm_bpe", "unigram"):
            write_ids(name, DATA / f"{name}.json")
        write_ids("classics", ROOT / "models/classics-moe-4bit/tokenizer.json")
    elif len(arguments) == 2 and arguments[0] == "ids":
        for path in sorted(pathlib.Path(arguments[1]).glob("*/tokenizer.json")):
            write_ids(path.parent.name, path)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
