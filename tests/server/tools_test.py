"""Tools and reasoning in every protocol. The bundled model calls no tools unless it is made to; what it writes inside
of an open <think> is reasoning all the same, and what a template prints of tools and earlier calls shows in the
prompt's length."""

import json
import pathlib
import tempfile
import unittest

from serving import NAME, Server

TEMPLATE = str(pathlib.Path(__file__).with_name("tools_template.jinja"))
QUESTION = "It was a dark night, and the wind was howling over the moor, as the old man"
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "seed": 3, "max_tokens": 16}
MESSAGE = {"model": NAME, "messages": CHAT["messages"], "max_tokens": 16, "top_k": 1}
OLLAMA = {"model": NAME, "messages": CHAT["messages"], "options": {"seed": 3, "num_predict": 16}}
HISTORY = [{"role": "user", "content": QUESTION},
           {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [
               {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
           {"role": "tool", "tool_call_id": "c1", "content": "The sun is shining."}]
# What a schema says here is bounded, so that a model that knows nothing of it comes to an end.
ARGUMENTS = {"type": "object", "properties": {
    "zone": {"type": "integer", "minimum": 0, "maximum": 99}, "city": {"enum": ["Rome", "New York"]},
    "notes": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2}},
    "required": ["zone", "city"], "additionalProperties": False}
FORCED = {"type": "function", "function": {"name": "report", "parameters": ARGUMENTS, "strict": True}}
NOTHING = {"type": "function", "function": {"name": "now"}}


def fits(arguments):
    """Whether a call's arguments are those of ARGUMENTS."""
    if not set(arguments) <= {"zone", "city", "notes"} or not {"zone", "city"} <= set(arguments):
        return False
    notes = arguments.get("notes", [])
    return (isinstance(arguments["zone"], int) and 0 <= arguments["zone"] <= 99
            and arguments["city"] in ("Rome", "New York") and isinstance(notes, list) and len(notes) <= 2
            and all(isinstance(note, str) and len(note) <= 8 for note in notes))


def sse(data):
    return [json.loads(e.split("data: ")[-1]) for e in data.decode().split("\n\n") if "data: {" in e]


class Tools(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512", "--chat-template", TEMPLATE, template=False)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ok(self, path, body):
        status, answer = self.server.json("POST", path, body)
        self.assertEqual(status, 200, answer)
        return answer

    def rendered(self, text):
        return self.ok("/v1/completions", {"model": NAME, "prompt": text, "seed": 3, "max_tokens": 16})

    def test_tools_reach_the_prompt(self):
        shown = "Tools: " + json.dumps([TOOL]) + "\n\n" + QUESTION + "\n\n"
        expected = self.rendered(shown)
        answer = self.ok("/v1/chat/completions", {**CHAT, "tools": [TOOL]})
        self.assertEqual(answer["usage"]["prompt_tokens"], expected["usage"]["prompt_tokens"])
        self.assertEqual(answer["choices"][0]["message"]["content"], expected["choices"][0]["text"])
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        without = self.ok("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "none"})
        self.assertLess(without["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens"])
        function = TOOL["function"]
        anthropic = {"name": function["name"], "description": function["description"],
                     "input_schema": function["parameters"]}
        usage = self.ok("/v1/messages", {**MESSAGE, "tools": [anthropic]})["usage"]
        self.assertEqual(usage["input_tokens"] + usage["cache_read_input_tokens"], expected["usage"]["prompt_tokens"])
        counted = self.ok("/v1/messages/count_tokens", {**MESSAGE, "tools": [anthropic]})
        self.assertEqual(counted["input_tokens"], expected["usage"]["prompt_tokens"])
        answer = self.ok("/api/chat", {**OLLAMA, "stream": False, "tools": [TOOL]})
        self.assertEqual(answer["prompt_eval_count"], expected["usage"]["prompt_tokens"])

    def test_earlier_calls_reach_the_prompt(self):
        shown = (QUESTION + '\n\n<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>\n\n'
                 "<tool_response>weather: The sun is shining.\n\n")
        expected = self.rendered(shown)
        answer = self.ok("/v1/chat/completions", {**CHAT, "messages": HISTORY})
        self.assertEqual(answer["choices"][0]["message"]["content"], expected["choices"][0]["text"])
        blocks = [{"role": "user", "content": QUESTION},
                  {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""},
                                                    {"type": "tool_use", "id": "c1", "name": "weather",
                                                     "input": {"city": "Rome"}}]},
                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1",
                                                "content": [{"type": "text", "text": "The sun is shining."}]}]}]
        counted = self.ok("/v1/messages/count_tokens", {"model": NAME, "messages": blocks})
        self.assertEqual(counted["input_tokens"], expected["usage"]["prompt_tokens"])
        ollama = [HISTORY[0], {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Rome"}}}]},
            {"role": "tool", "tool_name": "weather", "content": "The sun is shining."}]
        answer = self.ok("/api/chat", {**OLLAMA, "stream": False, "messages": ollama})
        self.assertEqual(answer["message"]["content"], expected["choices"][0]["text"])

    def test_reasoning_has_its_own_field(self):
        expected = self.rendered(QUESTION + "\n\n<think>\n")["choices"][0]["text"].strip()
        chat = {**CHAT, "chat_template_kwargs": {"enable_thinking": True}}
        message = self.ok("/v1/chat/completions", chat)["choices"][0]["message"]
        self.assertEqual((message["content"], message["reasoning_content"], message["reasoning"]),
                         ("", expected, expected))
        events = [json.loads(e) for e in self.server.events("/v1/chat/completions", chat)[:-1]]
        deltas = [e["choices"][0]["delta"] for e in events]
        self.assertEqual("".join(d.get("reasoning_content", "") for d in deltas), expected)
        self.assertEqual("".join(d.get("content", "") for d in deltas), "")
        body = {**MESSAGE, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        content = self.ok("/v1/messages", body)["content"]
        self.assertEqual([block["type"] for block in content], ["thinking", "text"])
        events = [json.loads(e.split("data: ")[-1]) for e in self.server.request(
            "POST", "/v1/messages", {**body, "stream": True})[2].decode().split("\n\n") if "data: " in e]
        self.assertEqual("".join(e["delta"]["thinking"] for e in events if e["type"] == "content_block_delta"),
                         content[0]["thinking"])
        answer = self.ok("/api/chat", {**OLLAMA, "stream": False, "think": True})
        self.assertEqual((answer["message"]["content"], answer["message"]["thinking"]), ("", expected))
        answer = self.ok("/api/chat", {**OLLAMA, "stream": False, "think": False})
        self.assertNotIn("thinking", answer["message"])

    def check_calls(self, calls, finish, several):
        self.assertEqual(finish in ("tool_calls", "tool_use", "completed"), True, finish)
        self.assertEqual(len(calls) == 1 or several, True, calls)
        self.assertGreaterEqual(len(calls), 1)
        for name, arguments in calls:
            self.assertIn(name, ("report", "now"))
            self.assertEqual(fits(json.loads(arguments)) if name == "report" else json.loads(arguments) == {}, True,
                             (name, arguments))

    def test_chat_completions_are_forced_to_call(self):
        named = {"type": "function", "function": {"name": "report"}}
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
        for seed in range(1, 9):
            for choice in ("required", named, allowed):
                body = {**CHAT, "tools": [FORCED, NOTHING], "tool_choice": choice, "seed": seed, "temperature": 1,
                        "max_tokens": 200, "parallel_tool_calls": False}
                answer = self.ok("/v1/chat/completions", body)["choices"][0]
                message = answer["message"]
                self.assertIsNone(message["content"])
                calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
                self.check_calls(calls, answer["finish_reason"], False)
                if choice != "required":
                    self.assertEqual(calls[0][0], "report")
                events = [json.loads(e) for e in self.server.events("/v1/chat/completions", body)[:-1]]
                deltas = [d for e in events for d in e["choices"][0]["delta"].get("tool_calls", [])]
                self.assertEqual(deltas[0]["function"]["name"], calls[0][0])
                self.assertEqual("".join(d["function"]["arguments"] for d in deltas), calls[0][1])
                self.assertEqual("".join(e["choices"][0]["delta"].get("content", "") for e in events), "")
                self.assertEqual(events[-1]["choices"][0]["finish_reason"], "tool_calls")

    def test_several_calls_may_be_forced(self):
        counts = set()
        for seed in range(1, 13):
            answer = self.ok("/v1/chat/completions", {
                **CHAT, "tools": [FORCED, NOTHING], "tool_choice": "required", "seed": seed, "temperature": 1,
                "max_tokens": 300})["choices"][0]
            calls = [(c["function"]["name"], c["function"]["arguments"]) for c in answer["message"]["tool_calls"]]
            if answer["finish_reason"] == "tool_calls":
                self.check_calls(calls, answer["finish_reason"], True)
            counts.add(len(calls))
        self.assertGreater(max(counts), 1)

    def test_responses_are_forced_to_call(self):
        tools = [{"type": "function", **FORCED["function"]}, {"type": "function", "name": "now", "parameters": None}]
        for seed in range(1, 5):
            for choice in ("required", {"type": "function", "name": "report"}):
                body = {"model": NAME, "input": QUESTION, "tools": tools, "tool_choice": choice, "seed": seed,
                        "temperature": 1, "max_output_tokens": 200, "parallel_tool_calls": False}
                answer = self.ok("/v1/responses", body)
                self.assertEqual([item["type"] for item in answer["output"]], ["function_call"])
                call = answer["output"][0]
                self.check_calls([(call["name"], call["arguments"])], answer["status"], False)
                self.assertEqual(answer["usage"]["output_tokens_details"]["reasoning_tokens"], 0)
                events = sse(self.server.request("POST", "/v1/responses", {**body, "stream": True})[2])
                done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
                self.assertEqual([e["arguments"] for e in done], [call["arguments"]])
                self.assertEqual(events[-1]["type"], "response.completed")

    def test_messages_are_forced_to_call(self):
        function = FORCED["function"]
        tools = [{"name": "report", "input_schema": function["parameters"], "strict": True},
                 {"name": "now", "input_schema": {"type": "object", "properties": {}}}]
        for temperature in (0.0, 0.5, 1.0):
            for choice in ({"type": "any"}, {"type": "tool", "name": "report"}):
                body = {"model": NAME, "messages": MESSAGE["messages"], "max_tokens": 200, "tools": tools,
                        "temperature": temperature, "tool_choice": {**choice, "disable_parallel_tool_use": True}}
                answer = self.ok("/v1/messages", body)
                self.assertEqual([block["type"] for block in answer["content"]], ["tool_use"])
                call = answer["content"][0]
                self.check_calls([(call["name"], json.dumps(call["input"]))], answer["stop_reason"], False)
                events = sse(self.server.request("POST", "/v1/messages", {**body, "stream": True})[2])
                starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
                self.assertEqual([block["type"] for block in starts], ["tool_use"])
                arguments = "".join(e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta")
                self.check_calls([(starts[0]["name"], arguments)], "tool_use", False)

    def test_reasoning_is_counted(self):
        chat = {**CHAT, "chat_template_kwargs": {"enable_thinking": True}}
        usage = self.ok("/v1/chat/completions", chat)["usage"]
        self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": 16})
        self.assertEqual(usage["completion_tokens"], 16)
        usage = self.ok("/v1/chat/completions", CHAT)["usage"]
        self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": 0})
        last = json.loads(self.server.events("/v1/chat/completions", {
            **chat, "stream_options": {"include_usage": True}})[-2])
        self.assertEqual(last["usage"]["completion_tokens_details"], {"reasoning_tokens": 16})

    def test_what_cannot_be_done_is_refused(self):
        def refused(path, body):
            status, answer = self.server.json("POST", path, body)
            self.assertEqual(status, 400, answer)
            return answer["error"]

        error = refused("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": {
            "type": "function", "function": {"name": "storm"}}})
        self.assertEqual((error["code"], error["param"]), ("invalid_request", "tool_choice"))
        self.assertIn("storm", error["message"])
        error = refused("/v1/chat/completions", {**CHAT, "tool_choice": "required"})
        self.assertIn("no tools", error["message"])
        strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {
            "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}}
        for choice in ("required", "auto"):
            error = refused("/v1/chat/completions", {**CHAT, "tools": [strict], "tool_choice": choice})
            self.assertEqual((error["code"], error["param"]), ("invalid_request", "tools"))
            self.assertIn("parameters of f", error["message"])
            self.assertIn("$.properties.a", error["message"])
        error = refused("/v1/messages", {**MESSAGE, "tools": [{"name": "f", "input_schema": {}}],
                                         "tool_choice": {"type": "tool"}})
        self.assertEqual(error["type"], "invalid_request_error")

    def test_forms_of_calls_without_a_marker(self):
        """Of the other families' forms: what they cannot do is said."""
        template = ("{{ tools | tojson if tools }}{% for message in messages %}{{ message.content }}{% endfor %}"
                    "{# MARKER #}")
        for marker, form in (("", "plain JSON"), ("<function=", "Qwen3-Coder")):
            with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
                file.write(template.replace("MARKER", marker))
                file.flush()
                with Server("--preload", "--max-context", "512", "--chat-template", file.name, template=False) as other:
                    body = {**CHAT, "tools": [FORCED], "max_tokens": 200, "temperature": 1}
                    status, headers, _ = other.request("POST", "/v1/chat/completions", body)
                    self.assertEqual(status, 200)
                    warning = headers.get("X-MLX-Flash-Warning", "")
                    self.assertEqual("strict has no effect" in warning, marker == "", warning)
                    if marker == "":
                        self.assertIn(form, warning)
                        status, answer = other.json("POST", "/v1/chat/completions", {**body, "tool_choice": "required",
                                                                                     "parallel_tool_calls": False})
                        self.assertEqual(status, 200, answer)
                        call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
                        self.check_calls([(call["name"], call["arguments"])], "tool_calls", False)
                        continue
                    pattern = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {
                        "a": {"type": "string", "pattern": "x+"}}}}
                    status, answer = other.json("POST", "/v1/chat/completions", {
                        **CHAT, "tools": [{"type": "function", "function": pattern}], "tool_choice": "required"})
                    self.assertEqual((status, answer["error"]["code"]), (400, "unsupported"))
                    self.assertIn(form, answer["error"]["message"])

    def test_capabilities(self):
        self.assertEqual(self.ok("/api/show", {"model": NAME})["capabilities"], ["completion", "tools", "thinking"])


if __name__ == "__main__":
    unittest.main()
