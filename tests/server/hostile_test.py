"""Requests by strangers and bombs: every one is refused, costs little, and reaches nothing; and no option is lost.

MLXF_LONG=1 asks for every path in every cell of the matrix of hosts and origins.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import api_options
from serving import MODEL, PROGRAM, Server, read_until
from protocol_test import SHORT, statuses

LONG_RUN = bool(os.environ.get("MLXF_LONG"))
HELLO = [{"role": "user", "content": "Hello"}]
CHAT, COMPLETION, RESPONSE, MESSAGE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
# A body that each endpoint answers.
GOOD = {
    CHAT: {"messages": HELLO, "max_tokens": 2},
    COMPLETION: {"prompt": "Hello", "max_tokens": 2},
    RESPONSE: {"input": "Hello", "max_output_tokens": 2},
    MESSAGE: {"messages": HELLO, "max_tokens": 2},
    "/api/chat": {"model": "local", "messages": HELLO, "stream": False, "options": {"num_predict": 2}},
    "/api/generate": {"model": "local", "prompt": "Hello", "stream": False, "options": {"num_predict": 2}},
    "/v1/embeddings": {"input": "Hello"},
    "/api/embed": {"model": "local", "input": "Hello"},
    "/api/embeddings": {"model": "local", "prompt": "Hello"},
}


def message_of(answer):
    error = answer["error"]
    return error if isinstance(error, str) else error["message"]


class Access(unittest.TestCase):
    HOSTS = ["localhost", "127.0.0.1:1", "[::1]", "evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "10.0.0.1",
             "0.0.0.0", "169.254.169.254", "evil.com:127.0.0.1", ""]
    OURS = 3  # The first of them.
    ORIGINS = [None, "http://HOST", "http://evil.com", "http://127.0.0.1.evil.com", "http://localhost:1", "null", "file://",
               "chrome-extension://abc", "http://HOST.evil.com", "https://evil.com/HOST", ""]
    OWN = 2
    PATHS = ["/", "/livez", "/health", "/status", "/metrics", "/logs/recent", "/v1/models", "/v1/models/x", CHAT, "/api/tags",
             "/api/chat", "/api/show", "/mcp", "/shutdown", "/v1/models/switch", "/nowhere", "*"]
    KINDS = {
        "GET": "",
        "HEAD": "",
        "JSON": "Content-Type: application/json\r\nContent-Length: 2\r\n",
        "text": "Content-Type: text/plain\r\nContent-Length: 2\r\n",
        "socket": "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "preflight": "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n",
        "DELETE": "",
    }
    METHODS = {"JSON": "POST", "text": "POST", "socket": "GET", "preflight": "OPTIONS"}

    def test_every_cell_of_the_matrix(self):
        cells = refused = 0
        with Server() as server:
            def ask(data):  # Refusals end a connection.
                with server.connect() as connection:
                    connection.sendall(data)
                    return read_until(connection, b"\r\n\r\n").split(b"\r\n\r\n")[0].decode()

            for host_index, host in enumerate(self.HOSTS):
                for origin_index, origin in enumerate(self.ORIGINS):
                    foreign = host_index >= self.OURS or origin_index >= self.OWN
                    # Who is foreign in one way alone is the one to look at.
                    paths = self.PATHS if LONG_RUN else self.PATHS[::4] if host_index == 0 or origin_index == 0 else [CHAT]
                    for kind, more in self.KINDS.items():
                        for path in paths if foreign else ("/livez", "/v1/models"):
                            head = f"{self.METHODS.get(kind, kind)} {path} HTTP/1.1\r\nHost: {host}\r\n{more}"
                            if origin is not None:
                                head += f"Origin: {origin.replace('HOST', host)}\r\n"
                            answer = ask(f"{head}\r\n{'{}' if 'Length' in more else ''}".encode())
                            cells += 1
                            status = int(answer.split(" ")[1])
                            self.assertNotIn("access-control", answer.lower(), head)
                            if not foreign:
                                self.assertNotEqual(status, 403, head)
                                continue
                            refused += 1
                            # "*" is for OPTIONS alone, which the head's parser sees first.
                            self.assertIn(status, (403, 400) if path == "*" else (403,), head)
            self.assertIsNone(server.process.poll(), "/shutdown was for nobody of them")
            self.assertEqual(server.metric("mlx_flash_requests_total"), 0, "nothing was generated")
        print(f"{cells} cells, {refused} of them foreign, all of those refused")

    def test_every_path_needs_the_key(self):
        keys = {"none": [], "wrong": ["Authorization: Bearer wrong-key-wrong"], "in the query": [],
                "basic": ["Authorization: Basic c2VjcmV0LWtleS0x"], "of another case": ["x-api-key: SECRET-KEY-1"],
                "cut": ["x-api-key: secret-key-"], "longer": ["x-api-key: secret-key-12"], "8 KiB": ["x-api-key: " + "k" * 8192],
                "twice, differing": ["x-api-key: secret-key-1", "Authorization: Bearer secret-key-2"],
                "empty": ["Authorization: Bearer "], "blank behind": ["Authorization: Bearer  secret-key-1"]}
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("secret-key-1\nsecret-key-2\n")
            file.flush()
            with Server("--api-key-file", file.name) as server:
                for name, headers in keys.items():
                    for path in self.PATHS[:-1]:
                        if path == "/livez":
                            continue
                        for method in ("GET", "POST"):
                            query = "?api_key=secret-key-1&key=secret-key-1" if name == "in the query" else ""
                            head = "".join(header + "\r\n" for header in headers)
                            answer = server.raw(f"{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\n{head}"
                                                "Connection: close\r\n\r\n".encode())
                            self.assertEqual(statuses(answer), [401], (name, method, path))
                            self.assertNotIn(b"secret-key", answer)
                self.assertEqual(statuses(server.raw(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-api-key: a\x00b\r\n\r\n")),
                                 [400])
                self.assertEqual(server.json("GET", "/v1/models", headers={"x-api-key": "secret-key-2"})[0], 200)

    def test_it_listens_on_the_loopback_interface_alone(self):
        with Server() as server:
            inodes = self.sockets(server.process)
            found = []
            for name in ("tcp", "tcp6"):
                for line in pathlib.Path("/proc/net/" + name).read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and fields[9] in inodes:
                        found.append(fields[1].split(":")[0])
            self.assertIn("0100007F", found)
            self.assertLessEqual(set(found), {"0100007F", "00000000000000000000000001000000"})

    @staticmethod
    def sockets(process):
        out = set()
        for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                out.update(re.findall(r"^socket:\[(\d+)\]$", os.readlink(link)))
            except OSError:
                pass  # It was closed meanwhile.
        return out

    def test_no_other_address_without_a_key(self):
        environment = {k: v for k, v in os.environ.items() if k not in ("MLX_FLASH_API_KEY", "MLX_FLASH_HOST")}
        own = socket.gethostname()

        def start(*flags, **more):
            done = subprocess.run([PROGRAM, "serve", "-m", MODEL, "--port", "0", *flags], capture_output=True, text=True,
                                  timeout=60, check=False, env={**environment, **more})
            return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("mlx-flash: ")]

        hosts = ["0.0.0.0", "::", "::0", "0", "192.168.0.1", "169.254.1.1", own + ".", "127.0.0.1.nip.io", "localhost.", "127.1",
                 "2130706433", "0x7f000001", "::ffff:127.0.0.1", "*"]
        with tempfile.NamedTemporaryFile("w") as empty:
            cases = [("--host", host) for host in hosts] + [("--host", "0.0.0.0", "--allow-origin", "http://localhost:3000")]
            for case in cases:
                code, lines = start(*case)
                self.assertEqual((code, len(lines)), (2, 1), (case, lines))
                self.assertIn("API key", lines[0], case)
            self.assertEqual(start(MLX_FLASH_HOST="0.0.0.0")[0], 2)
            self.assertEqual(start("--host", "0.0.0.0", MLX_FLASH_API_KEY="")[0], 2)
            self.assertEqual(start("--host", "0.0.0.0", MLX_FLASH_API_KEY=" \n# none\n")[0], 2)
            self.assertEqual(start("--host", "0.0.0.0", "--api-key-file", empty.name)[0], 2)


class Names(unittest.TestCase):
    """Names of models never become paths, and nothing that is asked for makes the server call anybody."""

    STRINGS = ["../x", "..\\x", "%2e%2e%2fx", "%252e%252e%252fx", "/etc/passwd", "a\u0000b", "C:\\x", "\\\\host\\share", "x" * 5000,
               "\u202etxt.x", "a/../../x", "a/b/../../../x", "./x", "~", "~/x", "x.", "x/", "/", "//x", ".", "..", "a//b", "a/b/c/d/e",
               "x\r\nX: y", "x\n", " x", "-x", "--help", "sha256:../../x", "sha256-" + "0" * 63, "hf.co/../x", "file:///etc/passwd",
               "http://127.0.0.1/x", "a:../x", "a@../x", "*", "?", "$(id)", "`id`", "|id", "a/b:../../x"]

    def test_names_that_are_none(self):
        with tempfile.TemporaryDirectory() as home:
            env = {"HOME": home, "HF_HOME": home + "/hf", "XDG_CACHE_HOME": home + "/cache", "OLLAMA_MODELS": home + "/ollama",
                   "HF_HUB_CACHE": home + "/hub"}
            with Server(env=env) as server:
                asked = 0
                for name in self.STRINGS:
                    for path, body in GOOD.items():
                        status, answer = server.json("POST", path, {**body, "model": name})
                        self.assertIn(status, (400, 404), (path, name, answer))
                        asked += 1
                    for path in ("/api/show", "/release", "/v1/models/switch", "/tokenize"):
                        status, answer = server.json("POST", path, {"model": name, "content": "x"})
                        self.assertIn(status, (400, 404), (path, name, answer))
                        asked += 1
                    for tool in ("switch_model", "generate"):
                        _, answer = server.json("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                            "name": tool, "arguments": {"model": name, **({"prompt": "x"} if tool == "generate" else {})}}},
                            {"MCP-Protocol-Version": "2025-11-25"})
                        self.assertTrue(answer["result"]["isError"], (tool, name))
                        asked += 1
                self.assertEqual(server.metric("mlx_flash_model_loaded"), 0)
            commands = 0
            for name in self.STRINGS if LONG_RUN else self.STRINGS[::4]:
                if "\u0000" in name:
                    continue
                for words in (["pull", "--", name], ["rm", "--yes", "--", name]):
                    done = subprocess.run([PROGRAM, *words], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
                                          env={**os.environ, **env, "HF_ENDPOINT": "http://127.0.0.1:9"})
                    self.assertNotEqual(done.returncode, 0, words)
                    self.assertIn(done.returncode, (1, 2), (words, done.stderr))
                    commands += 1
            left = sorted(str(path) for path in pathlib.Path(home).rglob("*") if not path.is_dir())
            self.assertEqual([path for path in left if not path.endswith(".lock")], [], "nothing was written")
        print(f"{asked} requests and {commands} commands with {len(self.STRINGS)} names")

    def test_nothing_is_fetched(self):
        trap = socket.create_server(("127.0.0.1", 0))
        trap.settimeout(0.05)
        caught = []
        done = threading.Event()

        def catch():
            while not done.is_set():
                try:
                    connection, _ = trap.accept()
                except TimeoutError:
                    continue
                caught.append(connection.recv(200))
                connection.close()

        catcher = threading.Thread(target=catch)
        catcher.start()
        at = trap.getsockname()[1]
        targets = [f"http://127.0.0.1:{at}/x", f"http://127.1:{at}/", f"http://2130706433:{at}/", f"http://0x7f.1:{at}/",
                   f"http://[::1]:{at}/", f"http://[::ffff:127.0.0.1]:{at}/", f"http://localhost:{at}/", f"https://127.0.0.1:{at}/",
                   "http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/", "http://10.0.0.1/",
                   "http://100.64.0.1/", "http://[fc00::1]/", f"http://user@127.0.0.1:{at}/", f"http://a\\@127.0.0.1:{at}/",
                   "http://127.0.0.1:0/", f"ftp://127.0.0.1:{at}/", "file:///etc/passwd", f"gopher://127.0.0.1:{at}/_x",
                   "data:image/png;base64,AA=="]

        def features(url):
            part = [{"role": "user", "content": [{"type": "text", "text": "x"}, None]}]

            def with_part(path, value):
                return path, {**GOOD[path], "messages": [{**part[0], "content": [part[0]["content"][0], value]}]}

            schema = {"type": "object", "properties": {"a": {"$ref": url}}, "required": ["a"]}
            yield with_part(CHAT, {"type": "image_url", "image_url": {"url": url}})
            yield with_part(CHAT, {"type": "file", "file": {"file_data": url}})
            yield with_part(CHAT, {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}})
            yield with_part(MESSAGE, {"type": "image", "source": {"type": "url", "url": url}})
            yield with_part(MESSAGE, {"type": "document", "source": {"type": "url", "url": url}})
            yield RESPONSE, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}
            yield RESPONSE, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": url}]}]}
            yield RESPONSE, {**GOOD[RESPONSE], "tools": [{"type": "mcp", "server_label": "x", "server_url": url}]}
            yield RESPONSE, {**GOOD[RESPONSE], "tools": [{"type": "web_search"}], "include": [url]}
            yield MESSAGE, {**GOOD[MESSAGE], "mcp_servers": [{"type": "url", "url": url, "name": "x"}]}
            yield MESSAGE, {**GOOD[MESSAGE], "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}
            yield "/api/chat", {**GOOD["/api/chat"], "messages": [{**HELLO[0], "images": [url]}]}
            yield "/api/generate", {**GOOD["/api/generate"], "images": [url]}
            yield "/api/chat", {**GOOD["/api/chat"], "format": schema}
            yield CHAT, {**GOOD[CHAT], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
            yield CHAT, {**GOOD[CHAT], "response_format": {"type": "json_schema", "json_schema": {
                "name": "n", "schema": {"$schema": url, "$id": url, "type": "boolean"}}}}
            yield CHAT, {**GOOD[CHAT], "tool_choice": "required", "tools": [
                {"type": "function", "function": {"name": "f", "parameters": schema}}]}
            yield CHAT, {**GOOD[CHAT], "model": url}
            yield "/v1/models/switch", {"model": url}
            yield "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": "switch_model", "arguments": {"model": url}}}

        asked = 0
        try:
            with Server("--preload") as server:
                for url in targets:
                    for path, body in features(url):
                        status, headers, data = server.request("POST", path, body, {"MCP-Protocol-Version": "2025-11-25"})
                        asked += 1
                        told = status in (400, 404) or "X-MLX-Flash-Warning" in headers or b'"isError":true' in data
                        self.assertTrue(told or "$schema" in json.dumps(body), (status, path, body, data))
                        self.assertEqual(self.outgoing(server), [], (path, url))
        finally:
            done.set()
            catcher.join()
            trap.close()
        self.assertEqual(caught, [])
        print(f"{asked} requests that name {len(targets)} addresses: none was called")

    @staticmethod
    def outgoing(server):
        """Sockets of the server that are not its clients'."""
        inodes, out = Access.sockets(server.process), []
        for name in ("tcp", "tcp6", "udp", "udp6"):
            for line in pathlib.Path("/proc/net/" + name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes and not fields[1].endswith(f":{server.port:04X}"):
                    out.append(line)
        return out


class Smuggling(unittest.TestCase):
    def test_no_second_response(self):
        second = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
        both = [b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 4",
                b"Content-Length: 4\r\nContent-Length: 5", b"Content-Length: 4\r\nContent-Length: 4",
                b"content-length: 4\r\nCONTENT-LENGTH: 4", b"Content-Length: 4, 4", b"Content-Length: 4,4", b"Content-Length: +4",
                b"Content-Length: -4", b"Content-Length: 0x4", b"Content-Length: 4 4", b"Content-Length: 4;", b"Content-Length: ",
                b"Content-Length: 4e0", b"Content-Length: 4.0", b"Content-Length: 99999999999999999999", b"Content-Length\t: 4",
                b"Content-Length : 4", b"Content-Length: \xd9\xa4", b"Content-Length: 4\r\n Content-Length: 5",
                b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
                b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunkedx", b"Transfer-Encoding: \"chunked\"",
                b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked",
                b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
                b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked;q=1",
                b"Transfer_Encoding: chunked\r\nTransfer-Encoding: \x00", b"X: y\nTransfer-Encoding: chunked",
                b"X: y\rTransfer-Encoding: chunked", b"\x00Transfer-Encoding: chunked"]
        bodies = [b"Z\r\n", b"0x1\r\nZ\r\n0\r\n\r\n", b"+1\r\nZ\r\n0\r\n\r\n", b"-1\r\n", b"1 \r\nZ\r\n0\r\n\r\n", b" 1\r\nZ\r\n0\r\n\r\n",
                  b"11111111111111111\r\nZ", b"ffffffffffffffff\r\nZ", b"1\nZ\r\n0\r\n\r\n", b"1\r\nZ\n0\r\n\r\n", b"1\r\nZZ\r\n0\r\n\r\n",
                  b"1\r\nZ0\r\n\r\n", b"\r\n1\r\nZ\r\n0\r\n\r\n", b"1;x=\ny\r\nZ\r\n0\r\n\r\n", b"1;\x00\r\nZ\r\n0\r\n\r\n",
                  b"0\r\nno colon\r\n\r\n", b"0\r\nA: b\n\r\n", b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n"]
        requests = [head + frame + b"\r\n\r\n0\r\n\r\n" for frame in both]
        requests += [chunked + body for body in bodies]
        requests += [get + b"Host: evil.com\r\n\r\n", get + b" folded\r\n\r\n", get + b"X: a\x00b\r\n\r\n", get + b"X: a\nY: b\r\n\r\n",
                     b"GET /livez HTTP/1.1\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET /livez\r\n\r\n",
                     b"GET  /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez HTTP/1.1\r\n Host: localhost\r\n\r\n",
                     b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez HTTP/1.10\r\nHost: localhost\r\n\r\n",
                     b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                     b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.0\r\nHost: localhost\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", get + b"Content-Length: 4\r\n\r\n", get + b"Expect: x\r\n\r\n",
                     b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\n" + get + b"\r\n", b" " + get + b"\r\n",
                     head + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
                     b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", get + b"A: " + b"a" * 65536 + b"\r\n\r\n",
                     get + b"A: b\r\n" * 1000 + b"\r\n"]
        with Server() as server:
            for data in requests:
                for pieces in ([data + second], [data, second]):
                    with server.connect() as connection:
                        try:
                            for piece in pieces:
                                connection.sendall(piece)
                        except OSError:
                            pass  # It is closed already.
                        answer = b""
                        connection.settimeout(20)
                        try:
                            while part := connection.recv(65536):
                                answer += part
                        except ConnectionResetError:
                            pass
                    self.assertEqual(len(statuses(answer)), 1, (data[:200], answer))
                    self.assertIn(statuses(answer)[0], (400, 413, 414, 415, 417, 431, 505), data[:200])
                    self.assertIn("message", json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"])
        print(f"{len(requests)} raw requests: 0 second responses")


class Bombs(unittest.TestCase):
    """What asks for far more than a request may is refused within 50 ms of the processor's time and 10 MiB."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--max-context", "512")
        for path, body in GOOD.items():
            cls.server.request("POST", path, body)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def cost(self, path, data):
        """(status, answer, seconds of the processor's time, MiB of memory at its highest beyond those before)."""
        process = pathlib.Path(f"/proc/{self.server.process.pid}")

        def seconds():
            return sum(int((task / "schedstat").read_text().split()[0]) for task in (process / "task").iterdir()) / 1e9

        def kib(name):
            return int(re.search(name + r":\s+(\d+)", (process / "status").read_text()).group(1))

        (process / "clear_refs").write_text("5")  # The highest is that from now on.
        memory, before = kib("VmRSS"), seconds()
        status, _, answer = self.server.request("POST", path, data)
        return status, answer, seconds() - before, (kib("VmHWM") - memory) / 1024

    def test_they_are_refused_and_cost_nothing(self):
        def chat(**more):
            return CHAT, {**GOOD[CHAT], **more}

        def schema(value):
            return chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": value}})

        deep = {"type": "boolean"}
        for _ in range(60):
            deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
        cases = {
            "depth of arrays": (CHAT, b'{"messages": ' + b"[" * 100000), "depth of objects": (CHAT, b'{"a":' * 100000),
            "depth, closed": (CHAT, b'{"messages": ' + b"[" * 50000 + b"]" * 50000 + b"}"),
            "depth to MCP": ("/mcp", b"[" * 100000), "depth to Ollama": ("/api/chat", b'{"a":' * 100000),
            "depth to Anthropic": (MESSAGE, b"[" * 100000), "depth of a schema": schema(deep),
            "depth of a tool": chat(tools=[{"type": "function", "function": {"name": "f", "parameters": deep}}]),
            "members": (CHAT, b'{' + b",".join(b'"%d":0' % i for i in range(1000000)) + b"}"),
            "number": (CHAT, b'{"n": ' + b"9" * 1000000 + b"}"), "exponent": (CHAT, b'{"temperature": 1e400}'),
            "lists": (CHAT, b'{"messages": [' + b"[]," * 2000000 + b"1]}"), "lists to MCP": ("/mcp", b"[" + b"[]," * 2000000 + b"1]"),
            "names twice": (CHAT, b'{"a": 1, "a": 2}'), "garbage behind": (CHAT, b'{"a": 1}}'), "comment": (CHAT, b"/* */ {}"),
            "nothing": (CHAT, b""), "no object": (CHAT, b"[]"), "surrogate": (CHAT, b'{"messages": "\\ud800"}'),
            "schema elsewhere": schema({"$ref": "http://127.0.0.1:1/x"}),
            "n": chat(n=10**9), "best_of": (COMPLETION, {**GOOD[COMPLETION], "best_of": 10**9}),
            "stops": chat(stop=["x"] * 1000), "biases": chat(logit_bias={str(i): 1 for i in range(5000)}),
            "tools": chat(tools=[{"type": "function", "function": {"name": f"f{i}", "parameters": {}}} for i in range(10000)]),
        }
        worst = {"seconds": (0, ""), "MiB": (0, "")}
        for name, (path, body) in cases.items():
            data = body if isinstance(body, bytes) else json.dumps(body)
            seconds = mib = None
            for _ in range(3):  # The least: others may be at work.
                status, answer, took, grew = self.cost(path, data)
                seconds, mib = min(took, seconds or took), grew if mib is None else min(grew, mib)
            if name.startswith("depth of a ") and status == 200:
                continue  # Within the limit, so it is answered.
            self.assertIn(status, (400, 413), (name, answer[:200]))
            # What was sent has to be held and read, which is no cost of what it asks for.
            self.assertLess(seconds, 0.05, name)
            self.assertLess(mib - 3 * len(data) / 2**20, 10, name)
            worst["seconds"] = max(worst["seconds"], (seconds, name))
            worst["MiB"] = max(worst["MiB"], (mib, name))
        print(f"{len(cases)} bombs: at most {worst['seconds'][0] * 1e3:.1f} ms ({worst['seconds'][1]}) and "
              f"{worst['MiB'][0]:.1f} MiB ({worst['MiB'][1]})")

    def test_patterns_and_grammars_that_explode(self):
        """Refused or answered, in any case in time: a pattern is no backtracking here."""
        values = ["(a+)+b", "(a|a)*b", "(a{1,100}){1,100}", "a{1,100000}", "((((a{50}){50}){50}){50})", "(.*)*x", "[a-z]{1000000000}",
                  "(?=a)b", "\\1", "(a" * 5000, "a**", "[", "(?P<x>a)(?P=x)", "\\p{L}{1000,2000}"]
        results = {}
        for value in values:
            for path, body in ((CHAT, {**GOOD[CHAT], "response_format": {"type": "json_schema", "json_schema": {
                    "name": "n", "schema": {"type": "string", "pattern": value}}}}),
                    (CHAT, {**GOOD[CHAT], "structured_outputs": {"regex": value}})):
                costs = [self.cost(path, json.dumps(body)) for _ in range(2)]
                status, answer, _, _ = costs[0]
                self.assertIn(status, (200, 400), (value[:40], answer[:300]))
                seconds, mib = min(cost[2] for cost in costs), min(cost[3] for cost in costs)
                results[value[:24]] = max((status, seconds, mib), results.get(value[:24], (0, 0, 0)))
                self.assertLess(seconds, 0.05 if status == 400 else 0.5, (value[:40], status))
                self.assertLess(mib, 10 if status == 400 else 64, (value[:40], status))
        refused = [name for name, (status, _, _) in results.items() if status == 400]
        print(f"{len(values)} patterns, {len(refused)} of them refused: at most "
              f"{max(seconds for _, seconds, _ in results.values()) * 1e3:.0f} ms and "
              f"{max(mib for _, _, mib in results.values()):.1f} MiB")

    def test_numbers_that_no_option_takes(self):
        """Every number of every API, too large and below zero: 400 that names it, or a value that it has."""
        numbers = {
            CHAT: ["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "n", "top_logprobs",
                   "presence_penalty", "frequency_penalty", "repeat_penalty", "repetition_penalty", "repeat_last_n", "num_ctx", "seed"],
            COMPLETION: ["max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "best_of", "logprobs", "presence_penalty", "num_ctx",
                         "repeat_last_n", "seed"],
            RESPONSE: ["max_output_tokens", "temperature", "top_p", "top_k", "top_logprobs", "presence_penalty", "num_ctx", "seed"],
            MESSAGE: ["max_tokens", "temperature", "top_p", "top_k"],
            "/v1/embeddings": ["dimensions"], "/api/embed": ["dimensions", "options.num_ctx"], "/api/chat": ["top_logprobs"],
            "/api/generate": ["options." + name for name in (
                "num_predict", "num_ctx", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
                "presence_penalty", "frequency_penalty", "seed")] + ["top_logprobs"],
        }
        # Values with a meaning, or that are taken as they are.
        fine = {("top_k", -1), ("num_predict", -1), ("repeat_last_n", -1), ("seed", -1), ("seed", 10**9), ("top_k", 10**9),
                ("repeat_last_n", 10**9), ("max_tokens", 10**9), ("max_completion_tokens", 10**9), ("max_output_tokens", 10**9),
                ("num_predict", 10**9), ("presence_penalty", -1), ("frequency_penalty", -1), ("seed", 2**31), ("seed", -2**63),
                ("seed", 2**31 - 1), ("top_k", 2**31 - 1), ("repeat_last_n", 2**31 - 1), ("max_tokens", 2**31 - 1),
                ("max_completion_tokens", 2**31 - 1), ("max_output_tokens", 2**31 - 1), ("num_predict", 2**31 - 1)}
        values = [-1, 10**9, 2**31 - 1, 2**31, 2**63, 2**64, -2**63, -2**63 - 1, 1e30, "5", True, [1], {}, float("nan")][::1 if LONG_RUN else 4]
        asked, worst = 0, 0
        for path, names in numbers.items():
            for name in names:
                for value in values:
                    body = {**GOOD[path], "logprobs": True} if name == "top_logprobs" and path != RESPONSE else dict(GOOD[path])
                    short = name.removeprefix("options.")
                    if short != name:
                        body["options"] = {"num_predict": 2, **body.get("options", {}), short: value}
                    else:
                        body[short] = value
                    if not isinstance(value, (str, bool, list, dict)) and value == value and (short, value) in fine:
                        continue  # Tens of thousands of tokens may be the answer; the table above says that it is one.
                    status, answer, seconds, _ = self.cost(path, json.dumps(body))
                    asked += 1
                    worst = max(worst, seconds)
                    # Embeddings have no larger contexts to refuse: they say so.
                    if path == "/api/embed" and short == "num_ctx" and value in (10**9, 2**31 - 1) and value is not True:
                        self.assertEqual(status, 200, (path, name, value))
                        continue
                    self.assertEqual(status, 400, (path, name, value, answer[:200]))
                    if value == value:  # NaN is no JSON.
                        self.assertIn(short, message_of(json.loads(answer)), (path, name, value))
        print(f"{asked} numbers refused, in at most {worst * 1e3:.1f} ms of the processor's time")
        self.assertLess(worst, 0.05)


class Options(unittest.TestCase):
    """No option is lost: it is done, refused, or told to have no effect."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-context", "512")  # Not loaded: what depends on the model has to be told later.

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def told(self, api, name, body):
        """Where an answer or its refusal says the name."""
        status, headers, data = self.server.request("POST", api["path"], body)
        self.assertIn(status, (200, 400), (name, data))
        if status == 400:
            self.assertIn(name, message_of(json.loads(data)), api["path"])
            return "refused"
        warnings = headers.get("X-MLX-Flash-Warning", "")
        # What is for the template is told by the name that the template knows.
        name = {"output_config": "reasoning_effort", "chat_template_kwargs": "odd_switch"}.get(name, name)
        self.assertIn(name, warnings, (api["path"], data[:300]))
        return "told"

    def test_what_cannot_be_done_is_told(self):
        counts = {"refused": 0, "told": 0}
        for api in api_options.ALL:
            for name, value in api["told"].items():
                counts[self.told(api, name, {**api["body"], name: value})] += 1
            for name, value in api.get("options", {"told": {}})["told"].items():
                counts[self.told(api, name, {**api["body"], "options": {**api["body"].get("options", {}), name: value}})] += 1
            counts[self.told(api, "surprise", {**api["body"], "surprise": 1})] += 1
            # Neither of those is told of where nothing was asked for.
            status, headers, data = self.server.request("POST", api["path"], {
                **api["body"], **{name: None for name in api["told"] if name != "prompt"}})
            self.assertEqual((status, headers.get("X-MLX-Flash-Warning")), (200, None), (api["path"], data))
        print(f"{counts['refused']} options refused, {counts['told']} told to have no effect")

    def test_a_stream_that_begins_before_the_model_is_there_tells_too(self):
        """Its headers are out when it turns out what the model cannot do."""
        for path, body in ((CHAT, {**GOOD[CHAT], "reasoning_effort": "high"}),
                           (RESPONSE, {**GOOD[RESPONSE], "reasoning": {"effort": "high"}}),
                           (MESSAGE, {**GOOD[MESSAGE], "output_config": {"effort": "high"}})):
            self.server.request("POST", "/release", "")
            status, headers, data = self.server.request("POST", path, {**body, "stream": True})
            self.assertEqual(status, 200, data)
            self.assertNotIn("X-MLX-Flash-Warning", headers, "it was begun too late")
            self.assertRegex(data.decode(), r"(?m)^: warning: reasoning_effort has no effect: .*$")

    def test_what_the_template_cannot_do(self):
        self.assertEqual(self.server.request("POST", CHAT, GOOD[CHAT])[0], 200)
        for body, warning in (({"reasoning_effort": "none"}, None), ({"chat_template_kwargs": {"enable_thinking": False}}, None),
                              ({"reasoning_effort": "low"}, "reasoning_effort has no effect: the model's chat template does not know it"),
                              ({"chat_template_kwargs": {"odd": 1}}, "odd has no effect: the model's chat template does not know it"),
                              ({"messages": [{"role": "user", "content": "x", "prefix": True}]}, "messages[0].prefix ignored")):
            status, headers, data = self.server.request("POST", CHAT, {**GOOD[CHAT], **body})
            self.assertEqual((status, headers.get("X-MLX-Flash-Warning")), (200, warning), (body, data))

    def test_a_text_to_embed_that_is_cut(self):
        long = "word " * 2000
        status, headers, _ = self.server.request("POST", "/api/embed", {"model": "local", "input": ["a", long]})
        self.assertEqual(status, 200)
        self.assertRegex(headers["X-MLX-Flash-Warning"], r"input\[1\] was cut from \d+ to 511 tokens: truncate")
        self.assertEqual(self.server.request("POST", "/api/embed", {"model": "local", "input": long, "truncate": False})[0], 400)
        _, headers, _ = self.server.request("POST", "/api/embed", {"model": "local", "input": "a", "options": {"num_ctx": 8192}})
        self.assertIn("num_ctx is 8192, but this server's context holds 512", headers["X-MLX-Flash-Warning"])

    def test_over_mcp(self):
        def call(arguments):
            return self.server.json("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": "generate", "arguments": {"max_tokens": 2, **arguments}}}, {"MCP-Protocol-Version": "2025-11-25"})[1]["result"]

        result = call({"messages": [{"role": "user", "content": "x", "prefix": True}]})
        self.assertEqual(result["structuredContent"]["warnings"], ["messages[0].prefix ignored"])
        self.assertNotIn("warnings", call({"prompt": "x"})["structuredContent"])
        self.assertTrue(call({"prompt": "x", "surprise": 1})["isError"])


if __name__ == "__main__":
    unittest.main()
