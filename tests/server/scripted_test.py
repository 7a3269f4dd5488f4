"""Agents' conversations against a model that says what a script says: calls, their results, and what comes last.

The requests have the form in which Codex and Claude Code send theirs; agents_test.py runs those programs themselves.
"""

import json
import pathlib
import tempfile
import unittest

from scripted_model import call, write_model
from serving import Server

CLOSING = "Done: the file holds a greeting."
PATCH = '*** Begin Patch\n*** Add File: "a".txt\n+Grüße\n*** End Patch'


class Scripted(unittest.TestCase):
    turns = []
    more = {}

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        model = pathlib.Path(cls.folder.name) / "scripted"
        write_model(model, cls.turns, **cls.more)
        cls.server = Server("--preload", "--max-context", "32768", template=False, model=model)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()


class Messages(Scripted):
    """A turn that thinks, says and calls, one with two calls at once, and a text; as Claude Code asks for them."""

    turns = ["<think>\nI must write it.\n</think>\n\nI write the file.\n" +
             call("Write", {"file_path": "/tmp/hello.txt", "content": "Hello, \"world\".\n"}),
             call("Read", {"file_path": "/tmp/hello.txt"}) + "\n" + call("Read", {"file_path": "/tmp/none"}),
             "Never said.", CLOSING]
    TOOLS = [{"name": name, "description": "d", "input_schema": {"type": "object", "properties": {
        "file_path": {"type": "string"}, "content": {"type": "string"}}, "required": ["file_path"]}}
        for name in ("Write", "Read")]

    def ask(self, messages, **more):
        body = {"model": "local", "max_tokens": 32000, "tools": self.TOOLS, "stream": True, "messages": messages,
                "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}],
                "metadata": {"user_id": "u"}, "thinking": {"type": "adaptive", "display": "omitted"},
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
                "output_config": {"effort": "high"}, **more}
        status, headers, data = self.server.request("POST", "/v1/messages?beta=true", body,
                                                    {"anthropic-version": "2023-06-01", "anthropic-beta": "x-2025-01-01"})
        self.assertEqual(status, 200, data)
        self.headers = headers
        events = [json.loads(block.split("data: ", 1)[1]) for block in data.decode().split("\n\n") if block]
        blocks = []
        for event in events:
            if event["type"] == "content_block_start":
                blocks.append({**event["content_block"], "written": ""})
            elif event["type"] == "content_block_delta":
                blocks[-1]["written"] += next(v for k, v in event["delta"].items() if k != "type")
        last = next(event for event in events if event["type"] == "message_delta")
        return blocks, last

    def test_a_task_with_tools(self):
        messages = [{"role": "user", "content": [{"type": "text", "text": "Write hello.txt, then show it."}]},
                    {"role": "system", "content": [{"type": "text", "text": "# Environment"}]}]
        blocks, last = self.ask(messages)
        self.assertEqual([b["type"] for b in blocks], ["thinking", "text", "tool_use"])
        self.assertEqual((blocks[0]["written"], blocks[1]["written"]), ("I must write it.", "I write the file."))
        self.assertEqual((blocks[2]["name"], json.loads(blocks[2]["written"])),
                         ("Write", {"file_path": "/tmp/hello.txt", "content": "Hello, \"world\".\n"}))
        self.assertEqual((last["delta"]["stop_reason"], last["context_management"]), ("tool_use", {"applied_edits": []}))
        self.assertEqual(self.headers["X-MLX-Flash-Warning"].split(", "), [
            "thinking.display ignored: thinking is shown",
            "reasoning_effort has no effect: the model's chat template does not know it"])
        messages += [{"role": "assistant", "content": [
                         {"type": "thinking", "thinking": blocks[0]["written"], "signature": ""},
                         {"type": "text", "text": blocks[1]["written"]},
                         {"type": "tool_use", "id": blocks[2]["id"], "name": "Write",
                          "input": json.loads(blocks[2]["written"])}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": blocks[2]["id"],
                                                   "content": "File created.", "cache_control": {"type": "ephemeral"}}]}]
        blocks, last = self.ask(messages)
        self.assertEqual([(b["type"], b["name"]) for b in blocks], [("tool_use", "Read")] * 2)
        self.assertNotEqual(blocks[0]["id"], blocks[1]["id"])
        self.assertGreater(last["usage"]["cache_read_input_tokens"], 0)
        results = [{"type": "tool_result", "tool_use_id": blocks[0]["id"],
                    "content": [{"type": "text", "text": "Hello"}, {"type": "image", "source": {"type": "base64"}}]},
                   {"type": "tool_result", "tool_use_id": blocks[1]["id"], "content": "No such file.", "is_error": True}]
        messages += [{"role": "assistant", "content": [{"type": "tool_use", "id": b["id"], "name": b["name"],
                                                        "input": json.loads(b["written"])} for b in blocks]},
                     {"role": "user", "content": results}]
        blocks, last = self.ask(messages)
        self.assertEqual([b["written"] for b in blocks], [CLOSING])
        self.assertEqual(last["delta"]["stop_reason"], "end_turn")
        status, counted = self.server.json("POST", "/v1/messages/count_tokens",
                                           {"model": "local", "messages": messages, "tools": self.TOOLS})
        self.assertEqual(status, 200, counted)
        self.assertGreater(counted["input_tokens"], 100)


class Channels(Scripted):
    """A model that answers in channels, as gpt-oss does: what an answer must be holds for the final one."""

    ANALYSIS = 'Is it {so} or "not"?'
    more = {"plain": ["<|channel|>", "analysis<|message|>", ANALYSIS[:9], ANALYSIS[9:], "<|end|>", "<|start|>assist",
                      "ant<|channel|>fi", "nal", "<|message|>", '{"so":', " true}"],
            "template": "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
                        "{% if tools %}{{ tools | tojson }}{% endif %}"
                        "{% if add_generation_prompt %}<|start|>assistant<|turn plain|>{% endif %}"
                        "{# <|channel|> #}"}

    def ask(self, **more):
        status, reply = self.server.json("POST", "/v1/chat/completions", {
            "model": "local", "messages": [{"role": "user", "content": "Is it so?"}], "max_tokens": 200, **more})
        self.assertEqual(status, 200, reply)
        message = reply["choices"][0]["message"]
        self.assertEqual(message["reasoning_content"], self.ANALYSIS)
        self.assertEqual(reply["choices"][0]["finish_reason"], "stop")
        return message["content"]

    def test_a_form_is_that_of_the_final_channel(self):
        boolean = {"type": "object", "properties": {"so": {"type": "boolean"}}, "required": ["so"],
                   "additionalProperties": False}
        self.assertEqual(json.loads(self.ask()), {"so": True})
        for form in ({"response_format": {"type": "json_object"}},
                     {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": boolean}}},
                     {"grammar": 'root ::= "{\\"so\\":" " "* ("true" | "false") "}"'}):
            self.assertEqual(json.loads(self.ask(**form)), {"so": True}, form)
        # What the model would say in place of it does not come.
        for form in ({"grammar": 'root ::= "maybe"'}, {"grammar": 'start: "maybe"'},
                     {"structured_outputs": {"regex": "maybe"}}):
            self.assertEqual(self.ask(**form), "maybe", form)


class Responses(Scripted):
    """A function of a namespace, a custom tool, and a text; as Codex asks for them."""

    turns = ["<think>\nAnother agent can help.\n</think>\n\n" + call("agents__spawn", {"task": "greet"}),
             call("apply_patch", {"input": PATCH}), CLOSING]
    TOOLS = [{"type": "function", "name": "exec_command", "strict": False,
              "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}},
             {"type": "namespace", "name": "agents", "description": "Other agents.", "tools": [
                 {"type": "function", "name": "spawn", "description": "d", "parameters": {
                     "type": "object", "properties": {"task": {"type": "string"}}}}]},
             {"type": "custom", "name": "apply_patch", "description": "Edits files.",
              "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
             {"type": "web_search"}]

    def ask(self, items):
        body = {"model": "local", "input": items, "tools": self.TOOLS, "tool_choice": "auto", "stream": True,
                "parallel_tool_calls": True, "reasoning": {"summary": "auto"}, "store": False,
                "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "client_metadata": {"a": "b"}}
        events = [json.loads(block.split("data: ", 1)[1])
                  for block in self.server.request("POST", "/v1/responses", body)[2].decode().split("\n\n") if block]
        self.assertEqual([e["sequence_number"] for e in events], list(range(len(events))))
        self.assertEqual(events[-1]["type"], "response.completed", events[-1])
        return events

    def test_a_task_with_tools(self):
        items = [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are an agent."}]},
                 {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment/>"}]},
                 {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Write a file."}]}]
        output = self.ask(items)[-1]["response"]["output"]
        self.assertEqual([(item["type"]) for item in output], ["reasoning", "function_call"])
        self.assertEqual((output[1]["namespace"], output[1]["name"], json.loads(output[1]["arguments"])),
                         ("agents", "spawn", {"task": "greet"}))
        items += [*output, {"type": "function_call_output", "call_id": output[1]["call_id"], "output": [
            {"type": "input_text", "text": "ok"}, {"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]
        events = self.ask(items)
        output = events[-1]["response"]["output"]
        self.assertEqual([(item["type"], item["name"], item["input"]) for item in output],
                         [("custom_tool_call", "apply_patch", PATCH)])
        self.assertEqual("".join(e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"), PATCH)
        self.assertNotIn("response.function_call_arguments.delta", [e["type"] for e in events])
        items += [*output, {"type": "custom_tool_call_output", "call_id": output[0]["call_id"], "output": "Done."}]
        output = self.ask(items)[-1]["response"]["output"]
        self.assertEqual(output[0]["content"][0]["text"], CLOSING)


if __name__ == "__main__":
    unittest.main()
