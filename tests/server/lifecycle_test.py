"""The life of models in a server: unloading, loading again, switching, and who may ask for it."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from serving import MODEL, NAME, PROGRAM, Server, in_threads, post, read_until
import mcp_test

PROMPT = {"prompt": "The old man walked along the shore and", "seed": 7, "max_tokens": 12}
OTHER, BROKEN, NO_MODEL = "classics/other", "classics/broken", "classics/nothing"
FAR = 250  # Years: what Ollama's clients are told of a model that stays.


def make_home(folder):
    """Caches with a second model, one whose tokenizer is broken, and one that is none."""
    models = pathlib.Path(folder) / ".cache/mlx-flash/models"
    for name in (OTHER, BROKEN, NO_MODEL):
        shutil.copytree(MODEL, models / name / "main")
    (models / BROKEN / "main/tokenizer.json").write_text('{"model": 5}')
    (models / NO_MODEL / "main/config.json").write_text("{}")
    return {"HOME": folder, "HF_HOME": folder + "/hf", "XDG_CACHE_HOME": folder + "/.cache",
            "OLLAMA_MODELS": folder + "/ollama", "HF_HUB_CACHE": folder + "/hub"}


class Lifecycle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.TemporaryDirectory()
        cls.env = make_home(cls.home.name)

    @classmethod
    def tearDownClass(cls):
        cls.home.cleanup()

    def serve(self, *flags, **options):
        return Server("--max-context", "512", *flags, env={**self.env, **options.pop("env", {})}, **options)

    def ok(self, server, path, body=None, headers=None):
        status, answer = server.json("POST", path, body, headers)
        self.assertEqual(status, 200, answer)
        return answer

    def text(self, server, model=NAME):
        return self.ok(server, "/v1/completions", {**PROMPT, "model": model})["choices"][0]["text"]

    def running(self, server):
        return server.json("GET", "/api/ps")[1]["models"]

    def await_unloaded(self, server):
        self.assertTrue(server.await_metric("mlx_flash_model_loaded", 0, 30))


class Switching(Lifecycle):
    def test_by_name_and_back(self):
        with self.serve("--preload", "--no-switch-by-name") as server:
            before = self.text(server)
            answer = self.ok(server, "/v1/models/switch", {"model": OTHER})
            self.assertEqual(answer, {"switched": True, "model": OTHER, "previous": NAME})
            self.assertEqual(server.json("GET", "/v1/models")[1]["data"][0]["id"], OTHER)
            self.assertEqual(self.text(server, OTHER), before, "the same weights under another name")
            self.assertEqual(self.text(server, "local"), before)
            status, error = server.json("POST", "/v1/completions", {**PROMPT, "model": NAME})
            self.assertEqual((status, error["error"]["code"]), (404, "model_not_found"))
            self.assertEqual([m["model"] for m in self.running(server)], [OTHER + ":latest"])
            self.assertIn(f'mlx_flash_info{{model="{OTHER}"}} 1', server.request("GET", "/metrics")[2].decode())
            # The template was given for the first model, not for this one.
            chat = {"model": OTHER, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            self.assertEqual(server.json("POST", "/v1/chat/completions", chat)[0], 400)
            # It lies outside of all caches, yet it has a name here. The last part of a name does, as with -m.
            self.ok(server, "/v1/models/switch", {"model": NAME})
            self.ok(server, "/v1/chat/completions", {**chat, "model": NAME})
            self.assertEqual(self.ok(server, "/v1/models/switch", {"model": "other:latest"})["model"], OTHER)
            self.assertIn(f"switched from {NAME} to {OTHER}\n", server.text())
            self.assertEqual(server.metric("mlx_flash_tokens_generated_total"), 12 * 3 + 2, "counted on")

    def test_what_fails_leaves_the_old_one(self):
        with self.serve("--preload") as server:
            before = self.text(server)
            for name, status, code in ((BROKEN, 500, "model_corrupt"), (NO_MODEL, 500, "model_corrupt"),
                                       ("classics/none", 404, "model_not_found"), ("none", 404, "model_not_found")):
                got, answer = server.json("POST", "/v1/models/switch", {"model": name})
                self.assertIn(got, (status, 400) if name == NO_MODEL else (status,), answer)
                self.assertEqual((answer["switched"], answer["model"]), (False, NAME), answer)
                self.assertIn(name, answer["error"]["message"])
                if name != NO_MODEL:
                    self.assertEqual(answer["error"]["code"], code)
                self.assertEqual(self.text(server), before)

    def test_files_are_not_opened_for_clients(self):
        with self.serve() as server:
            cached = self.home.name + "/.cache/mlx-flash/models/" + OTHER + "/main"
            for name in (MODEL, cached, "../" + NAME, "./models/" + NAME, "/etc/passwd", "models/../../x", "~/x",
                         cached + "/model.safetensors", "a b", "a\u0000b", "x" * 5000):
                status, answer = server.json("POST", "/v1/models/switch", {"model": name})
                self.assertIn(status, (400, 404), (name, answer))
                self.assertEqual(answer["model"], NAME)
            for body in ({}, {"model": ""}, {"model": 5}, {"model": None}, {"model": [OTHER]}):
                status, answer = server.json("POST", "/v1/models/switch", body)
                self.assertEqual((status, answer["error"]["param"]), (400, "model"))
            self.assertEqual(server.request("POST", "/v1/models/switch", b"{")[0], 400)
            self.assertEqual(server.metric("mlx_flash_model_loaded"), 0)

    def test_answers_under_way_end_first_and_new_ones_wait(self):
        with self.serve("--preload", "--parallel", "2") as server:
            long = {**PROMPT, "max_tokens": 300, "ignore_eos": True}
            whole = self.ok(server, "/v1/completions", long)["choices"][0]["text"]
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", {**long, "model": NAME, "stream": True}))
                data = read_until(connection, b"data: ")
                switched = []
                thread = threading.Thread(target=lambda: switched.append(
                    self.ok(server, "/v1/models/switch", {"model": OTHER})))
                thread.start()
                # Whichever moment they meet: held until the new model is there.
                texts = in_threads(lambda _: self.text(server, "local"), 4)
                data += read_until(connection, b"data: [DONE]")
                thread.join()
            events = [json.loads(line[6:]) for line in data.decode().split("\n")
                      if line.startswith("data: {")]
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), whole)
            self.assertEqual({e["model"] for e in events}, {NAME})
            self.assertEqual(switched[0]["previous"], NAME)
            self.assertEqual(len(set(texts)), 1)

    def test_what_takes_too_long_is_ended_honestly(self):
        with self.serve("--preload", "--drain", "0") as server:
            body = {**PROMPT, "max_tokens": 400, "ignore_eos": True, "stream": True}
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", body))
                data = read_until(connection, b"data: ")
                self.ok(server, "/v1/models/switch", {"model": OTHER})
                data += read_until(connection, b"\r\n0\r\n\r\n")
            if b"[DONE]" not in data:  # It may have been fast enough.
                self.assertIn(b"the server switched to the model " + OTHER.encode(), data)
                self.assertIn(b'"code":"draining"', data)

    def test_many_at_once(self):
        with self.serve("--preload") as server:
            names = [OTHER, NAME] * 2

            def work(index):
                if index < 4:
                    return self.ok(server, "/v1/models/switch", {"model": names[index]})["switched"]
                if index == 4:
                    return self.ok(server, "/reload")["reloaded"]
                return self.text(server, "local")

            results = in_threads(work, 12)
            self.assertEqual(results[:5], [True] * 5)
            self.assertEqual(len(set(results[5:])), 1)


class Releasing(Lifecycle):
    def test_frees_the_memory_until_the_next_request(self):
        with self.serve("--preload") as server:
            before = self.text(server)
            held = server.json("GET", "/status")[1]["memory"]["own_gb"]
            answer = self.ok(server, "/release")
            self.assertEqual((answer["action"], answer["model"]), ("released", NAME))
            freed = held - server.json("GET", "/status")[1]["memory"]["own_gb"]
            self.assertGreater(freed, 0.6 * held, "most of what it held")
            self.assertAlmostEqual(answer["freed_gb"], freed, delta=0.1 * held)
            self.assertEqual(self.running(server), [])
            self.assertEqual(server.json("GET", "/health")[1]["model_loaded"], False)
            self.assertEqual(server.request("GET", "/health")[0], 200)
            self.assertEqual(self.ok(server, "/release", {})["action"], "none")
            self.assertEqual(self.text(server), before)
            self.assertEqual(server.metric("mlx_flash_model_loaded"), 1)

    def test_again_and_again(self):
        with self.serve("--preload", budget="64MiB") as server:
            held = []
            for _ in range(6):
                before = self.text(server)
                self.ok(server, "/release")
                held.append(server.json("GET", "/status")[1]["memory"]["own_gb"] * 1024)
            self.assertLess(held[-1], held[1] + 4, "nothing grows")
            self.assertEqual(self.text(server), before)

    def test_reload(self):
        with self.serve() as server:
            answer = self.ok(server, "/reload")
            self.assertEqual((answer["reloaded"], answer["model"], answer["model_loaded"]), (True, NAME, True))
            self.assertGreater(answer["memory_available_gb"], 0)
            self.assertIn(answer["pressure"], ("Normal", "Warning", "Critical"))
            before = self.text(server)
            self.ok(server, "/reload", {"force": True})
            self.assertEqual(self.text(server), before)

    def test_reload_takes_what_the_files_hold_now(self):
        with tempfile.TemporaryDirectory() as home:
            env = make_home(home)
            with self.serve(env=env) as server:
                self.ok(server, "/v1/models/switch", {"model": OTHER})
                tokenizer = pathlib.Path(home) / ".cache/mlx-flash/models" / OTHER / "main/tokenizer.json"
                good = tokenizer.read_bytes()
                tokenizer.write_text("{}")
                status, answer = server.json("POST", "/reload")
                self.assertEqual((status, answer["reloaded"], answer["model"]), (500, False, OTHER))
                self.assertEqual(server.json("GET", "/health")[1]["status"], "failed")
                self.assertEqual(server.json("POST", "/v1/completions", PROMPT)[0], 500)
                tokenizer.write_bytes(good)
                self.text(server, OTHER)


class KeepAlive(Lifecycle):
    def test_the_flag(self):
        with self.serve("--preload", "--keep-alive", "300ms") as server:
            self.await_unloaded(server)
            self.text(server)
            self.await_unloaded(server)
            self.assertIn(f"unloaded {NAME}, which nobody uses\n", server.text())
        with self.serve("--preload", "--keep-alive", "5m") as server:
            self.assertAlmostEqual(self.left(server), 300, delta=60)
        with self.serve("--preload", "--keep-alive", "-1") as server:
            self.assertGreater(self.left(server), FAR * 365 * 86400)
        with self.assertRaisesRegex(AssertionError, 'keep-alive "soon" is no duration'):
            self.serve("--keep-alive", "soon")

    def left(self, server):
        expires = self.running(server)[0]["expires_at"]
        year, rest = expires.split("-", 1)  # Beyond what mktime knows, perhaps.
        this_year = time.gmtime().tm_year
        if int(year) > this_year + 1:
            return (int(year) - this_year) * 365 * 86400
        return time.mktime(time.strptime(expires, "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(time.gmtime())

    def test_ollamas_field(self):
        with self.serve() as server:
            self.assertEqual(self.running(server), [])
            generate = {"model": NAME, "prompt": "Once", "stream": False, "raw": True, "options": {"num_predict": 3}}
            # No prompt: loads.
            answer = self.ok(server, "/api/generate", {"model": NAME, "stream": False})
            self.assertEqual((answer["done_reason"], answer["done"], answer["response"]), ("load", True, ""))
            self.assertGreater(self.left(server), FAR * 365 * 86400)
            # How long it stays is what was said last.
            status, headers, _ = server.request("POST", "/api/generate", {**generate, "keep_alive": "10m"})
            self.assertEqual((status, headers.get("X-MLX-Flash-Warning")), (200, None))
            self.assertAlmostEqual(self.left(server), 600, delta=60)
            self.ok(server, "/api/generate", generate)
            self.assertAlmostEqual(self.left(server), 600, delta=60)
            self.ok(server, "/api/chat", {"model": NAME, "keep_alive": 100, "stream": False})
            self.assertAlmostEqual(self.left(server), 100, delta=60)
            self.ok(server, "/api/embed", {"model": NAME, "input": "a", "keep_alive": -1})
            self.assertGreater(self.left(server), FAR * 365 * 86400)
            # 0: with an answer after it, without one now.
            self.ok(server, "/api/generate", {**generate, "keep_alive": 0})
            self.await_unloaded(server)
            for path in ("/api/generate", "/api/chat"):
                self.ok(server, path, {"model": NAME, "stream": False})
                answer = self.ok(server, path, {"model": NAME, "keep_alive": 0, "stream": False})
                self.assertEqual((answer["done_reason"], answer["done"], answer["model"]), ("unload", True, NAME))
                self.await_unloaded(server)
                self.assertEqual(self.running(server), [])
            status, headers, data = server.request("POST", "/api/generate", {"model": NAME, "keep_alive": "0s"})
            self.assertEqual((status, headers["Content-Type"]), (200, "application/x-ndjson"))
            self.assertEqual([json.loads(line)["done_reason"] for line in data.splitlines()], ["unload"])
            self.assertEqual(self.running(server), [], "nothing was loaded for it")
            for value in ("soon", True, [5], "5 m"):
                self.assertEqual(server.json("POST", "/api/generate", {**generate, "keep_alive": value})[0], 400)
            self.assertEqual(server.json("POST", "/api/generate", {"model": "no", "keep_alive": 0})[0], 404)

    def test_a_running_answer_keeps_its_model(self):
        with self.serve("--preload") as server:
            body = {"model": NAME, "prompt": "Once", "raw": True, "options": {"num_predict": 300}}
            with server.connect() as connection:
                connection.sendall(post("/api/generate", body))
                data = read_until(connection, b'"response"')
                self.ok(server, "/api/generate", {"model": NAME, "keep_alive": 0, "stream": False})
                data += read_until(connection, b'"done":true')
            self.assertNotIn(b'"error"', data)
            self.await_unloaded(server)


class Administration(Lifecycle):
    PATHS = ("/v1/models/switch", "/reload", "/release", "/shutdown")

    def test_needs_the_key_where_there_is_one(self):
        with self.serve(env={"MLX_FLASH_API_KEY": "first-key"}) as server:
            for path in self.PATHS:
                body = {"model": OTHER}
                self.assertEqual(server.json("POST", path, body)[0], 401, path)
                self.assertEqual(server.json("POST", path, body, {"x-api-key": "other-key"})[0], 401, path)
            self.ok(server, "/v1/models/switch", {"model": OTHER}, {"Authorization": "Bearer first-key"})
            self.assertIsNone(server.process.poll())

    def test_other_pages_and_methods_change_nothing(self):
        with self.serve("--preload") as server:
            for path in self.PATHS:
                headers = {"Origin": "http://evil.com"}
                self.assertEqual(server.json("POST", path, {"model": OTHER}, headers)[0], 403)
                self.assertEqual(server.json("POST", path, {}, {"Host": "evil.com"})[0], 403)
                self.assertIn(server.request("GET", path)[0], (404, 405), path)
            self.assertEqual(len(self.running(server)), 1)
            self.assertEqual(self.running(server)[0]["name"], NAME + ":latest")

    def test_shutdown_drains(self):
        with self.serve("--preload") as server:
            long = {**PROMPT, "max_tokens": 300, "ignore_eos": True, "stream": True}
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", long))
                data = read_until(connection, b"data: ")
                for _ in range(2):  # Asking again is no second Ctrl-C.
                    answer = self.ok(server, "/shutdown")
                    self.assertIs(answer["shutting_down"], True)
                    self.assertTrue(answer["message"])
                data += read_until(connection, b"data: [DONE]")
            self.assertIn(b"data: [DONE]", data)
            self.assertEqual(server.process.wait(30), 0)

    def test_shutdown_of_an_idle_server_answers_first(self):
        for _ in range(3):
            with self.serve() as server:
                self.assertIs(self.ok(server, "/shutdown", {})["shutting_down"], True)
                self.assertEqual(server.process.wait(30), 0)


class Commands(Lifecycle):
    def run_program(self, *words, **environment):
        done = subprocess.run([PROGRAM, *words], env={**os.environ, "MLX_FLASH_API_KEY": "", **environment},
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def test_ps_and_stop(self):
        with self.serve("--preload") as server:
            port = ("--port", str(server.port))
            code, out, _ = self.run_program("ps", *port)
            self.assertEqual(code, 0)
            self.assertRegex(out.splitlines()[1], f"^{NAME}:latest +0.0[0-9] GB +512 +stays$")
            self.assertEqual(json.loads(self.run_program("ps", "--json", *port)[1])[0]["context_length"], 512)
            self.ok(server, "/api/generate", {"model": NAME, "keep_alive": "1h", "stream": False})
            self.assertRegex(self.run_program("ps", *port)[1], r"20\d\d-\d\d-\d\d \d\d:\d\d UTC\n$")
            self.assertEqual(self.run_program("stop", "--unload", *port), (0, "", f"unloaded {NAME}\n"))
            self.assertEqual(self.run_program("stop", "--unload", *port), (0, "", "no model is in memory\n"))
            code, out, error = self.run_program("ps", *port)
            self.assertEqual((code, out, error), (0, "", "no model is in memory; the next request loads it\n"))
            self.assertEqual(self.run_program("stop", *port)[0], 0)
            self.assertEqual(server.process.wait(30), 0)
        code, _, error = self.run_program("ps", *port)
        self.assertEqual(code, 1)
        self.assertIn("nobody answers at http://127.0.0.1:", error)

    def test_with_a_key(self):
        with self.serve(env={"MLX_FLASH_API_KEY": "first-key"}) as server:
            port = ("--port", str(server.port))
            code, _, error = self.run_program("stop", *port)
            self.assertEqual(code, 1)
            self.assertIn("answers with status 401: an API key is needed", error)
            self.assertIsNone(server.process.poll())
            self.assertEqual(self.run_program("ps", *port, MLX_FLASH_API_KEY="first-key")[0], 0)
            with tempfile.NamedTemporaryFile("w") as keys:
                keys.write("# ours\nfirst-key\nanother-key\n")
                keys.flush()
                self.assertEqual(self.run_program("stop", "--api-key-file", keys.name, *port)[0], 0)
            self.assertEqual(server.process.wait(30), 0)


class OverMcp(Lifecycle):
    def tool(self, server, name, arguments=None, headers=None):
        status, answer = server.json("POST", "/mcp", mcp_test.call(name, arguments), {
            "MCP-Protocol-Version": "2025-11-25", **(headers or {})})
        self.assertEqual(status, 200, answer)
        return answer["result"]

    def test_switches_and_releases(self):
        with self.serve() as server:
            models = self.tool(server, "list_models")["structuredContent"]["models"]
            self.assertEqual(models[0]["id"], NAME)
            self.assertEqual({m["status"] for m in models[1:]}, {"not loaded"})
            self.assertIn(OTHER, [m["id"] for m in models])
            result = self.tool(server, "switch_model", {"model": OTHER})
            self.assertEqual(result["structuredContent"], {"switched": True, "model": OTHER, "previous": NAME})
            self.assertEqual(len(self.running(server)), 1)
            result = self.tool(server, "release_memory")
            self.assertEqual(result["structuredContent"], {"action": "released", "model": OTHER})
            self.assertEqual(self.running(server), [])
            self.assertEqual(self.tool(server, "release_memory")["structuredContent"]["action"], "none")
            for arguments, text in (({"model": "none"}, "model_not_found"), ({}, "model"),
                                    ({"model": MODEL}, "invalid_request"), ({"model": BROKEN}, "model_corrupt")):
                result = self.tool(server, "switch_model", arguments)
                self.assertTrue(result["isError"], arguments)
                self.assertIn(text, result["content"][0]["text"])
            self.assertEqual(server.json("GET", "/v1/models")[1]["data"][0]["id"], OTHER)

    def test_over_pipes(self):
        environment = dict(os.environ)
        os.environ.update(self.env)
        try:
            with mcp_test.Pipes("--keep-alive", "1h") as pipes:
                switched = pipes.ask(mcp_test.call("switch_model", {"model": OTHER}))["result"]
                self.assertEqual(switched["structuredContent"]["previous"], NAME)
                text = pipes.ask(mcp_test.call("generate", {**mcp_test.PROMPT, "max_tokens": 4}))["result"]
                self.assertFalse(text["isError"])
                released = pipes.ask(mcp_test.call("release_memory"))["result"]
                self.assertEqual(released["structuredContent"], {"action": "released", "model": OTHER})
                self.assertEqual(pipes.end()[1], 0)
        finally:
            os.environ.clear()
            os.environ.update(environment)


if __name__ == "__main__":
    unittest.main()
