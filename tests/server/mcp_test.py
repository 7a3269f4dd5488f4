"""The Model Context Protocol without an SDK: `mlx-flash mcp` over pipes, and POST /mcp of a server, in both eras."""

import json
import subprocess
import time
import unittest

from serving import MODEL, NAME, PROGRAM, Server, TEMPLATE, post, read_until

VERSION = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}}
TOOLS = ["generate", "check_memory", "list_models", "get_status", "switch_model", "release_memory"]
PROMPT = {"prompt": "The old man walked along the shore and", "raw": True, "seed": 1}
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def request(method, params=None, number=1):
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}


def call(name, arguments=None, number=1, meta=None):
    params = {"name": name, "arguments": arguments or {}}
    return request("tools/call", {**params, "_meta": meta} if meta else params, number)


class Pipes:
    """`mlx-flash mcp` with its stdin and stdout; use as a context manager."""

    def __init__(self, *flags):
        words = [PROGRAM, "mcp", "-m", MODEL, "-t", "2", "--memory-budget", "none", "--chat-template", TEMPLATE]
        self.process = subprocess.Popen([*words, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def send(self, *messages):
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def read(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, *messages):
        self.send(*messages)
        return self.read()

    def end(self):
        """Closes stdin; what was still written, and the exit status."""
        out, _ = self.process.communicate(timeout=30)
        return out, self.process.returncode


class OverPipes(unittest.TestCase):
    def test_an_older_client(self):
        with Pipes() as pipes:
            found = pipes.ask(request("initialize", INITIALIZE, "a"))
            self.assertEqual((found["id"], found["result"]["protocolVersion"]), ("a", "2025-11-25"))
            pipes.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            self.assertEqual(pipes.ask(request("ping"))["result"], {})
            self.assertEqual([t["name"] for t in pipes.ask(request("tools/list"))["result"]["tools"]], TOOLS)
            models = pipes.ask(call("list_models"))["result"]["structuredContent"]["models"]
            self.assertEqual([(m["id"], m["status"]) for m in models], [(NAME, "not loaded")])
            first = pipes.ask(call("generate", {**PROMPT, "max_tokens": 12}, 7))
            self.assertEqual(first["id"], 7)
            result = first["result"]
            self.assertFalse(result["isError"])
            self.assertEqual(result["content"][0]["text"], result["structuredContent"]["text"])
            self.assertEqual((result["structuredContent"]["finish_reason"],
                              result["structuredContent"]["completion_tokens"]), ("length", 12))
            self.assertEqual(pipes.ask(call("generate", {**PROMPT, "max_tokens": 12}, 8))["result"]["content"],
                             result["content"])
            memory = pipes.ask(call("check_memory"))["result"]["structuredContent"]
            self.assertGreater(memory["memory"]["own_gb"], 0)
            self.assertGreater(memory["scheduler"]["kv_bytes_max"], 0)
            self.assertEqual(pipes.ask(call("get_status"))["result"]["structuredContent"]["health"], "ok")
            self.assertEqual(pipes.end(), (b"", 0))

    def test_a_modern_client(self):
        with Pipes() as pipes:
            found = pipes.ask(request("server/discover", {"_meta": META}))["result"]
            self.assertEqual((found["supportedVersions"], found["resultType"]), ([VERSION], "complete"))
            pipes.send(call("generate", {"messages": [{"role": "user", "content": "A dark night."}], "seed": 1,
                                         "max_tokens": 300}, "g", {**META, "progressToken": 5}))
            seen = []
            while (message := pipes.read()).get("id") != "g":
                self.assertEqual((message["method"], message["params"]["progressToken"], message["params"]["total"]),
                                 ("notifications/progress", 5, 300))
                seen.append(message["params"]["progress"])
            self.assertEqual(seen, sorted(set(seen)))
            self.assertGreater(len(seen), 0)
            self.assertEqual(message["result"]["resultType"], "complete")

    def test_a_call_that_is_cancelled_is_not_answered_and_ends(self):
        with Pipes("--parallel", "1") as pipes:
            long = {**PROMPT, "max_tokens": 8000}
            pipes.send(call("generate", long, 1, {"progressToken": "p"}), call("generate", long, 2))
            self.assertEqual(pipes.read()["method"], "notifications/progress")
            pipes.send(*({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": i}}
                         for i in (1, 2)))
            pipes.send(call("generate", {**PROMPT, "max_tokens": 2}, 3))
            while "method" in (message := pipes.read()):
                pass
            self.assertEqual(message["id"], 3)
            self.assertEqual(pipes.end(), (b"", 0))

    def test_a_call_of_a_batch_that_is_cancelled_once_it_is_answered(self):
        with Pipes() as pipes:
            pipes.send([call("get_status", number=1),
                        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}])
            (answer,) = pipes.read()
            self.assertEqual((answer["id"], answer["result"]["isError"]), (1, False))
            self.assertEqual(pipes.end(), (b"", 0))

    def test_a_batch_is_answered_by_one_message(self):
        with Pipes() as pipes:
            pipes.ask(request("initialize", {**INITIALIZE, "protocolVersion": "2025-03-26"}))
            answers = pipes.ask([request("ping", number="a"), call("generate", {**PROMPT, "max_tokens": 4}, "b"),
                                 {"jsonrpc": "2.0", "method": "notifications/initialized"}, request("no/such", number=3),
                                 call("generate", {**PROMPT, "max_tokens": 4000}, "c"),
                                 {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}])
            self.assertEqual({str(answer["id"]) for answer in answers}, {"a", "b", "3"})
            (text,) = (a["result"]["structuredContent"] for a in answers if a["id"] == "b")
            self.assertEqual(text["completion_tokens"], 4)
            pipes.send([{"jsonrpc": "2.0", "method": "notifications/initialized"}])
            self.assertEqual(pipes.ask(request("ping", number=9))["id"], 9)
            self.assertEqual(pipes.end(), (b"", 0))

    def test_the_end_of_stdin_ends_what_is_under_way(self):
        with Pipes("--preload") as pipes:
            pipes.send(call("generate", {**PROMPT, "max_tokens": 8000}, 1, {"progressToken": "p"}))
            self.assertEqual(pipes.read()["method"], "notifications/progress")
            begun = time.monotonic()
            out, status = pipes.end()
            self.assertEqual(status, 0)
            self.assertLess(time.monotonic() - begun, 15)
            self.assertNotIn(b'"id":1', out)

    def test_nonsense_gets_errors_and_does_no_harm(self):
        with Pipes() as pipes:
            for message, code in ((b"nonsense", -32700), (b"[]", -32600), (b"{}", -32600), (b'"\xff"', -32700),
                                  (b"[" * 100000, -32700), (request("tools/call", {"name": "cook"}), -32602),
                                  (request("resources/list"), -32601), (request("ping", [1]), -32602)):
                self.assertEqual(pipes.ask(message)["error"]["code"], code, str(message)[:50])
            for arguments in ({}, {"prompt": 1}, {"prompt": "a", "cook": 1}, {"prompt": "a", "max_tokens": -1},
                              {"prompt": "word " * 20000}):
                result = pipes.ask(call("generate", arguments))["result"]
                self.assertTrue(result["isError"], arguments)
            pipes.send(b"", b"\r", b" " * (33 << 20))
            self.assertEqual(pipes.read()["error"]["code"], -32700)
            self.assertEqual(pipes.ask(request("ping"))["result"], {})


class OverHttp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--parallel", "1", env={"MLX_FLASH_API_KEY": "key-for-tests"})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ask(self, message, headers=None):
        status, reply_headers, data = self.server.request(
            "POST", "/mcp", message, {"Authorization": "Bearer key-for-tests", **(headers or {})})
        return status, reply_headers, data

    def modern(self, message, **headers):
        params = message["params"]
        message["params"] = {**params, "_meta": {**META, **params.get("_meta", {})}}
        named = {"Mcp-Name": params["name"]} if "name" in params else {}
        return self.ask(message, {"MCP-Protocol-Version": VERSION, "Mcp-Method": message["method"], **named, **headers})

    def test_an_older_client(self):
        status, headers, data = self.ask(request("initialize", INITIALIZE))
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertEqual(json.loads(data)["result"]["serverInfo"]["name"], "mlx-flash")
        status, _, data = self.ask({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.assertEqual((status, data), (202, b""))
        known = {"MCP-Protocol-Version": "2025-11-25"}
        self.assertEqual([t["name"] for t in json.loads(self.ask(request("tools/list"), known)[2])["result"]["tools"]],
                         TOOLS)
        status, _, data = self.ask(call("generate", {**PROMPT, "max_tokens": 4}), known)
        self.assertEqual((status, json.loads(data)["result"]["structuredContent"]["completion_tokens"]), (200, 4))
        self.assertEqual(self.ask(request("tools/list"), {"MCP-Protocol-Version": "1999-01-01"})[0], 400)

    def test_a_modern_client(self):
        found = json.loads(self.modern(request("server/discover"))[2])["result"]
        self.assertEqual((found["supportedVersions"], found["cacheScope"]), ([VERSION], "public"))
        self.assertEqual(json.loads(self.modern(call("get_status"))[2])["result"]["structuredContent"]["health"], "ok")
        for wrong in ({"Mcp-Method": "tools/list"}, {"Mcp-Name": "generate"}, {"MCP-Protocol-Version": "2025-11-25"}):
            status, _, data = self.modern(call("get_status"), **wrong)
            self.assertEqual((status, json.loads(data)["error"]["code"]), (400, -32020))
        old = {**META, "io.modelcontextprotocol/protocolVersion": "2027-01-01"}
        status, _, data = self.ask(request("tools/list", {"_meta": old}),
                                   {"MCP-Protocol-Version": "2027-01-01", "Mcp-Method": "tools/list"})
        self.assertEqual((status, json.loads(data)["error"]["code"]), (400, -32022))
        status, _, data = self.modern(request("no/such"))
        self.assertEqual((status, json.loads(data)["error"]["code"]), (404, -32601))
        self.assertEqual(self.ask(b"nonsense")[0], 400)
        for method in ("GET", "DELETE"):
            status, headers, _ = self.server.request(method, "/mcp", headers={"x-api-key": "key-for-tests"})
            self.assertEqual((status, headers["Allow"]), (405, "POST"))

    def test_a_batch(self):
        notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        batch = [call("generate", {**PROMPT, "max_tokens": 4}, 1), notice, call("get_status", number=2),
                 call("generate", {**PROMPT, "max_tokens": 4}, 3), request("no/such", number=4)]
        for headers in ({}, {"MCP-Protocol-Version": "2025-03-26", "Accept": "application/json, text/event-stream"}):
            status, heads, data = self.ask(batch, headers)
            self.assertEqual((status, heads["Content-Type"]), (200, "application/json"))
            answers = {answer["id"]: answer for answer in json.loads(data)}
            self.assertEqual(sorted(answers), [1, 2, 3, 4])
            self.assertEqual(answers[1]["result"]["content"], answers[3]["result"]["content"])
            self.assertEqual(answers[4]["error"]["code"], -32601)
        self.assertEqual(self.ask([notice, notice])[::2], (202, b""))
        status, _, data = self.ask(batch, {"MCP-Protocol-Version": "2025-11-25"})
        self.assertEqual((status, json.loads(data)["error"]["code"]), (400, -32600))

    def test_a_generation_is_streamed_with_progress(self):
        status, headers, data = self.modern(
            call("generate", {**PROMPT, "max_tokens": 300}, 3, {"progressToken": "p"}),
            Accept="application/json, text/event-stream")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/event-stream"))
        messages = [json.loads(block.split("data: ", 1)[1]) for block in data.decode().split("\n\n") if "data: " in block]
        self.assertEqual({m.get("method") for m in messages[:-1]}, {"notifications/progress"})
        self.assertEqual((messages[-1]["id"], messages[-1]["result"]["structuredContent"]["completion_tokens"]), (3, 300))

    def test_who_leaves_cancels(self):
        body = call("generate", {**PROMPT, "max_tokens": 4000}, 3, {"progressToken": "p"})
        with self.server.connect() as connection:
            connection.sendall(post("/mcp", body, "Authorization: Bearer key-for-tests", "Accept: text/event-stream"))
            read_until(connection, b"notifications/progress")
        begun = time.monotonic()
        self.assertEqual(json.loads(self.ask(call("generate", {**PROMPT, "max_tokens": 1}))[2])["result"]["isError"], False)
        self.assertLess(time.monotonic() - begun, 10)

    def test_strangers_get_nothing(self):
        self.assertEqual(self.server.request("POST", "/mcp", request("ping"))[0], 401)
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            self.assertEqual(self.ask(request("ping"), headers)[0], 403)


if __name__ == "__main__":
    unittest.main()
