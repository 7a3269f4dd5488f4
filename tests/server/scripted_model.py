"""A model that says what a script says: an ordinary model folder, for tests of what clients make of answers.

Everything behind it is the product's own: server, template, scheduler, forward pass, tokenizer, parser of calls. The
weights are those of a chain: each piece of a script is a token of its own, and behind a token the model knows exactly
one next one, whatever temperature a client asks for. The chat template, of Qwen's form, ends a prompt with a token that
names the turn: how many results of tools it has seen, or that there are no tools.
"""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = 131072
PIECE = 5  # Characters of a piece, at least: markers of calls and reasoning are cut into several.

# What Qwen 3's says of tools, calls and reasoning, and the turn's token.
TEMPLATE = r"""
{%- set system = messages | selectattr("role", "equalto", "system") | map(attribute="content") | join("\n\n") -%}
{%- if system or tools -%}
<|im_start|>system
{{ system }}
{%- if tools %}

# Tools

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags.
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages if message.role != "system" -%}
<|im_start|>{{ "user" if message.role == "tool" else message.role }}
{% if message.role == "tool" -%}
<tool_response>
{{ message.content }}
</tool_response>
{%- else -%}
{%- if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif -%}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% set results = messages | selectattr("role", "equalto", "tool") | list | length -%}
<|turn {{ results if tools else "plain" }}|>
{%- endif -%}
"""


def call(name, arguments):
    """A call as Qwen 3 writes it."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def byte_characters():
    """The characters that stand for bytes in vocabularies of GPT-2's kind."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = (byte for byte in range(256) if byte not in plain)
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def pieces(text, taken):
    """`text` cut so that each piece is new to `taken`, which it joins."""
    out, begin = [], 0
    while begin < len(text):
        end = begin + PIECE
        while text[begin:end] in taken and end < len(text):
            end += 1
        out.append(text[begin:end])
        while out[-1] in taken:  # The last one, which is short.
            taken.remove(out[-2])
            out[-2:] = [out[-2] + out[-1]]
        taken.add(out[-1])
        begin = end
    return out


def matrix(rows, columns, entries):
    """bf16, zero but for `entries` {(row, column): value}."""
    data = bytearray(2 * rows * columns)
    for (row, column), value in entries.items():
        struct.pack_into("<H", data, 2 * (row * columns + column), struct.unpack("<I", struct.pack("<f", value))[0] >> 16)
    return [rows, columns], bytes(data)


def ones(count):
    return [count], b"\x80\x3f" * count


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def write_model(folder, turns, plain="All is well.", template=TEMPLATE):
    """Writes the model. `turns[i]` is its answer after `i` results of tools; `plain` where it is given no tools. An
    answer may be a list: of its pieces."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((ROOT / "models/classics-moe-4bit/tokenizer.json").read_text())
    spelled, vocabulary = byte_characters(), tokenizer["model"]["vocab"]
    ids, following = {}, {}  # Of the tokens in scripts; what stands behind each.
    taken = set()
    for turn, text in [*((str(i), text) for i, text in enumerate(turns)), ("plain", plain)]:
        token = before = len(vocabulary)
        vocabulary[f"<|turn {turn}|>"] = token
        tokenizer["added_tokens"].append({"id": token, "content": f"<|turn {turn}|>", "single_word": False,
                                          "lstrip": False, "rstrip": False, "normalized": False, "special": True})
        ids[token] = len(ids)
        for piece in text if isinstance(text, list) else pieces(text, taken):
            spelling = "".join(spelled[byte] for byte in piece.encode())
            token = vocabulary.setdefault(spelling, len(vocabulary))
            assert token not in ids, f"the piece {piece!r} comes twice"
            ids[token] = len(ids)
            following[before] = before = token
        following[before] = vocabulary["<|im_end|>"]
    rows, width, head = len(vocabulary), -(-len(ids) // 64) * 64, 16
    layer = "model.layers.0."
    write_safetensors(folder / "model.safetensors", {
        "model.embed_tokens.weight": matrix(rows, width, {(token, place): 1.0 for token, place in ids.items()}),
        "lm_head.weight": matrix(rows, width, {(after, ids[token]): 64.0 for token, after in following.items()}),
        "model.norm.weight": ones(width),
        layer + "input_layernorm.weight": ones(width),
        layer + "post_attention_layernorm.weight": ones(width),
        **{f"{layer}self_attn.{name}_proj.weight": matrix(head, width, {}) for name in "qkv"},
        layer + "self_attn.o_proj.weight": matrix(width, head, {}),
        **{f"{layer}mlp.{name}_proj.weight": matrix(64, width, {}) for name in ("gate", "up")},
        layer + "mlp.down_proj.weight": matrix(width, 64, {})})
    files = {
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
                        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
                        "num_key_value_heads": 1, "head_dim": head, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                        "rope_theta": 10000.0, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
                        "eos_token_id": vocabulary["<|im_end|>"], "vocab_size": rows, "torch_dtype": "bfloat16"},
        "generation_config.json": {"eos_token_id": vocabulary["<|im_end|>"], "do_sample": True, "temperature": 1.0},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                  "chat_template": template.lstrip("\n").rstrip("\n")},
        "tokenizer.json": tokenizer}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
