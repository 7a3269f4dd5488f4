"""The clients that people use: the real packages, unchanged, against the real server."""

import asyncio
import json
import pathlib
import unittest

import anthropic
import mcp
import ollama
import openai

import api_options
from serving import MODEL, NAME, PROGRAM, Server, TEMPLATE

MESSAGES = [{"role": "user", "content": "It was a dark night, and the wind was howling over the moor, as the old man "
                                        "walked along the shore and thought of the days of his youth."}]


class OpenAiPackage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512", env={"MLX_FLASH_API_KEY": "key-for-tests"})
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key="key-for-tests")

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], [NAME])
        self.assertEqual(self.client.models.retrieve(NAME).owned_by, "mlx-flash")

    def test_chat_whole_and_streamed(self):
        options = {"model": "local", "messages": MESSAGES, "seed": 3, "max_completion_tokens": 20}
        whole = self.client.chat.completions.create(**options)
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(whole.usage.completion_tokens, 20)
        text, usage = "", None
        for chunk in self.client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.total_tokens, whole.usage.total_tokens)
        self.assertGreater(usage.prompt_tokens_details.cached_tokens, 0)

    def test_the_stream_helper(self):
        with self.client.chat.completions.stream(model="local", messages=MESSAGES, seed=3, stop=["e"]) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        self.assertEqual(("".join(deltas), final.choices[0].finish_reason), (final.choices[0].message.content, "stop"))

    def test_responses_whole_and_streamed(self):
        options = {"model": "local", "instructions": "A story.", "input": MESSAGES, "temperature": 0,
                   "max_output_tokens": 20, "metadata": {"k": "v"}}
        whole = self.client.responses.create(**options)
        self.assertEqual((whole.status, whole.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertEqual((whole.usage.output_tokens, whole.metadata), (20, {"k": "v"}))
        events = list(self.client.responses.create(**options, stream=True))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        self.assertEqual((events[-1].type, events[-1].response.output_text), ("response.incomplete", whole.output_text))
        self.assertGreater(events[-1].response.usage.input_tokens_details.cached_tokens, 0)
        stopping = {**options, "extra_body": {"stop": ["e"]}}  # The helper wants an answer that is complete.
        short = self.client.responses.create(**stopping)
        self.assertEqual((short.status, short.error), ("completed", None))
        with self.client.responses.stream(**stopping) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        self.assertEqual(("".join(deltas), final.output_text), (short.output_text, short.output_text))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.responses.create(**options, previous_response_id=whole.id)
        self.assertEqual(caught.exception.param, "previous_response_id")

    def test_logprobs_and_completions(self):
        answer = self.client.chat.completions.create(model="local", messages=MESSAGES, max_tokens=4, logprobs=True,
                                                     top_logprobs=2)
        self.assertEqual(len(answer.choices[0].logprobs.content), 4)
        old = self.client.completions.create(model=NAME, prompt="The old man", max_tokens=4, logprobs=1, seed=1)
        self.assertEqual(len(old.choices[0].logprobs.tokens), 4)

    def test_embeddings(self):
        answer = self.client.embeddings.create(model=NAME, input=["a ship", "the sea"])  # Asks for base64 by itself.
        self.assertEqual([len(entry.embedding) for entry in answer.data], [len(answer.data[0].embedding)] * 2)
        self.assertAlmostEqual(sum(x * x for x in answer.data[1].embedding), 1.0, places=5)

    def test_errors_have_their_classes(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.NotFoundError) as caught:
            create(model="gpt-9", messages=MESSAGES)
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model="local", messages=MESSAGES, n=3)
        self.assertEqual(caught.exception.param, "n")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model="local", messages=[{"role": "user", "content": "word " * 2000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        stranger = openai.OpenAI(base_url=self.client.base_url, api_key="not-the-key")
        with self.assertRaises(openai.AuthenticationError):
            stranger.models.list()
        stranger.close()

    def test_leaving_a_stream_early(self):
        for _ in range(3):
            stream = self.client.chat.completions.create(model="local", messages=MESSAGES, stream=True)
            next(iter(stream))
            stream.close()
        answer = self.client.chat.completions.create(model="local", messages=MESSAGES, max_tokens=1)
        self.assertEqual(answer.usage.completion_tokens, 1)

    def test_a_failing_stream_raises(self):
        with Server("--preload", "--drain", "0") as server:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
            stream = client.chat.completions.create(model="local", messages=MESSAGES, stream=True, max_tokens=4000,
                                                    extra_body={"ignore_eos": True})
            with self.assertRaises(openai.APIError):
                for count, _ in enumerate(stream):
                    if count == 3:
                        server.stop()
            client.close()


class AnthropicPackage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512", env={"MLX_FLASH_API_KEY": "key-for-tests"})
        cls.client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{cls.server.port}", api_key="key-for-tests")

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()

    def test_messages_whole_and_streamed(self):
        options = {"model": "local", "system": "A story.", "messages": MESSAGES, "max_tokens": 20,
                   "extra_body": {"top_k": 1}}
        whole = self.client.messages.create(**options)
        self.assertEqual((whole.stop_reason, whole.role, whole.usage.output_tokens), ("max_tokens", "assistant", 20))
        with self.client.messages.stream(**options) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual((final.content[0].text, final.stop_reason), (text, "max_tokens"))
        self.assertEqual(final.usage.output_tokens, 20)
        self.assertGreater(final.usage.cache_read_input_tokens, 0)
        counted = self.client.messages.count_tokens(model="local", system="A story.", messages=MESSAGES)
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens)
        stop = text[10:16]
        cut = self.client.messages.create(**options, stop_sequences=[stop])
        self.assertEqual((cut.stop_reason, cut.stop_sequence, cut.content[0].text),
                         ("stop_sequence", stop, text[:text.index(stop)]))

    def test_models_and_errors(self):
        self.assertEqual([m.id for m in self.client.models.list()], [NAME])
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="claude-9", messages=MESSAGES, max_tokens=1)
        with self.assertRaises(anthropic.BadRequestError):
            self.client.messages.create(model="local", messages=MESSAGES, max_tokens=1,
                                        tools=[{"name": "f", "input_schema": {"type": "object"}}])
        with anthropic.Anthropic(base_url=self.client.base_url, api_key="not-the-key") as stranger:
            with self.assertRaises(anthropic.AuthenticationError):
                stranger.messages.create(model="local", messages=MESSAGES, max_tokens=1)


class OllamaPackage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-context", "512")
        cls.client = ollama.Client(host=f"http://127.0.0.1:{cls.server.port}")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_chat_whole_and_streamed(self):
        options = {"model": NAME, "messages": MESSAGES, "options": {"seed": 3, "num_predict": 20, "num_ctx": 256}}
        whole = self.client.chat(**options)
        self.assertEqual((whole.done, whole.done_reason, whole.eval_count), (True, "length", 20))
        self.assertGreater(whole.total_duration, 0)
        parts = list(self.client.chat(**options, stream=True))
        self.assertEqual("".join(p.message.content for p in parts), whole.message.content)
        self.assertEqual([p.done for p in parts], [False] * (len(parts) - 1) + [True])

    def test_generate_whole_and_streamed(self):
        options = {"model": NAME + ":latest", "prompt": "Once", "options": {"seed": 3, "num_predict": 12}}
        for raw in (True, False):
            whole = self.client.generate(**options, raw=raw)
            parts = list(self.client.generate(**options, raw=raw, stream=True))
            self.assertEqual("".join(p.response for p in parts), whole.response)
        self.assertEqual(self.client.generate(model=NAME).done_reason, "load")
        self.assertGreater(self.client.ps().models[0].expires_at.year, 2200, "never")
        self.assertEqual(self.client.generate(model=NAME, keep_alive=0).done_reason, "unload")
        self.assertTrue(self.server.await_metric("mlx_flash_model_loaded", 0, 30))
        self.assertEqual(list(self.client.ps().models), [])

    def test_embed(self):
        vectors = self.client.embed(model=NAME, input=["a ship", "the sea"]).embeddings
        self.assertEqual(list(self.client.embeddings(model=NAME, prompt="the sea").embedding), list(vectors[1]))

    def test_what_is_there(self):
        self.assertEqual([m.model for m in self.client.list().models], [NAME + ":latest"])
        shown = self.client.show(NAME)
        self.assertEqual(shown.details.family, "qwen3_moe")
        self.assertEqual(shown.modelinfo["qwen3_moe.context_length"], 4096)
        self.client.generate(model=NAME)  # Loads it.
        self.assertEqual([m.context_length for m in self.client.ps().models], [512])
        self.assertEqual(self.server.request("GET", "/")[2], b"Ollama is running")
        self.assertRegex(self.server.json("GET", "/api/version")[1]["version"], r"^\d+\.\d+\.\d+$")

    def test_errors(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(model="llama9", messages=MESSAGES)
        self.assertEqual(caught.exception.status_code, 404)
        self.assertIn("model 'llama9' not found", caught.exception.error)
        for option in ({"format": {"type": "strin"}}, {"think": True}, {"options": {"num_ctx": 4096}}):
            with self.assertRaises(ollama.ResponseError) as caught:
                self.client.chat(model=NAME, messages=MESSAGES, **option)
            self.assertEqual(caught.exception.status_code, 400)


class ToolTurns(unittest.TestCase):
    """Tools and earlier calls, as the packages send them. The bundled model itself calls none unless it is made to."""

    @classmethod
    def setUpClass(cls):
        template = str(pathlib.Path(__file__).with_name("tools_template.jinja"))
        cls.server = Server("--preload", "--max-context", "512", "--chat-template", template, template=False)
        cls.url = f"http://127.0.0.1:{cls.server.port}"
        cls.schema = {"type": "object", "properties": {"city": {"type": "string"}}}

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_openai(self):
        turns = [*MESSAGES, {"role": "assistant", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "Sun."}]
        options = {"model": NAME, "messages": turns, "stop": ["e"], "seed": 3, "tool_choice": "auto",
                   "tools": [{"type": "function", "function": {"name": "weather", "parameters": self.schema}}]}
        with openai.OpenAI(base_url=self.url + "/v1", api_key="none") as client:
            whole = client.chat.completions.create(**options)
            self.assertIsNone(whole.choices[0].message.tool_calls)
            with client.chat.completions.stream(**options) as stream:
                final = stream.get_final_completion()
            self.assertEqual(final.choices[0].message.content, whole.choices[0].message.content)
            thought = client.chat.completions.create(**options, extra_body={
                "chat_template_kwargs": {"enable_thinking": True}})
            self.assertTrue(thought.choices[0].message.reasoning_content)
            made = client.responses.create(
                model=NAME, max_output_tokens=12, extra_body={"seed": 3}, reasoning={"effort": "low"}, input=[
                    *MESSAGES, {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c1", "output": "Sun."}],
                tools=[{"type": "function", "name": "weather", "parameters": self.schema}])
            self.assertEqual((made.output[0].type, made.status), ("reasoning", "incomplete"))

    def test_anthropic(self):
        turns = [*MESSAGES, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Sun."}]}]
        options = {"model": NAME, "messages": turns, "max_tokens": 12, "tools": [
            {"name": "weather", "input_schema": self.schema}], "thinking": {"type": "enabled", "budget_tokens": 1024},
            "extra_body": {"top_k": 1}}
        with anthropic.Anthropic(base_url=self.url, api_key="none") as client:
            whole = client.messages.create(**options)
            self.assertEqual([block.type for block in whole.content], ["thinking", "text"])
            with client.messages.stream(**options) as stream:
                final = stream.get_final_message()
            self.assertEqual(final.content[0].thinking, whole.content[0].thinking)

    def test_forced_calls(self):
        schema = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]},
                                                   "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                  "required": ["city", "days"], "additionalProperties": False}

        def check(name, arguments):
            self.assertEqual(name, "weather")
            self.assertEqual(set(arguments), {"city", "days"})
            self.assertIn(arguments["city"], ("Rome", "Oslo"))
            self.assertIn(arguments["days"], range(1, 10))

        function = {"name": "weather", "parameters": schema, "strict": True}
        options = {"model": NAME, "messages": MESSAGES, "max_tokens": 200, "seed": 3, "parallel_tool_calls": False,
                   "tool_choice": {"type": "function", "function": {"name": "weather"}},
                   "tools": [{"type": "function", "function": function}]}
        with openai.OpenAI(base_url=self.url + "/v1", api_key="none") as client:
            call = client.chat.completions.create(**options).choices[0].message.tool_calls[0].function
            check(call.name, json.loads(call.arguments))
            with client.chat.completions.stream(**options) as stream:
                streamed = stream.get_final_completion().choices[0].message.tool_calls[0].function
            self.assertEqual((streamed.name, streamed.arguments), (call.name, call.arguments))
            with client.responses.stream(model=NAME, input=MESSAGES, max_output_tokens=200, tool_choice="required",
                                         parallel_tool_calls=False, tools=[{"type": "function", **function}]) as stream:
                made = stream.get_final_response()
            self.assertEqual([item.type for item in made.output], ["function_call"])
            check(made.output[0].name, json.loads(made.output[0].arguments))
        options = {"model": NAME, "messages": MESSAGES, "max_tokens": 200,
                   "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
                   "tools": [{"name": "weather", "input_schema": schema}]}
        with anthropic.Anthropic(base_url=self.url, api_key="none") as client:
            whole = client.messages.create(**options)
            self.assertEqual((whole.stop_reason, [block.type for block in whole.content]), ("tool_use", ["tool_use"]))
            check(whole.content[0].name, whole.content[0].input)
            with client.messages.stream(**options) as stream:
                final = stream.get_final_message()
            check(final.content[0].name, final.content[0].input)

    def test_ollama(self):
        turns = [*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Rome"}}}]},
            {"role": "tool", "tool_name": "weather", "content": "Sun."}]
        options = {"model": NAME, "messages": turns, "options": {"seed": 3, "num_predict": 12}, "think": True,
                   "tools": [{"type": "function", "function": {"name": "weather", "parameters": self.schema}}]}
        client = ollama.Client(host=self.url)
        whole = client.chat(**options)
        self.assertTrue(whole.message.thinking)
        parts = list(client.chat(**options, stream=True))
        self.assertEqual("".join(p.message.thinking or "" for p in parts), whole.message.thinking)


class RequestTypes(unittest.TestCase):
    """Whatever the packages' types let a request say is known to api_options.py, which hostile_test.py tries out."""

    def check(self, api, fields):
        known = api["done"] | api["neutral"] | set(api["told"])
        self.assertEqual(sorted(set(fields) - known), [], api.get("path"))

    def test_openai(self):
        from openai.types import completion_create_params, embedding_create_params
        from openai.types.chat import completion_create_params as chat_create_params
        from openai.types.responses import response_create_params

        self.check(api_options.CHAT, chat_create_params.CompletionCreateParamsStreaming.__annotations__ |
                   chat_create_params.CompletionCreateParamsBase.__annotations__)
        self.check(api_options.COMPLETION, completion_create_params.CompletionCreateParamsStreaming.__annotations__ |
                   completion_create_params.CompletionCreateParamsBase.__annotations__)
        self.check(api_options.RESPONSE, response_create_params.ResponseCreateParamsStreaming.__annotations__ |
                   response_create_params.ResponseCreateParamsBase.__annotations__)
        self.check(api_options.EMBEDDING, embedding_create_params.EmbeddingCreateParams.__annotations__)

    def test_anthropic(self):
        from anthropic.types import message_create_params
        from anthropic.types.beta import message_create_params as beta_create_params

        for module in (message_create_params, beta_create_params):
            self.check(api_options.MESSAGE, module.MessageCreateParamsStreaming.__annotations__ |
                       module.MessageCreateParamsBase.__annotations__)

    def test_ollama(self):
        from ollama import _types

        for api, request in ((api_options.OLLAMA_CHAT, _types.ChatRequest), (api_options.OLLAMA_GENERATE, _types.GenerateRequest),
                             (api_options.OLLAMA_EMBED, _types.EmbedRequest), (api_options.OLLAMA_EMBEDDINGS, _types.EmbeddingsRequest)):
            self.check(api, request.model_fields)
        known = api_options.OLLAMA_OPTIONS
        self.assertEqual(sorted(set(_types.Options.model_fields) - known["done"] - set(known["told"])), [])


class McpPackage(unittest.TestCase):
    async def use(self, target, mode):
        """What a host does: connects, lists, calls, gets errors."""
        async with mcp.Client(target, mode=mode) as client:
            tools = await client.list_tools()
            self.assertEqual([t.name for t in tools.tools], ["generate", "check_memory", "list_models", "get_status",
                                                             "switch_model", "release_memory"])
            seen = []

            async def progress(done, total, message):
                seen.append((done, total, message))

            options = {"prompt": MESSAGES[0]["content"], "seed": 3, "max_tokens": 200}
            first = await client.call_tool("generate", options, progress_callback=progress)
            again = await client.call_tool("generate", options)
            self.assertFalse(first.is_error)
            self.assertEqual(first.content[0].text, again.content[0].text)
            self.assertEqual(first.structured_content["text"], first.content[0].text)
            self.assertGreater(len(seen), 0)
            for name in ("check_memory", "list_models", "get_status"):
                self.assertFalse((await client.call_tool(name)).is_error)
            refused = await client.call_tool("generate", {"prompt": "a", "max_tokens": 0})
            self.assertTrue(refused.is_error)
            self.assertIn("max_tokens", refused.content[0].text)

    def test_over_pipes(self):
        target = mcp.StdioServerParameters(command=PROGRAM, args=[
            "mcp", "-m", MODEL, "-t", "2", "--memory-budget", "none", "--chat-template", TEMPLATE])
        for mode in ("legacy", "auto", "2026-07-28"):
            with self.subTest(mode):
                asyncio.run(asyncio.wait_for(self.use(target, mode), 100))

    def test_over_http(self):
        with Server("--preload") as server:
            for mode in ("legacy", "auto", "2026-07-28"):
                with self.subTest(mode):
                    asyncio.run(asyncio.wait_for(self.use(f"http://127.0.0.1:{server.port}/mcp", mode), 100))


if __name__ == "__main__":
    unittest.main()
