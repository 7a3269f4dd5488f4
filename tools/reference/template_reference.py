#!/usr/bin/env python3
"""Writes tests/data/text/templates.json: the conversations in tests/data/text/ as chat templates print them.

    template_reference.py [FOLDER]      FOLDER: where tools/fetch_tokenizers.sh put other people's templates

`own`: for each templates/NAME.jinja the text per conversation, null where rendering fails. `fetched`: for each template
in FOLDER (tokenizer_config.json of NAME, llama.cpp/templates/NAME.jinja) per conversation the FNV-1a hash (64 bits,
hexadecimal) of the text and its bytes. Rendered by transformers' own environment (Jinja2, sandboxed) with bos_token "<s>",
eos_token "</s>" and the clock at NOW. With node and the npm package @huggingface/jinja (NODE_PATH), a second opinion
is counted on stderr.

Made with transformers 5.23.0, Jinja2 3.1.6, @huggingface/jinja 0.5.11.
"""

import datetime
import json
import pathlib
import subprocess
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "text"
NOW = datetime.datetime(2024, 7, 26, 15, 4, 5)

NODE = r"""
const { Template } = require("@huggingface/jinja");
const jobs = JSON.parse(require("fs").readFileSync(0, "utf8"));
const out = jobs.map(({ source, variables }) => {
  try { return new Template(source).render(variables); } catch (error) { return null; }
});
process.stdout.write(JSON.stringify(out));
"""


def variables(conversation):
    chosen = {"messages": conversation["messages"], "tools": conversation.get("tools"), "documents": None,
              "add_generation_prompt": conversation.get("add_generation_prompt", True),
              "bos_token": "<s>", "eos_token": "</s>", **conversation.get("variables", {})}
    if "enable_thinking" in conversation:
        chosen["enable_thinking"] = conversation["enable_thinking"]
    return chosen


def render(source, conversation):
    try:
        return _compile_jinja_template(source).render(strftime_now=NOW.strftime, **variables(conversation))
    except Exception:  # Whatever stops a template: its raise_exception, a wrong type, a missing member.
        return None


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"{value:016x}"


def digest(text):
    return None if text is None else [fnv1a(text.encode("utf-8")), len(text.encode("utf-8"))]


def fetched_templates(folder):
    for path in sorted(folder.glob("*/tokenizer_config.json")):
        source = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(source, str):
            yield path.parent.name, source
    for path in sorted(folder.glob("llama.cpp/templates/*.jinja")):
        yield path.name, path.read_text(encoding="utf-8")


def second_opinion(rendered):
    jobs = [{"source": source, "variables": variables(conversation)} for source, conversation, _ in rendered]
    try:
        answer = subprocess.run(["node", "-e", NODE], input=json.dumps(jobs), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print("no second opinion:", error, file=sys.stderr)
        return
    both = [(text, other) for (_, _, text), other in zip(rendered, json.loads(answer.stdout)) if text and other]
    same = sum(text == other for text, other in both)
    print(f"@huggingface/jinja agrees on {same} of the {len(both)} texts that both render", file=sys.stderr)


def main(arguments):
    conversations = json.loads((DATA / "conversations.json").read_text(encoding="utf-8"))
    own, fetched, rendered = {}, {}, []
    sources = [(own, path.name, path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("templates/*.jinja"))]
    if arguments:
        sources += [(fetched, name, source) for name, source in fetched_templates(pathlib.Path(arguments[0]))]
    for table, name, source in sources:
        texts = {item["name"]: render(source, item) for item in conversations}
        rendered += [(source, item, texts[item["name"]]) for item in conversations]
        table[name] = texts if table is own else {key: digest(text) for key, text in texts.items()}
    second_opinion(rendered)
    lines = ['{"own":' + json.dumps(own, ensure_ascii=False, indent=1) + ',', '"fetched":{']
    lines += [f"{json.dumps(name)}:{json.dumps(texts, ensure_ascii=False, separators=(',', ':'))}" +
              ("," if i + 1 < len(fetched) else "") for i, (name, texts) in enumerate(fetched.items())]
    (DATA / "templates.json").write_text("\n".join(lines) + "\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
