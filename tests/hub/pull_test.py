"""pull, as its users see it, from a server that also breaks off, redirects, lies and stalls."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from hub_server import COMMIT, HubServer

PROGRAM = ""
GGUF = b"GGUF\x03\0\0\0" + bytes(range(256)) * 400
WEIGHTS = (2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * 1000
FOLDER = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "tokenizer.json": b"{}",
          "pytorch_model.bin": b"pickle", "modeling.py": b"import os", "README.md": b"# name",
          "chat_template.jinja": b"{{ x }}"}


class PullTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.models = pathlib.Path(self.folder.name) / ".cache/mlx-flash/models"

    def serve(self, *arguments, **named):
        server = HubServer(*arguments, **named)
        self.addCleanup(server.close)
        return server

    def environment(self, server, **more):
        kept = {k: v for k, v in os.environ.items() if k not in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN",
                "HF_TOKEN_PATH", "MLX_FLASH_MODELS", "XDG_CACHE_HOME", "OLLAMA_MODELS")}
        return {**kept, "HOME": self.folder.name, "HF_ENDPOINT": server.url, "no_proxy": "*", **more}

    def run_program(self, server, *words, **more):
        return subprocess.run([PROGRAM, *words], env=self.environment(server, **more), capture_output=True,
                              text=True, timeout=100, stdin=subprocess.DEVNULL)

    def pull(self, server, name="org/name", **more):
        return self.run_program(server, "pull", name, **more)

    def assert_refused(self, done, *parts, code=1):
        self.assertEqual(done.returncode, code, done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertFalse((self.models / "org").exists())

    def got(self, made="main"):
        folder = self.models / "org/name" / made
        return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}

    def test_takes_weights_and_texts_and_neither_pickles_nor_programs(self):
        server = self.serve(FOLDER, large={"model.safetensors"})
        done = self.pull(server)
        self.assertEqual(done.returncode, 0, done.stderr)
        wanted = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
        self.assertEqual(self.got(), {name: FOLDER[name] for name in wanted})
        self.assertEqual([p for p in (self.models / ".partial").iterdir()], [])
        listed = json.loads(self.run_program(server, "list", "--json").stdout)
        self.assertEqual([(m["name"], m["fault"]) for m in listed], [("org/name", None)])
        before = len(server.requests)
        again = self.pull(server)
        self.assertEqual(again.returncode, 0)
        self.assertIn("already", again.stderr)
        self.assertEqual(len(server.requests), before + 1)

    def test_takes_the_quantisation_asked_for_or_the_usual_one(self):
        files = {"name-Q8_0.gguf": GGUF, "name-Q4_K_M.gguf": GGUF + b"4", "mmproj-F16.gguf": GGUF,
                 "BF16/name-BF16-00001-of-00002.gguf": GGUF + b"1", "BF16/name-BF16-00002-of-00002.gguf": GGUF + b"2"}
        server = self.serve(files, large=files)
        done = self.pull(server)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("taking Q4_K_M; there are also: BF16, Q8_0", done.stderr)
        self.assertEqual(self.got("main~Q4_K_M"), {"name-Q4_K_M.gguf": GGUF + b"4"})
        self.assertEqual(self.pull(server, "org/name:bf16").returncode, 0)
        self.assertEqual(len(self.got("main~BF16")), 2)
        names = [m["name"] for m in json.loads(self.run_program(server, "list", "--json").stdout)]
        self.assertEqual(names, ["org/name:BF16", "org/name:Q4_K_M"])
        none = self.pull(server, "org/name:Q2_K")
        self.assertEqual(none.returncode, 1)
        self.assertIn("it has: BF16, Q4_K_M, Q8_0", none.stderr)

    def test_goes_on_where_a_connection_broke(self):
        server = self.serve(FOLDER, large={"model.safetensors"})
        server.cut_first["model.safetensors"] = 100_000
        self.assertEqual(self.pull(server).returncode, 0)
        self.assertEqual(self.got()["model.safetensors"], WEIGHTS)
        ranges = [h["Range"] for p, h in server.requests if "Range" in h]
        self.assertEqual(ranges, ["bytes=100000-"])

    def test_begins_anew_where_the_server_does_not_go_on(self):
        for fault in ("ignore_range", "shift_range"):
            server = self.serve(FOLDER, large={"model.safetensors"})
            setattr(server, fault, 10)
            server.cut_first["model.safetensors"] = 100_000
            done = self.pull(server)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.got()["model.safetensors"], WEIGHTS)
            self.run_program(server, "rm", "--yes", "org/name")

    def test_an_interruption_keeps_what_has_arrived(self):
        server = self.serve(FOLDER, large={"model.safetensors"})
        server.stop_after["model.safetensors"] = 150_000
        process = subprocess.Popen([PROGRAM, "pull", "org/name"], env=self.environment(server),
                                   stderr=subprocess.PIPE, text=True)
        self.assertTrue(server.stalled.wait(60))
        kept = None
        while kept != 150_000:  # Until what was sent has been written.
            self.assertIsNone(process.poll())
            kept = sum(p.stat().st_size for p in self.models.glob(".partial/*/model.safetensors.partial"))
        # Meanwhile nobody else may pull it, nor is it listed.
        self.assertIn("another mlx-flash", self.pull(server).stderr)
        self.assertEqual(json.loads(self.run_program(server, "list", "--json").stdout), [])
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted; what has arrived is kept", error)
        server.released.set()
        server.requests.clear()
        self.assertEqual(self.pull(server).returncode, 0)
        self.assertEqual(self.got()["model.safetensors"], WEIGHTS)
        ranges = [h["Range"] for p, h in server.requests if "Range" in h]
        self.assertEqual(ranges, ["bytes=150000-"])

    def test_a_busy_server_is_asked_again(self):
        server = self.serve(FOLDER)
        server.fail_first = {"/api/": 1, "config.json": 2}
        self.assertEqual(self.pull(server).returncode, 0)

    def test_the_token_stays_with_its_server(self):
        other = self.serve(FOLDER)
        server = self.serve(FOLDER, large={"model.safetensors"}, cdn=other)
        self.assertEqual(self.pull(server, HF_TOKEN="hf_secret").returncode, 0)
        self.assertEqual(self.got()["model.safetensors"], WEIGHTS)
        self.assertTrue(all(h.get("Authorization") == "Bearer hf_secret" for _, h in server.requests))
        self.assertEqual(len(other.requests), 1)
        self.assertNotIn("Authorization", other.requests[0][1])

    def test_the_token_may_be_in_its_file(self):
        path = pathlib.Path(self.folder.name) / ".cache/huggingface/token"
        path.parent.mkdir(parents=True)
        path.write_text("hf_from_file\n")
        server = self.serve(FOLDER)
        self.assertEqual(self.pull(server).returncode, 0)
        self.assertEqual(server.requests[0][1].get("Authorization"), "Bearer hf_from_file")
        self.assertEqual(self.pull(server, HF_TOKEN="two\nlines").returncode, 2)

    def test_contents_that_are_not_as_listed_are_refused_and_deleted(self):
        for large in ((), {"model.safetensors"}):
            server = self.serve(FOLDER, large=large)
            server.listed = list(server.siblings())
            server.files["model.safetensors"] = WEIGHTS[:-1] + b"!"
            self.assert_refused(self.pull(server), "model.safetensors", "wrong checksum")
            server.files["model.safetensors"] = WEIGHTS + b"!"
            self.assert_refused(self.pull(server), "sends more than")
        self.assertEqual(len(list(self.models.glob(".partial/*/model.safetensors"))), 0)

    def test_hostile_file_names_refuse_the_repository(self):
        for name in ("../x.gguf", "/x.gguf", "a/../../x.gguf", "a\\x.gguf", "a\nx.gguf", "a//x.gguf", ""):
            server = self.serve({"config.json": b"{}"})
            server.listed = [{"rfilename": name, "size": 1, "lfs": {"sha256": "a" * 64, "size": 1}}]
            self.assert_refused(self.pull(server), "the server's description of the repository has a file named")

    def test_descriptions_that_make_no_sense_are_refused(self):
        whole = {"rfilename": "x.gguf", "size": 1, "lfs": {"sha256": "a" * 64, "size": 1}}
        for listed in ([{**whole, "lfs": {"sha256": "zz", "size": 1}}], [{"rfilename": "x.gguf", "size": 1}],
                       [{**whole, "lfs": {"sha256": "a" * 64, "size": -1}}], [whole, whole], {"a": 1}, [1]):
            server = self.serve({})
            server.listed = listed
            self.assert_refused(self.pull(server), "the server's description")
        server = self.serve({"pytorch_model.bin": b"x"})
        self.assert_refused(self.pull(server), "never loaded")

    def test_more_than_the_disk_holds_is_refused_before_it_begins(self):
        server = self.serve({})
        server.listed = [{"rfilename": "x.gguf", "size": 1, "lfs": {"sha256": "a" * 64, "size": 1 << 44}}]
        self.assert_refused(self.pull(server), "MiB free", "MLX_FLASH_MODELS")
        self.assertEqual(len(server.requests), 1)

    def test_refusals_say_what_to_do(self):
        for status, part in ((401, "HF_TOKEN"), (403, "ask for access"), (404, "check the name")):
            server = self.serve(FOLDER)
            server.status = status
            self.assert_refused(self.pull(server), part, str(status))
        for name in ("name", "../x", "a/b/c", "ollama:a/b", "a/b@../x"):
            self.assert_refused(self.pull(server, name), code=2)
        self.assert_refused(self.pull(server, HF_ENDPOINT="file:///etc"), "HF_ENDPOINT", code=2)

    def test_a_revision_is_kept_apart(self):
        server = self.serve(FOLDER)
        self.assertEqual(self.pull(server, "org/name@v1.0").returncode, 0)
        self.assertIn("/revision/v1.0?", server.requests[0][0])
        self.assertIn(f"/resolve/{COMMIT}/", server.requests[1][0])
        self.assertIn("config.json", self.got("v1.0"))


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
