"""HTTP as strangers speak it: raw sockets, hostile requests, clients that leave, access, signals."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from serving import MODEL, NAME, PROGRAM, Server, post, read_all, read_until

LONG = {"prompt": "The old man walked along the shore and", "max_tokens": 4000, "ignore_eos": True, "seed": 1}
SHORT = {"prompt": "Once", "max_tokens": 2, "seed": 1}


def statuses(data):
    """The status of each response in `data`."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def open_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def anonymous_kib(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")


class Http(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--preload", "--parallel", "2", "--queue", "2000")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_bodies_are_bounded_before_they_are_read(self):
        too_long = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
        self.assertEqual(statuses(self.server.raw(too_long + b"\r\n")), [413])
        self.assertEqual(statuses(self.server.raw(too_long + b"Expect: 100-continue\r\n\r\n")), [413])
        chunked = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(statuses(self.server.raw(chunked + b"FFFFFFFF\r\n")), [413])
        for length in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):  # To a path that anybody may ask.
            self.assertEqual(statuses(self.server.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")), [413])
        self.assertEqual(self.server.json("GET", "/livez", "", {"Content-Length": "0"})[0], 200)
        status, answer = self.server.json("POST", "/tokenize", {"content": "a " * (3 << 20)})
        self.assertEqual((status, answer["error"]["code"]), (413, "request_too_large"))

    def test_requests_in_a_row_are_answered_in_order(self):
        bad = post("/v1/completions", {})
        with self.server.connect() as connection:
            connection.sendall(bad + post("/v1/completions", SHORT) + b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" +
                               b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self.assertEqual(statuses(read_all(connection)), [400, 200, 200, 200])

    def test_paths_and_methods(self):
        self.assertEqual(self.server.json("GET", "/nowhere")[0], 404)
        self.assertEqual(self.server.json("GET", "/nowhere")[1]["error"]["code"], "not_found")
        status, headers, _ = self.server.request("GET", "/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        status, headers, body = self.server.request("OPTIONS", "/v1/completions")
        self.assertEqual((status, headers["Allow"], body), (204, "POST", b""))
        status, headers, body = self.server.request("HEAD", "/v1/models")
        self.assertEqual((status, body), (200, b""))
        self.assertGreater(int(headers["Content-Length"]), 0)
        for path in ("/../etc/passwd", "/v1/models/../../x", "/v1/models/%2e%2e%2fetc%2fpasswd", "//livez"):
            self.assertEqual(self.server.json("GET", path)[0], 404, path)



class Access(unittest.TestCase):
    def test_pages_of_named_origins(self):
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("first-key\n")
            keys.flush()
            server = Server("--api-key-file", keys.name, "--allow-origin", "http://localhost:3000", "--allow-origin", "null")
            try:
                ask = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST",
                       "Access-Control-Request-Headers": "authorization, anthropic-version, mcp-session-id"}
                status, headers, _ = server.request("OPTIONS", "/v1/messages", headers=ask)
                self.assertEqual(status, 204)
                self.assertEqual(headers["Access-Control-Allow-Origin"], "http://localhost:3000")
                self.assertEqual(headers["Access-Control-Allow-Methods"], "POST")
                self.assertEqual(headers["Access-Control-Allow-Headers"], ask["Access-Control-Request-Headers"])
                page = {"Origin": "http://localhost:3000", "Content-Type": "application/json"}
                status, headers, _ = server.request("POST", "/v1/completions", SHORT, page)
                self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (401, "http://localhost:3000"))
                page["Authorization"] = "Bearer first-key"
                for stream in (False, True):
                    status, headers, _ = server.request("POST", "/v1/completions", {**SHORT, "stream": stream}, page)
                    self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "http://localhost:3000"))
                    self.assertEqual(headers["Vary"], "Origin")
                status, headers, _ = server.request("POST", "/v1/completions", SHORT, {**page, "Origin": "http://localhost:3001"})
                self.assertEqual(status, 403)
                self.assertNotIn("Access-Control-Allow-Origin", headers)
            finally:
                server.stop()

    def test_keys(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("# ours\nfirst-secret-key\nsecond-secret-key\n")
            file.flush()
            with Server("--preload", "--api-key-file", file.name, "--log-requests", env={"MLX_FLASH_API_KEY": "env-secret-key"}) as server:
                self.assertEqual(server.json("GET", "/livez")[0], 200)
                for path in ("/health", "/status", "/metrics", "/v1/models", "/nowhere"):
                    status, headers, body = server.request("GET", path)
                    self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"), path)
                    self.assertEqual(json.loads(body)["error"]["type"], "authentication_error")
                for headers in ({"Authorization": "Bearer second-secret-key"}, {"x-api-key": "env-secret-key"}):
                    self.assertEqual(server.json("POST", "/v1/completions", SHORT, headers)[0], 200)
                wrong = [{"x-api-key": "wrong-key-wrong"}, {"Authorization": "Bearer " + "x" * 8000},
                         {"x-api-key": "first-secret-key", "Authorization": "Bearer second-secret-key"}]
                for headers in wrong:
                    self.assertEqual(server.json("POST", "/v1/completions", SHORT, headers)[0], 401)
                self.assertEqual(server.json("GET", "/v1/models?api_key=first-secret-key")[0], 401)
                # One user's prompt must not be faster for another: what is kept is kept per key.
                prompt = {"prompt": "It was a dark night, and the wind was howling over the moor. " * 3, "max_tokens": 2}
                cached = []
                for key in ("first-secret-key", "second-secret-key", "first-secret-key"):
                    _, answer = server.json("POST", "/v1/completions", prompt, {"x-api-key": key})
                    cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
                self.assertEqual(cached[:2], [0, 0])
                self.assertGreater(cached[2], 20)
                text = server.request("GET", "/status", headers={"x-api-key": "first-secret-key"})[2].decode()
                self.assertNotIn("secret", text + server.text())
                self.assertIn("POST /v1/completions", server.text())

    def test_start_is_refused_in_one_line(self):
        def run(*flags):
            done = subprocess.run([PROGRAM, "serve", *flags], capture_output=True, text=True, timeout=60, check=False,
                                  env={k: v for k, v in os.environ.items() if k != "MLX_FLASH_API_KEY"})
            lines = [line for line in done.stderr.splitlines() if line.startswith("mlx-flash: ")]
            self.assertEqual(len(lines), 1, done.stderr)
            return done.returncode, lines[0]

        code, line = run("-m", MODEL, "--host", "0.0.0.0", "--port", "0")
        self.assertEqual(code, 2)
        self.assertIn("API key", line)
        self.assertEqual(run("-m", "/nowhere/model", "--port", "0", "--preload")[0], 1)
        with Server() as server:
            code, line = run("-m", MODEL, "--port", str(server.port))
            self.assertEqual(code, 1)
            self.assertIn(f"127.0.0.1, port {server.port}", line)
        with tempfile.NamedTemporaryFile("w") as file:
            self.assertEqual(run("-m", MODEL, "--port", "0", "--api-key-file", file.name)[0], 2)
            self.assertEqual(run("-m", MODEL, "--port", "0", "--chat-template", "/nowhere")[0], 1)

    def test_the_bare_program_serves_too(self):
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen([PROGRAM, "--port", "0", "-m", MODEL], stderr=log)
            try:
                deadline = time.monotonic() + 60
                while b"serving " not in os.pread(log.fileno(), 4096, 0) and time.monotonic() < deadline:
                    time.sleep(0.02)
                self.assertIn(f"serving {NAME} at http://127.0.0.1:".encode(), os.pread(log.fileno(), 4096, 0))
            finally:
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(60), 0)


class Operations(unittest.TestCase):
    def test_requests_are_logged_once_they_are_over(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "requests.log"
            with Server("--preload", "--log-file", str(path), "--log-format", "json") as server:
                server.json("POST", "/v1/completions", SHORT, {"Authorization": "Bearer not-a-secret-1"})
                _, headers, _ = server.request("POST", "/v1/completions", {**SHORT, "stream": True})
                self.assertEqual(server.json("GET", "/nowhere?key=not-a-secret-2")[0], 404)
                server.raw(b"nonsense\r\n\r\n")
                with server.connect() as connection:
                    connection.sendall(post("/v1/completions", {**LONG, "stream": True}))
                    read_until(connection, b"data: ")
                self.assertTrue(server.await_metric("mlx_flash_requests_running", 0, 60))
                recent = server.json("GET", "/logs/recent")[1]["logs"]
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            self.assertNotIn("secret", path.read_text())
            generations = [e for e in entries if e["path"] == "/v1/completions"]
            self.assertEqual([e["status"] for e in generations], [200, 200, 200])
            self.assertEqual([e["complete"] for e in generations], [True, True, False])
            self.assertEqual([e.get("generated_tokens") for e in generations], [2, 2, None])
            self.assertEqual(generations[1]["request_id"], headers["X-Request-Id"])
            self.assertGreater(generations[0]["duration_ms"], 0)
            self.assertEqual([(e["path"], e["level"]) for e in entries if e["status"] == 404], [("/nowhere", "warning")])
            self.assertEqual([e["status"] for e in entries if e["path"] == ""], [400])
            self.assertGreaterEqual(len(recent), 5)
            for entry in recent:
                self.assertIn(entry, entries)

    def test_options_from_a_file_and_a_service_manager(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "serve.toml"
            config.write_text('[serve]\nparallel = 3\napi-key-file = "%s/keys"\n' % folder)
            (pathlib.Path(folder) / "keys").write_text("from-the-file-1\n")
            notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            notices.bind(folder + "/notify")
            notices.settimeout(60)
            with Server("--config", str(config), "--queue", "7", env={"NOTIFY_SOCKET": folder + "/notify"}) as server:
                self.assertEqual(notices.recv(200), f"READY=1\nSTATUS=serving {NAME}".encode())
                self.assertEqual(server.json("GET", "/status")[0], 401)
                server.json("POST", "/v1/completions", SHORT, {"x-api-key": "from-the-file-1"})
                scheduler = server.json("GET", "/status", headers={"x-api-key": "from-the-file-1"})[1]["scheduler"]
                self.assertEqual(scheduler["parallel"], 3)
            self.assertEqual(notices.recv(200), b"STOPPING=1")
            notices.close()
            for text, part in (("[serve]\nprot = 1\n", "prot"), ("[serve]\nport = 99999999\n", "--port")):
                config.write_text(text)
                done = subprocess.run([PROGRAM, "serve", "-m", MODEL, "--config", str(config)], capture_output=True, text=True,
                                      timeout=60, check=False)
                self.assertEqual((done.returncode, len(done.stderr.splitlines())), (2, 1), done.stderr)
                self.assertIn(part, done.stderr)
            done = subprocess.run([PROGRAM, "list"], capture_output=True, text=True, timeout=60, check=False,
                                  env={**os.environ, "MLX_FLASH_CONFIG": folder + "/absent.toml"})
            self.assertEqual(done.returncode, 2)
            self.assertIn("absent.toml", done.stderr)


class Ends(unittest.TestCase):
    def test_busy_it_finishes_what_runs_and_refuses_the_rest(self):
        server = Server("--preload", "--drain", "60")
        self.addCleanup(server.stop)
        with server.connect() as connection:
            connection.sendall(post("/v1/completions", {**LONG, "max_tokens": 150, "stream": True}))
            read_until(connection, b"data: ")
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 30
            while "stopping once" not in server.text() and time.monotonic() < deadline:
                time.sleep(0.01)
            status, headers, body = server.request("POST", "/v1/completions", SHORT)
            self.assertEqual((status, json.loads(body)["error"]["code"]), (503, "draining"))
            self.assertEqual(headers["Retry-After"], "1")
            self.assertIn(b"[DONE]", read_all(connection))
        self.assertEqual(server.process.wait(30), 0)

    def test_what_takes_too_long_ends_in_an_error(self):
        for flags, signals in ((("--drain", "0"), 1), (("--drain", "600"), 2)):
            server = Server("--preload", *flags)
            self.addCleanup(server.stop)
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", {**LONG, "stream": True}))
                read_until(connection, b"data: ")
                for _ in range(signals):
                    server.process.send_signal(signal.SIGTERM)
                    time.sleep(0.2)
                rest = read_all(connection).decode()
            error = json.loads(rest.split("data: ")[-1].split("\n\n")[0])["error"]
            self.assertEqual(error["code"], "draining")
            self.assertNotIn("[DONE]", rest)
            self.assertEqual(server.process.wait(10), 0)

    def test_a_full_queue_refuses(self):
        with Server("--preload", "--parallel", "1", "--queue", "1") as server:
            held = []
            for _ in range(2):
                connection = server.connect()
                connection.sendall(post("/v1/completions", {**LONG, "stream": True}))
                read_until(connection, b"\r\n\r\n")
                held.append(connection)
                self.assertTrue(server.await_metric("mlx_flash_requests_running", 1, 20))
            status, headers, body = server.request("POST", "/v1/completions", SHORT)
            self.assertEqual((status, json.loads(body)["error"]["code"]), (503, "queue_full"))
            self.assertEqual((headers["Retry-After"], headers["x-should-retry"]), ("1", "true"))
            for connection in held:
                connection.close()
            self.assertTrue(server.await_metric("mlx_flash_requests_running", 0, 20))
            self.assertEqual(server.json("POST", "/v1/completions", SHORT)[0], 200)


if __name__ == "__main__":
    unittest.main()
