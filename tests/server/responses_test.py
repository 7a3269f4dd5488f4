"""OpenAI's responses protocol without an SDK: events, what is refused, heartbeats, failures."""

import contextlib
import json
import unittest

from serving import NAME, Server, post, read_all, read_until

INPUT = "It was a dark night, and the wind was howling over the moor, as the old man walked along the shore."
BODY = {"model": NAME, "input": INPUT, "seed": 3, "max_output_tokens": 16}
LONG = {"prompt": "The old man walked along the shore and", "max_tokens": 4000, "ignore_eos": True, "seed": 1}


def events_of(data):
    """The events in `data`: names as in the data, numbers without a gap."""
    events = []
    for block in data.split("\n\n"):
        # A chunk's length may stand before it.
        lines = [line for line in block.replace("\r", "").split("\n") if line.startswith(("event: ", "data: "))]
        if len(lines) == 2:
            event = json.loads(lines[1][6:])
            assert lines[0] == "event: " + event["type"], lines
            assert event["sequence_number"] == len(events), event
            events.append(event)
    return events


class Responses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def whole(self, **members):
        status, answer = self.server.json("POST", "/v1/responses", {**BODY, **members})
        self.assertEqual(status, 200, answer)
        return answer

    def stream(self, **members):
        status, _, data = self.server.request("POST", "/v1/responses", {**BODY, **members, "stream": True})
        self.assertEqual(status, 200, data)
        return events_of(data.decode())

    def test_whole(self):
        answer = self.whole(metadata={"a": "b"}, instructions="A story.", top_p=0.5)
        self.assertRegex(answer["id"], "^resp_[0-9a-f]{16}$")
        self.assertEqual((answer["object"], answer["status"], answer["model"], answer["store"]),
                         ("response", "incomplete", NAME, False))
        self.assertEqual(answer["incomplete_details"], {"reason": "max_output_tokens"})
        self.assertEqual((answer["metadata"], answer["instructions"], answer["top_p"]), ({"a": "b"}, "A story.", 0.5))
        item, = answer["output"]
        self.assertEqual((item["type"], item["role"], item["content"][0]["type"]),
                         ("message", "assistant", "output_text"))
        self.assertGreater(len(item["content"][0]["text"]), 16)
        usage = answer["usage"]
        self.assertEqual((usage["output_tokens"], usage["total_tokens"]), (16, usage["input_tokens"] + 16))

    def test_a_stream_says_the_same(self):
        whole = self.whole(top_logprobs=1)
        events = self.stream(top_logprobs=1)
        types = [event["type"] for event in events]
        self.assertEqual(types[:4], ["response.created", "response.in_progress", "response.output_item.added",
                                     "response.content_part.added"])
        self.assertEqual(types[-4:], ["response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.incomplete"])
        self.assertEqual(set(types[4:-4]), {"response.output_text.delta"})
        part = whole["output"][0]["content"][0]
        self.assertEqual("".join(event["delta"] for event in events[4:-4]), part["text"])
        self.assertEqual([one for event in events[4:-4] for one in event["logprobs"]], part["logprobs"])
        self.assertEqual(events[-1]["response"]["output"][0]["content"], whole["output"][0]["content"])
        self.assertEqual(events[-1]["response"]["usage"]["output_tokens"], 16)

    def test_items_and_instructions_are_one_prompt(self):
        items = [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "A story."}]},
                 {"role": "user", "content": [{"type": "input_text", "text": INPUT}]}]
        self.assertEqual(self.whole(input=items)["output"][0]["content"],
                         self.whole(instructions="A story.")["output"][0]["content"])
        chat = self.server.json("POST", "/v1/chat/completions", {
            "messages": [{"role": "system", "content": "A story."}, {"role": "user", "content": INPUT}],
            "seed": 3, "max_tokens": 16})[1]
        self.assertEqual(chat["choices"][0]["message"]["content"],
                         self.whole(instructions="A story.")["output"][0]["content"][0]["text"])

    def test_a_schema_is_kept(self):
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
                  "additionalProperties": False}
        answer = self.whole(text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
                            max_output_tokens=100)
        self.assertEqual(answer["status"], "completed")
        self.assertIsInstance(json.loads(answer["output"][0]["content"][0]["text"])["age"], int)

    def test_what_is_not_there_is_said(self):
        for members, param in (({"previous_response_id": "resp_1"}, "previous_response_id"),
                               ({"conversation": {"id": "c"}}, "conversation"), ({"background": True}, "background"),
                               ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools"),
                               ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
                               ({"text": {"format": {"type": "json_schema"}}}, "text")):
            status, answer = self.server.json("POST", "/v1/responses", {**BODY, **members})
            self.assertEqual((status, answer["error"]["param"]), (400, param))
        status, headers, _ = self.server.request("POST", "/v1/responses", {
            **BODY, "store": True, "tools": [{"type": "web_search"}], "include": ["reasoning.encrypted_content"]})
        self.assertEqual(status, 200)
        self.assertIn("X-MLX-Flash-Warning", headers)
        status, answer = self.server.json("POST", "/v1/responses", {**BODY, "input": "word " * 2000})
        self.assertEqual((status, answer["error"]["code"]), (400, "context_length_exceeded"))


class Streams(unittest.TestCase):
    def test_heartbeats_are_events(self):
        with Server("--preload", "--parallel", "1") as server, contextlib.ExitStack() as before:
            for _ in range(8):  # They come first, each for some seconds.
                before.enter_context(server.connect()).sendall(post("/v1/completions", LONG))
            self.assertTrue(server.await_metric("mlx_flash_requests_waiting", 7, 30))
            with server.connect() as connection:
                connection.sendall(post("/v1/responses", {**BODY, "stream": True}))
                # The one at the start, and one while it waits.
                data = read_until(connection, b"event: response.in_progress")
                data += read_until(connection, b"event: response.in_progress")
                before.close()
                if not data.endswith(b"0\r\n\r\n"):
                    data += read_until(connection, b"0\r\n\r\n")
            types = [event["type"] for event in events_of(data.decode())]
            self.assertGreater(types.count("response.in_progress"), 1)
            self.assertEqual(types[-1], "response.incomplete")

    def test_a_model_that_cannot_be_loaded_fails_the_stream(self):
        with Server(budget="64MiB") as server:
            status, _, data = server.request("POST", "/v1/responses", {**BODY, "stream": True})
            types = [event["type"] for event in events_of(data.decode())]
            self.assertEqual((status, types), (200, ["response.created", "response.in_progress", "response.failed"]))

    def test_a_stream_that_is_cut_off_says_so(self):
        with Server("--preload", "--drain", "0") as server, server.connect() as connection:
            connection.sendall(post("/v1/responses", {**BODY, "max_output_tokens": 4000, "ignore_eos": True,
                                                      "stream": True}))
            data = read_until(connection, b"output_text.delta")
            server.stop()
            events = events_of((data + read_all(connection)).decode())
            self.assertEqual(events[-1]["type"], "response.failed")
            self.assertEqual(events[-1]["response"]["error"]["code"], "draining")


if __name__ == "__main__":
    unittest.main()
