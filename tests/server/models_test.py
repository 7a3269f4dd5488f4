"""Several models in one server: loaded by the requests that name them, within one budget, and unloaded again."""

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

from serving import NAME, PROGRAM, Server, in_threads, post, read_until
import mcp_test
import scripted_model

ALPHA, BETA, LARGE = "tiny/alpha", "tiny/beta", "tiny/large"
SAYS = {ALPHA: "This is what alpha has to say.", BETA: "And beta knows something else."}
PROMPT = {"prompt": "The old man walked along the shore and", "seed": 7, "max_tokens": 12}


def make_home(folder):
    """Caches with two models that say who they are, and one that needs more memory than the others."""
    models = pathlib.Path(folder) / ".cache/mlx-flash/models"
    for name, text in SAYS.items():
        scripted_model.write_model(models / name / "main", [], text)
    (models / LARGE / "main").mkdir(parents=True)
    subprocess.run([PROGRAM, "synth", "--shape", "qwen3-0.6b", "--layers", "1", "-o",
                    str(models / LARGE / "main/large.gguf")], check=True, capture_output=True, timeout=120)
    return {"HOME": folder, "HF_HOME": folder + "/hf", "XDG_CACHE_HOME": folder + "/.cache",
            "OLLAMA_MODELS": folder + "/ollama", "HF_HUB_CACHE": folder + "/hub"}


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.TemporaryDirectory()
        cls.env = make_home(cls.home.name)

    @classmethod
    def tearDownClass(cls):
        cls.home.cleanup()

    def serve(self, *flags, **options):
        return Server("--max-context", "512", *flags, env=self.env, **options)

    def ok(self, server, path, body=None):
        status, answer = server.json("POST", path, body)
        self.assertEqual(status, 200, answer)
        return answer

    def chat(self, server, model, **fields):
        answer = self.ok(server, "/v1/chat/completions", {
            "model": model, "messages": [{"role": "user", "content": "Who are you?"}], **fields})
        return answer["choices"][0]["message"]["content"], answer["model"]

    def running(self, server):
        return [model["name"].removesuffix(":latest") for model in server.json("GET", "/api/ps")[1]["models"]]

    def run_program(self, *words):
        done = subprocess.run([PROGRAM, *words], env={**os.environ, "MLX_FLASH_API_KEY": "", **self.env},
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr


class ByName(Models):
    def test_a_request_loads_the_model_that_it_names(self):
        with self.serve("--preload") as server:
            before = self.ok(server, "/v1/completions", PROMPT)["choices"][0]["text"]
            # As -m takes it: whole, the last part, with Ollama's tag.
            for name in (ALPHA, "alpha", "alpha:latest", ALPHA + ":latest"):
                self.assertEqual(self.chat(server, name), (SAYS[ALPHA], ALPHA), name)
            self.assertEqual(self.running(server), [NAME, ALPHA])
            self.assertEqual(server.metric("mlx_flash_models_loaded"), 2)
            self.assertIn(f"loaded {ALPHA}\n", server.text())
            # In every protocol.
            said = self.ok(server, "/api/chat", {"model": "beta", "stream": False,
                                                 "messages": [{"role": "user", "content": "x"}]})
            self.assertEqual((said["message"]["content"], said["model"]), (SAYS[BETA], BETA))
            said = self.ok(server, "/v1/messages", {"model": BETA, "max_tokens": 60,
                                                    "messages": [{"role": "user", "content": "x"}]})
            self.assertEqual(said["content"][0]["text"], SAYS[BETA])
            self.assertEqual(self.ok(server, "/v1/responses", {"model": BETA, "input": "x"})["model"], BETA)
            events = server.events("/v1/chat/completions", {
                "model": ALPHA, "messages": [{"role": "user", "content": "x"}]})
            deltas = [json.loads(event)["choices"][0]["delta"] for event in events if event != "[DONE]"]
            self.assertEqual("".join(delta.get("content") or "" for delta in deltas), SAYS[ALPHA])
            self.assertEqual(len(self.ok(server, "/api/embed", {"model": ALPHA, "input": "x"})["embeddings"]), 1)
            # Nothing changed for who names none.
            for model in ({}, {"model": "local"}, {"model": NAME}, {"model": NAME + ":latest"}):
                answer = self.ok(server, "/v1/completions", {**PROMPT, **model})
                self.assertEqual((answer["choices"][0]["text"], answer["model"]), (before, NAME))

    def test_what_is_told(self):
        with self.serve("--preload", "--keep-alive", "1h") as server:
            listed = server.json("GET", "/v1/models")[1]["data"]
            self.assertEqual([(m["id"], m["status"]) for m in listed],
                             [(NAME, "loaded"), (ALPHA, "not loaded"), (BETA, "not loaded"), (LARGE, "not loaded")])
            self.assertEqual([m["model"] for m in server.json("GET", "/api/tags")[1]["models"]],
                             [name + ":latest" for name in (NAME, ALPHA, BETA, LARGE)])
            shown = self.ok(server, "/api/show", {"model": "alpha"})
            self.assertIn("<tool_call>", shown["template"])
            self.assertEqual(shown["model_info"]["llama.context_length"], scripted_model.CONTEXT)
            self.assertEqual(self.running(server), [NAME], "nothing is loaded to be told about")
            self.chat(server, BETA)
            entry = server.json("GET", "/v1/models/beta")[1]
            self.assertEqual((entry["id"], entry["status"], entry["context_length"]), (BETA, "loaded", 512))
            status = server.json("GET", "/status")[1]
            self.assertEqual([m["model"] for m in status["models"]], [NAME, BETA])
            self.assertEqual({type(m["busy"]) for m in status["models"]}, {bool})
            self.assertAlmostEqual(status["models"][1]["expires_in_s"], 3600, delta=60)
            models = server.json("POST", "/mcp", mcp_test.call("list_models"))[1]["result"]["structuredContent"]
            self.assertEqual({m["id"]: m["status"] for m in models["models"]},
                             {NAME: "loaded", ALPHA: "not loaded", BETA: "loaded", LARGE: "not loaded"})
            text = server.json("POST", "/mcp", mcp_test.call("generate", {"prompt": "x", "model": "alpha"}))[1]
            self.assertEqual(text["result"]["structuredContent"]["text"], SAYS[ALPHA])
            code, out, _ = self.run_program("ps", "--port", str(server.port))
            self.assertEqual((code, len(out.splitlines())), (0, 4))

    def test_what_is_no_model(self):
        with self.serve() as server:
            for name in ("gpt-4o", "tiny/none", "../" + ALPHA, "/etc/passwd", "a b", "alpha/beta/gamma", "x" * 5000):
                for path, fields in (("/v1/completions", {"prompt": "x"}), ("/api/generate", {"prompt": "x"}),
                                     ("/v1/embeddings", {"input": "x"}), ("/api/show", {}),
                                     ("/v1/completions", {"prompt": "x", "stream": True})):
                    status, answer = server.json("POST", path, {**fields, "model": name})
                    self.assertEqual(status, 404, (name, path, answer))
                    self.assertIn(f"this server has '{NAME}'", json.dumps(answer))
            self.assertEqual(server.json("GET", "/v1/models/tiny%2Fnone")[0], 404)
            self.assertEqual(self.running(server), [])

    def test_turned_off(self):
        with self.serve("--no-switch-by-name") as server:
            self.assertEqual(server.json("POST", "/v1/completions", {**PROMPT, "model": ALPHA})[0], 404)
            self.assertEqual([m["id"] for m in server.json("GET", "/v1/models")[1]["data"]], [NAME])
            self.assertEqual(len(server.json("GET", "/api/tags")[1]["models"]), 1)
            self.ok(server, "/v1/models/switch", {"model": ALPHA})
            self.assertEqual(self.chat(server, ALPHA)[0], SAYS[ALPHA])
            self.assertEqual(server.json("POST", "/v1/completions", {**PROMPT, "model": NAME})[0], 404)

    def test_many_at_once(self):
        with self.serve("--parallel", "2") as server:
            names = [ALPHA, BETA, NAME]

            def work(index):
                name = names[index % 3]
                if name == NAME:
                    return self.ok(server, "/v1/completions", {**PROMPT, "model": name})["model"] == NAME
                return self.chat(server, name)[0] == SAYS[name]

            self.assertEqual(in_threads(work, 18), [True] * 18)
            self.assertEqual(self.running(server), [NAME, ALPHA, BETA])


class Room(Models):
    def test_one_at_a_time(self):
        with self.serve("--models-max", "1") as server:
            for name in (ALPHA, BETA, ALPHA):
                self.assertEqual(self.chat(server, name)[0], SAYS[name])
                self.assertEqual(self.running(server), [name])
            self.assertEqual(self.chat(server, "local")[0], SAYS[ALPHA], "the one that is loaded")
            self.assertIn(f"unloaded {ALPHA} to make room for {BETA}\n", server.text())
            # Whoever comes in whatever order is served.
            said = in_threads(lambda i: self.chat(server, (ALPHA, BETA)[i % 2])[0], 8)
            self.assertEqual(said, [SAYS[ALPHA], SAYS[BETA]] * 4)
            self.assertEqual(len(self.running(server)), 1)

    def test_the_idle_one_that_was_used_longest_ago(self):
        with self.serve("--preload", "--models-max", "2") as server:
            self.chat(server, ALPHA)
            self.ok(server, "/v1/completions", PROMPT)
            self.chat(server, BETA)
            self.assertEqual(self.running(server), [NAME, BETA])

    def test_an_answer_is_never_cut_for_another_model(self):
        with self.serve("--preload", "--models-max", "1", "--drain", "0") as server:
            long = {**PROMPT, "model": NAME, "max_tokens": 300, "ignore_eos": True}
            whole = self.ok(server, "/v1/completions", long)["choices"][0]["text"]
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", {**long, "stream": True}))
                data = read_until(connection, b"data: ")
                said = []
                thread = threading.Thread(target=lambda: said.append(self.chat(server, ALPHA)[0]))
                thread.start()
                data += read_until(connection, b"data: [DONE]")
                thread.join()
            events = [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")]
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), whole)
            self.assertEqual(said, [SAYS[ALPHA]])
            self.assertEqual(self.running(server), [ALPHA])

    def test_within_a_budget(self):
        with self.serve("--preload", budget="110MiB") as server:
            status, answer = server.json("POST", "/v1/completions", {**PROMPT, "model": LARGE})
            self.assertEqual((status, answer["error"]["code"]), (503, "out_of_memory"), answer)
            self.assertRegex(answer["error"]["message"], f"the model {LARGE} needs [0-9.]+ MiB of memory at least, "
                                                         "and the budget is 110 MiB: raise --memory-budget")
            self.assertEqual(self.running(server), [NAME], "nobody goes for what cannot come")
            for name in (ALPHA, BETA, ALPHA, NAME):
                answer = self.ok(server, "/v1/completions", {**PROMPT, "model": name})
                self.assertEqual(answer["model"], name)
                memory = server.json("GET", "/status")[1]["memory"]
                self.assertEqual(memory["budget_bytes"], 110 << 20)
                self.assertLess(memory["own_gb"], 112 / 1024)
                self.assertLessEqual(memory["claimed_bytes"], memory["budget_bytes"])

    def test_kept_for_as_long_as_its_requests_say(self):
        with self.serve("--preload") as server:
            body = {"model": ALPHA, "stream": False, "messages": [{"role": "user", "content": "x"}]}
            said = self.ok(server, "/api/chat", {**body, "keep_alive": 0})["message"]["content"]
            self.assertEqual(said, SAYS[ALPHA])
            self.assertTrue(server.await_metric("mlx_flash_models_loaded", 1, 30))
            self.assertEqual(self.running(server), [NAME])
            self.ok(server, "/api/chat", {**body, "keep_alive": "10m"})
            models = server.json("GET", "/status")[1]["models"]
            self.assertIsNone(models[0]["expires_in_s"])
            self.assertAlmostEqual(models[1]["expires_in_s"], 600, delta=60)
            unloaded = self.ok(server, "/api/generate", {"model": "alpha", "keep_alive": 0, "stream": False})
            self.assertEqual((unloaded["done_reason"], unloaded["model"]), ("unload", ALPHA))
            self.assertTrue(server.await_metric("mlx_flash_models_loaded", 1, 30))
            self.ok(server, "/api/generate", {"model": BETA, "keep_alive": 0, "stream": False})
            self.assertEqual(self.running(server), [NAME], "nothing was loaded for it")

    def test_stop_unloads_one(self):
        with self.serve("--preload") as server:
            port = ("--port", str(server.port))
            self.chat(server, ALPHA)
            self.assertEqual(self.run_program("stop", "alpha", *port), (0, "", f"unloaded {ALPHA}\n"))
            self.assertEqual(self.running(server), [NAME])
            self.assertEqual(self.run_program("stop", "alpha", *port), (0, "", "alpha is not in memory\n"))
            code, _, error = self.run_program("stop", "tiny/none", *port)
            self.assertEqual(code, 1)
            self.assertIn("model 'tiny/none' not found", error)
            self.chat(server, ALPHA)
            self.assertEqual(self.run_program("stop", "--unload", *port)[0], 0)
            self.assertEqual(self.running(server), [])
            self.assertEqual(self.chat(server, ALPHA)[0], SAYS[ALPHA])
            self.assertEqual(self.run_program("stop", *port)[0], 0)
            self.assertEqual(server.process.wait(30), 0)


if __name__ == "__main__":
    unittest.main()
