"""OpenAI's protocol and our own endpoints, without an SDK: shapes, options, errors."""

import base64
import json
import struct
import unittest

from serving import NAME, Server, in_threads

PROMPT = {"model": NAME, "prompt": "The old man walked along the shore and", "seed": 7, "max_tokens": 24}
CHAT = {"model": NAME, "messages": [{"role": "system", "content": "A story."},
                                    {"role": "user", "content": "It was a dark night, and the wind"}],
        "seed": 3, "max_tokens": 16}


class OpenAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ok(self, path, body, headers=None):
        status, answer = self.server.json("POST", path, body, headers)
        self.assertEqual(status, 200, answer)
        return answer

    def refused(self, path, body, status=400):
        code, answer = self.server.json("POST", path, body)
        self.assertEqual(code, status, (body if len(str(body)) < 300 else "...", answer))
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        return answer["error"]

    def test_answers_that_fit_a_schema(self):
        schema = {"type": "object", "additionalProperties": False, "required": ["zeal", "kind", "age"],
                  "properties": {"zeal": {"type": "boolean"}, "kind": {"enum": ["sea", "land"]},
                                 "age": {"type": "integer", "minimum": 1, "maximum": 99}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "story", "strict": True, "schema": schema}}
        for seed in range(4):
            answer = self.ok("/v1/chat/completions", {**CHAT, "seed": seed, "max_tokens": 200,
                                                      "response_format": wanted})
            choice = answer["choices"][0]
            self.assertEqual(choice["finish_reason"], "stop")
            value = json.loads(choice["message"]["content"])
            self.assertEqual(list(value), ["zeal", "kind", "age"], "the schema's own order")
            self.assertIn(value["zeal"], (True, False))
            self.assertIn(value["kind"], ("sea", "land"))
            self.assertTrue(isinstance(value["age"], int) and 1 <= value["age"] <= 99, value)
        text = self.ok("/v1/completions", {**PROMPT, "structured_outputs": {"regex": "(yes|no), [0-9]{3}"}})
        self.assertRegex(text["choices"][0]["text"], r"\A(yes|no), [0-9]{3}\Z")
        text = self.ok("/v1/completions", {**PROMPT, "grammar": 'start: "one" | "two"'})
        self.assertIn(text["choices"][0]["text"], ("one", "two"))
        status, answer = self.server.json("POST", "/v1/messages", {
            "model": NAME, "max_tokens": 200, "messages": CHAT["messages"][1:],
            "output_config": {"format": {"type": "json_schema", "schema": schema}}})
        self.assertEqual(status, 200, answer)
        self.assertIn(json.loads(answer["content"][0]["text"])["kind"], ("sea", "land"))
        status, answer = self.server.json("POST", "/api/chat", {
            "model": NAME, "stream": False, "messages": CHAT["messages"], "format": schema,
            "options": {"num_predict": 200}})
        self.assertEqual(status, 200, answer)
        self.assertIn(json.loads(answer["message"]["content"])["kind"], ("sea", "land"))

    def test_schemas_that_cannot_be_used(self):
        schema = {"type": "object", "properties": {"a": {"type": "strin"}}}
        error = self.refused("/v1/chat/completions", {
            **CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}})
        self.assertEqual(error["param"], "response_format.json_schema.schema")
        self.assertIn("$.properties.a", error["message"])
        self.assertEqual(self.refused("/v1/completions", {**PROMPT, "grammar": "root ::= x"})["param"], "grammar")

    def test_models(self):
        for path in ("/v1/models", f"/v1/models/{NAME}", "/v1/models/local"):
            status, answer = self.server.json("GET", path)
            entry = answer["data"][0] if path == "/v1/models" else answer
            self.assertEqual((status, entry["id"], entry["object"], entry["context_length"]),
                             (200, NAME, "model", 512))
        status, answer = self.server.json("GET", "/v1/models/some%2Fother")
        self.assertEqual((status, answer["error"]["code"]), (404, "model_not_found"))

    def test_chat(self):
        answer = self.ok("/v1/chat/completions", CHAT)
        self.assertEqual(answer["object"], "chat.completion")
        self.assertRegex(answer["id"], "^chatcmpl-[0-9a-f]{16}$")
        self.assertEqual(answer["model"], NAME)
        choice = answer["choices"][0]
        self.assertEqual((choice["index"], choice["message"]["role"], choice["finish_reason"], choice["logprobs"]),
                         (0, "assistant", "length", None))
        usage = answer["usage"]
        self.assertEqual(usage["completion_tokens"], 16)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 16)
        self.assertIn("cached_tokens", usage["prompt_tokens_details"])

    def test_a_stream_says_the_same(self):
        whole = self.ok("/v1/chat/completions", CHAT)
        events = self.server.events("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
        self.assertEqual(events[-1], "[DONE]")
        chunks = [json.loads(event) for event in events[:-1]]
        self.assertEqual(len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}), 1)
        self.assertEqual(chunks[0]["object"], "chat.completion.chunk")
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        *deltas, last, usage = chunks
        self.assertEqual({c["choices"][0]["finish_reason"] for c in deltas}, {None})
        self.assertEqual((last["choices"][0]["delta"], last["choices"][0]["finish_reason"]), ({}, "length"))
        self.assertEqual((usage["choices"], usage["usage"]["completion_tokens"]), ([], 16))
        text = "".join(c["choices"][0]["delta"]["content"] for c in deltas)
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertGreater(len(deltas), 5, "token by token")

    def test_neighbours_change_nothing(self):
        alone = self.ok("/v1/completions", PROMPT)["choices"][0]["text"]
        bodies = [PROMPT, {**PROMPT, "seed": 8}, {**PROMPT, "prompt": "Once"}, PROMPT, {**CHAT, "prompt": "x"}, PROMPT]
        texts = in_threads(lambda i: self.ok("/v1/completions", bodies[i])["choices"][0]["text"], len(bodies))
        self.assertEqual([texts[0], texts[3], texts[5]], [alone] * 3)
        self.assertNotEqual(texts[1], alone)

    def test_sampling_options(self):
        greedy = {**PROMPT, "temperature": 0}
        first = self.ok("/v1/completions", {**greedy, "seed": 1})["choices"][0]["text"]
        self.assertEqual(self.ok("/v1/completions", {**greedy, "seed": 2})["choices"][0]["text"], first)
        for option in ({"temperature": 2}, {"top_p": 0.1}, {"top_k": 1}, {"min_p": 0.5}, {"typical_p": 0.3},
                       {"presence_penalty": 2}, {"frequency_penalty": 2}, {"repeat_penalty": 1.5}):
            self.ok("/v1/completions", {**PROMPT, **option})
        self.assertEqual(self.ok("/v1/completions", {**PROMPT, "top_k": 1})["choices"][0]["text"], first)
        _, ids = self.server.json("POST", "/tokenize", {"content": " the"})
        banned = {str(i): -100 for i in ids["tokens"]}
        text = self.ok("/v1/completions", {**greedy, "logit_bias": banned, "max_tokens": 60})["choices"][0]["text"]
        self.assertNotIn(" the ", text)

    def test_stop_strings_never_appear(self):
        text = self.ok("/v1/completions", PROMPT)["choices"][0]["text"]
        stop = text[12:19]
        for stops in (stop, ["never said", stop]):
            choice = self.ok("/v1/completions", {**PROMPT, "stop": stops})["choices"][0]
            self.assertEqual((choice["text"], choice["finish_reason"]), (text[:text.index(stop)], "stop"))
        events = self.server.events("/v1/completions", {**PROMPT, "stop": stop})
        streamed = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
        self.assertEqual(streamed, text[:text.index(stop)])

    def test_logprobs(self):
        answer = self.ok("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 3})
        content = answer["choices"][0]["logprobs"]["content"]
        self.assertEqual("".join(e["token"] for e in content), answer["choices"][0]["message"]["content"])
        self.assertEqual(b"".join(bytes(e["bytes"]) for e in content).decode(),
                         answer["choices"][0]["message"]["content"])
        for entry in content:
            self.assertLessEqual(entry["logprob"], 0)
            self.assertEqual(len(entry["top_logprobs"]), 3)
        events = self.server.events("/v1/chat/completions", {**CHAT, "logprobs": True})
        tokens = [entry["token"] for e in events[:-1]
                  for entry in (json.loads(e)["choices"][0]["logprobs"] or {"content": []})["content"]]
        self.assertEqual(tokens, [e["token"] for e in content])
        old = self.ok("/v1/completions", {**PROMPT, "logprobs": 2})["choices"][0]
        self.assertEqual("".join(old["logprobs"]["tokens"]), old["text"])
        self.assertEqual(len(old["logprobs"]["top_logprobs"]), 24)

    def test_embeddings(self):
        texts = ["The old man walked along the shore", "a ship", "The old man walked along the shore"] + ["sea"] * 9
        answer = self.ok("/v1/embeddings", {"model": NAME, "input": texts})
        vectors = [entry["embedding"] for entry in answer["data"]]
        self.assertEqual([entry["index"] for entry in answer["data"]], list(range(12)))
        self.assertEqual(vectors[0], vectors[2])
        self.assertNotEqual(vectors[0], vectors[1])
        for vector in vectors[:2]:
            self.assertAlmostEqual(sum(x * x for x in vector), 1.0, places=5)
        alone = self.ok("/v1/embeddings", {"model": NAME, "input": texts[1]})
        self.assertEqual(alone["data"][0]["embedding"], vectors[1])
        tokens = self.ok("/tokenize", {"content": texts[1], "add_special": True})["tokens"]
        coded = self.ok("/v1/embeddings", {"input": [tokens], "encoding_format": "base64"})
        self.assertEqual(coded["usage"]["total_tokens"], len(tokens))
        packed = base64.b64decode(coded["data"][0]["embedding"])
        self.assertEqual(list(struct.unpack(f"<{len(vectors[1])}f", packed)),
                         [struct.unpack("<f", struct.pack("<f", x))[0] for x in vectors[1]])
        short = self.ok("/v1/embeddings", {"input": texts[1], "dimensions": 8})["data"][0]["embedding"]
        self.assertEqual(len(short), 8)
        self.assertAlmostEqual(sum(x * x for x in short), 1.0, places=5)
        self.assertIn("maximum context length is 512 tokens",
                      self.refused("/v1/embeddings", {"input": ["a", "word " * 600]})["message"])
        self.assertEqual(self.refused("/v1/embeddings", {"input": "a", "dimensions": 99999})["param"], "dimensions")
        self.assertEqual(self.refused("/v1/embeddings", {"input": [[999999999]]})["code"], "invalid_request")
        self.refused("/v1/embeddings", {"model": "other", "input": "a"}, 404)
        cut = self.ok("/api/embed", {"model": NAME, "input": ["a", "word " * 600]})
        self.assertEqual([len(vector) for vector in cut["embeddings"]], [len(vectors[0])] * 2)
        self.assertEqual(self.ok("/api/embeddings", {"model": NAME, "prompt": texts[1]})["embedding"], vectors[1])

    def test_prompts_as_tokens_and_echo(self):
        _, ids = self.server.json("POST", "/tokenize", {"content": PROMPT["prompt"]})
        text = self.ok("/v1/completions", PROMPT)["choices"][0]["text"]
        for prompt in (ids["tokens"], [ids["tokens"]], [PROMPT["prompt"]]):
            self.assertEqual(self.ok("/v1/completions", {**PROMPT, "prompt": prompt})["choices"][0]["text"], text)
        for prompt in (ids["tokens"], PROMPT["prompt"]):
            echoed = self.ok("/v1/completions", {**PROMPT, "prompt": prompt, "echo": True})["choices"][0]["text"]
            self.assertEqual(echoed, PROMPT["prompt"] + text)

    def test_a_next_turn_costs_its_new_tokens(self):
        messages = [{"role": "user", "content": "A long first turn about the sea, the shore and the old man. " * 4}]
        body = {"messages": messages, "seed": 5, "max_tokens": 12}
        first = self.ok("/v1/chat/completions", body)
        messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]},
                     {"role": "user", "content": "And then?"}]
        usage = self.ok("/v1/chat/completions", body)["usage"]
        self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], first["usage"]["prompt_tokens"] - 2)

    def test_messages_in_every_form(self):
        parts = [{"type": "text", "text": "It was a dark night, and the wind"}]
        forms = [{**CHAT, "messages": [{"role": "developer", "content": [{"type": "text", "text": "A story."}]},
                                       {"role": "user", "content": parts, "name": "me"}]}, CHAT]
        texts = {self.ok("/v1/chat/completions", f)["choices"][0]["message"]["content"] for f in forms}
        self.assertEqual(len(texts), 1)

    def test_options_that_have_no_effect_are_named(self):
        _, headers, _ = self.server.request("POST", "/v1/completions", {**PROMPT, "max_tokens": 1, "sed": 5})
        self.assertEqual(headers["X-MLX-Flash-Warning"], "unknown field sed ignored")

    def test_options_that_cannot_be_honoured_are_refused(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for option in ({"n": 2}, {"tools": [tool]}, {"tool_choice": {"type": "custom", "custom": {"name": "f"}}},
                       {"modalities": ["audio"]}, {"store": True}, {"functions": [{"name": "f"}]}):
            error = self.refused("/v1/chat/completions", {**CHAT, **option})
            self.assertEqual((error["code"], error["param"]), ("unsupported", next(iter(option))))
        for option in ({"best_of": 2}, {"suffix": "x"}, {"prompt": ["a", "b"]}, {"echo": True, "logprobs": 1}):
            error = self.refused("/v1/completions", {**PROMPT, **option})
            self.assertEqual((error["code"], error["param"]), ("unsupported", next(iter(option))))
        for message in ({"role": "function", "content": "x", "name": "f"},
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}):
            error = self.refused("/v1/chat/completions", {**CHAT, "messages": [message]})
            self.assertEqual(error["code"], "unsupported")

    def test_values_out_of_range_or_of_a_wrong_type_are_refused(self):
        cases = {"temperature": [-1, 1e9, "1", True, []], "top_p": [-0.1, 1.1, "x"], "max_tokens": [0, -1, 2**31, 2**63, 1.5, "5"],
                 "n": [0, -1, 10**9, "1"], "top_k": [-2, 2**40], "seed": ["x", 1e30], "stop": [5, [5], ["x"] * 65],
                 "stream": ["true", 1], "logit_bias": [[], {"x": 1}, {"1": "x"}, {"1": 101}, {"-5": 1}],
                 "presence_penalty": [3], "frequency_penalty": ["x"], "model": [5], "stream_options": [5],
                 "num_ctx": [-1, 2**31, 4096], "min_p": [2], "repeat_penalty": [0]}
        for name, values in cases.items():
            for value in values:
                error = self.refused("/v1/chat/completions", {**CHAT, name: value})
                self.assertIn(error["code"], ("invalid_request", "unsupported"))
                self.assertIn(name, error["message"])
        for value in ([], {}, "x", [5], [{}], [{"role": "user"}], [{"role": "owl", "content": "x"}],
                      [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}],
                      [{"role": "user", "content": None}]):
            self.refused("/v1/chat/completions", {**CHAT, "messages": value})
        self.assertEqual(self.refused("/v1/chat/completions", {"model": NAME})["message"],
                         "missing required field: messages")
        for value in (None, 5, {}, [], [-1], [1.5], [99999], [True]):
            self.refused("/v1/completions", {**PROMPT, "prompt": value})
        self.refused("/v1/chat/completions", {**CHAT, "top_logprobs": 2})
        self.refused("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 21})

    def test_bodies_that_are_no_requests(self):
        bodies = [b"", b"{", b"[]", b"5", b'{"a": 1} x', b'{"a": 1, "a": 2}', b'{"a": 1e400}', b"// c\n{}", b'\xef\xbb\xbf{',
                  b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b'{"prompt": "\xc0\x80"}', b'{"x": NaN}',
                  b'{"messages": ' + b"[" * 100000, b'{"a":' * 100000, b'{"n": ' + b"9" * 1000000 + b"}"]
        for body in bodies:
            status, _, answer = self.server.request("POST", "/v1/chat/completions", body)
            self.assertEqual(status, 400, (body[:30], answer))
            self.assertIn(json.loads(answer)["error"]["code"], ("invalid_request", "unsupported"))

    def test_an_unknown_model_is_never_another_one(self):
        error = self.refused("/v1/chat/completions", {**CHAT, "model": "gpt-9"}, 404)
        self.assertEqual((error["code"], error["param"]), ("model_not_found", "model"))
        for name in ("local", NAME + ":latest", ""):
            self.ok("/v1/chat/completions", {**CHAT, "model": name, "max_tokens": 1})

    def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(self):
        error = self.refused("/v1/completions", {**PROMPT, "prompt": [5] * 600})
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertIn("maximum context length is 512 tokens", error["message"])
        self.assertIn("resulted in 600 tokens", error["message"])
        self.refused("/v1/completions", {**PROMPT, "prompt": [5] * 40, "num_ctx": 32})
        error = self.refused("/v1/completions", {**PROMPT, "prompt": "word " * 1000000})  # Refused before it is split.
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertIn("5000000 bytes", error["message"])
        answer = self.ok("/v1/completions", {**PROMPT, "prompt": [5] * 500, "max_tokens": 100, "ignore_eos": True})
        self.assertEqual((answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]), (12, "length"))

    def test_text_is_text(self):
        for text in ("naïve 🦊 漢字", "a\u0000b", "<|endoftext|>", "data: [DONE]\n\n"):
            self.ok("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": text}]})
            _, ids = self.server.json("POST", "/tokenize", {"content": text, "parse_special": False})
            _, back = self.server.json("POST", "/detokenize", ids)
            self.assertEqual(back["content"], text)
        _, pieces = self.server.json("POST", "/tokenize", {"content": "The old man", "with_pieces": True})
        self.assertEqual("".join(p["piece"] for p in pieces["tokens"]), "The old man")
        self.refused("/tokenize", {})
        self.refused("/detokenize", {"tokens": [10**9]})
        self.refused("/detokenize", {"tokens": ["x"]})

    def test_health_status_and_metrics(self):
        self.ok("/v1/completions", PROMPT)
        self.assertEqual(self.server.json("GET", "/livez"), (200, {"status": "ok"}))
        status, health = self.server.json("GET", "/health")
        self.assertEqual((status, health["status"], health["model"], health["model_loaded"]), (200, "ok", NAME, True))
        _, full = self.server.json("GET", "/status")
        self.assertEqual((full["scheduler"]["context_tokens"], full["scheduler"]["parallel"]), (512, 4))
        self.assertGreater(full["memory"]["total_gb"], 0)
        _, headers, text = self.server.request("GET", "/metrics")
        self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        seen = set()
        for line in text.decode().splitlines():
            if line.startswith("# TYPE "):
                self.assertNotIn(line, seen)
                seen.add(line)
        for name in ("requests_total counter", "tokens_generated_total counter", "ttft_seconds histogram",
                     "inter_token_seconds histogram", "queue_seconds histogram", "memory_used_ratio gauge",
                     "cache_hits_total counter", "uptime_seconds gauge"):
            self.assertIn("# TYPE mlx_flash_" + name, seen)
        self.assertGreater(self.server.metric("mlx_flash_tokens_generated_total"), 20)


class WithoutATemplate(unittest.TestCase):
    def test_chat_is_refused_and_nothing_is_guessed(self):
        with Server(template=False) as server:
            status, answer = server.json("POST", "/v1/chat/completions", CHAT)
            self.assertEqual((status, answer["error"]["code"]), (400, "unsupported"))
            self.assertIn("--chat-template", answer["error"]["message"])
            status, answer = server.json("POST", "/v1/completions", PROMPT)
            self.assertEqual(status, 200, "the first request loads the model")


class WithinABudget(unittest.TestCase):
    def test_streamed_weights_change_nothing_and_the_budget_holds(self):
        bodies = [{**PROMPT, "seed": seed, "max_tokens": 40} for seed in range(3)]
        texts = []
        for budget in ("none", "48MiB"):
            with Server("--preload", "--max-context", "256", "--parallel", "3", budget=budget) as server:
                answers = in_threads(lambda i: server.json("POST", "/v1/completions", bodies[i]), len(bodies))
                texts.append([answer["choices"][0]["text"] for _, answer in answers])
                _, status = server.json("GET", "/status")
                held = status["memory"]["own_gb"] * 1024
        self.assertEqual(texts[0], texts[1])
        self.assertGreater(status["streaming"]["read_bytes"], 0)
        self.assertLess(held, 50)


if __name__ == "__main__":
    unittest.main()
