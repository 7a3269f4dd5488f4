"""Kept prefixes on the disk: over restarts, between API keys, and when the server is killed while it writes."""

import http.client
import os
import pathlib
import random
import signal
import tempfile
import threading
import time
import unittest

from models_test import ALPHA, make_home
from serving import NAME, Server

BEGINNING = "The old man walked along the shore and looked at the sea. " * 6
QUESTION = {"prompt": BEGINNING + "It was", "seed": 7, "max_tokens": 16}


def ask(server, body, key=None):
    headers = {"Authorization": "Bearer " + key} if key else None
    status, answer = server.json("POST", "/v1/completions", body, headers)
    assert status == 200, answer
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


class PrefixCache(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name) / "kept"

    def serve(self, *flags, **options):
        return Server("--max-context", "512", "--prefix-cache", str(self.folder), *flags, **options)

    def files(self):
        return sorted(self.folder.glob("*.model/*.prefix"))

    def test_over_a_restart(self):
        with self.serve() as server:
            first, cached = ask(server, QUESTION)
            self.assertEqual(cached, 0)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_entries"), 0, "nothing before it leaves memory")
        self.assertEqual(server.process.returncode, 0)
        self.assertEqual(len(self.files()), 1)
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        self.assertEqual(self.files()[0].stat().st_mode & 0o777, 0o600)
        follow = {**QUESTION, "prompt": QUESTION["prompt"] + first + " He said"}
        with self.serve() as server:
            again, cached = ask(server, QUESTION)
            self.assertEqual(again, first)
            self.assertGreater(cached, 60)
            text, cached = ask(server, follow)
            self.assertGreater(cached, 70)
            disk = server.json("GET", "/status")[1]["prefix_disk"]
            self.assertEqual((disk["entries"], disk["hits"], disk["rejected"]), (1, 1, 0))
            self.assertTrue(disk["reading"] and disk["writing"])
            self.assertEqual(server.metric("mlx_flash_prefix_disk_hits_total"), 1)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_bytes"), self.files()[0].stat().st_size)
        with Server("--max-context", "512") as server:
            self.assertEqual(ask(server, follow), (text, 0), "as computed anew")
            self.assertNotIn("prefix_disk", server.json("GET", "/status")[1])

    def test_what_a_model_leaves_behind_when_it_is_unloaded(self):
        with self.serve() as server:
            first, _ = ask(server, QUESTION)
            self.assertEqual(server.request("POST", "/release")[0], 200)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_writes_total"), 1)
            again, cached = ask(server, QUESTION)
            self.assertEqual(again, first)
            self.assertGreater(cached, 60)
        with self.serve("--activations", "f32") as server:
            self.assertEqual(ask(server, QUESTION)[1], 0, "other arithmetic, other bits")

    def test_several_models_at_once(self):
        with tempfile.TemporaryDirectory() as home:
            env = make_home(home)
            main, other = {**QUESTION, "model": NAME}, {**QUESTION, "model": ALPHA}
            with self.serve(env=env) as server:
                first, cached = ask(server, main)
                self.assertEqual(cached, 0)
                said, cached = ask(server, other)
                self.assertEqual(cached, 0)
                self.assertEqual(server.metric("mlx_flash_models_loaded"), 2)
            folders = {path.parent for path in self.files()}
            self.assertEqual((len(self.files()), len(folders)), (2, 2))
            self.assertEqual({path.stat().st_mode & 0o777 for path in folders}, {0o700})
            with self.serve(env=env) as server:
                for body, text in ((other, said), (main, first)):
                    again, cached = ask(server, body)
                    self.assertEqual(again, text)
                    self.assertGreater(cached, 60)
                self.assertEqual(server.metric("mlx_flash_models_loaded"), 2)
                self.assertEqual(server.metric("mlx_flash_prefix_disk_hits_total"), 2)
                self.assertEqual(server.request("POST", "/release", {"model": ALPHA})[0], 200)
                again, cached = ask(server, other)
                self.assertEqual(again, said)
                self.assertGreater(cached, 60)
            self.assertEqual({path.parent for path in self.files()}, folders)

    def test_keys_keep_what_is_theirs_wherever_they_stand(self):
        keys = self.folder.with_name("keys")
        keys.write_text("anna-key\nbert-key\n")
        with self.serve("--api-key-file", str(keys)) as server:
            first, _ = ask(server, QUESTION, "anna-key")
        for path in [self.folder / "salt", *self.files()]:
            self.assertNotIn(b"anna", path.read_bytes())
        keys.write_text("bert-key\nanna-key\n")
        with self.serve("--api-key-file", str(keys)) as server:
            self.assertEqual(ask(server, QUESTION, "bert-key"), (first, 0))
            again, cached = ask(server, QUESTION, "anna-key")
            self.assertEqual(again, first)
            self.assertGreater(cached, 60)
        with self.serve() as server:
            self.assertEqual(ask(server, QUESTION), (first, 0), "nobody's is not a key's")

    def test_says_what_cannot_be(self):
        for flags, words in ((("--prefix-cache-size", "much"), "--prefix-cache-size much is no size"),
                             (("--prefix-cache-size", "50%"), "--prefix-cache-size 50% is no size"),
                             (("--prefix-cache-after", "-1"), "--prefix-cache-after")):
            with self.assertRaisesRegex(AssertionError, words):
                self.serve(*flags)
        with self.serve():
            with self.assertRaisesRegex(AssertionError, "--prefix-cache: .*kept: is in use by another process"):
                self.serve()
        self.folder.with_name("file").write_text("x")
        self.folder = self.folder.with_name("file")
        with self.assertRaisesRegex(AssertionError, "--prefix-cache: .*file"):
            self.serve()

    def test_the_cap_holds(self):
        with self.serve() as server:
            ask(server, QUESTION)
        one = self.files()[0].stat().st_size
        with self.serve("--prefix-cache-size", str(one * 3)) as server:
            for i in range(6):
                ask(server, {**QUESTION, "prompt": f"{i} " + BEGINNING})
        self.assertLessEqual(sum(path.stat().st_size for path in self.files()), one * 3)
        self.assertGreaterEqual(len(self.files()), 2)
        with self.serve() as server:
            self.assertGreater(ask(server, {**QUESTION, "prompt": "5 " + BEGINNING})[1], 60, "the last one stays")

    def test_killed_while_it_writes(self):
        random.seed(4)
        # Room for one context, so that each request drives out what the ones before left.
        flags = ("--parallel", "1", "--preload")
        bodies = [{**QUESTION, "prompt": f"{i} " + BEGINNING * 3} for i in range(8)]
        with Server("--max-context", "512") as server:
            expected = [ask(server, body)[0] for body in bodies]
        restored = written = killed_writing = 0
        for _ in range(int(os.environ.get("MLXF_KILLS", "8"))):
            with self.serve(*flags) as server:
                self.assertEqual(list(self.folder.glob("**/*part*")), [], "leftovers are removed")
                self.assertEqual(server.metric("mlx_flash_prefix_disk_rejected_total"), 0, server.text())
                for index in random.sample(range(8), random.randrange(3, 7)):
                    # Answers of other lengths are other sequences, which are written, too.
                    text, cached = ask(server, {**bodies[index], "max_tokens": random.randrange(1, 16)})
                    self.assertTrue(expected[index].startswith(text), (expected[index], text))
                    restored += cached > 60
                written += server.metric("mlx_flash_prefix_disk_writes_total")

                threads = [threading.Thread(target=self.ask_the_doomed, args=(
                    server, {**bodies[index], "max_tokens": random.randrange(1, 16)}))
                           for index in random.sample(range(8), 4)]
                for thread in threads:
                    thread.start()
                while any(thread.is_alive() for thread in threads) and not list(self.folder.glob("*/*.part-*")):
                    time.sleep(0)  # No longer: a file is being written for a few milliseconds only.
                server.process.kill()
                for thread in threads:
                    thread.join()
                server.process.wait(60)
                self.assertEqual(server.process.returncode, -signal.SIGKILL, server.text())
                killed_writing += len(list(self.folder.glob("*/*.part-*")))
        print(f"{written} written, {restored} restored, killed {killed_writing} times while a file was written")
        self.assertGreater(written, 5)
        self.assertGreater(restored, 5)

    def test_killed_after_it_was_idle(self):
        question = {**QUESTION, "prompt": BEGINNING * 4}  # Long enough that reading it beats computing it.
        with self.serve("--prefix-cache-after", "0") as server:
            first, _ = ask(server, question)
            self.assertTrue(server.await_metric("mlx_flash_prefix_disk_writes_total", 1, 30))
            self.assertEqual(server.metric("mlx_flash_prefix_disk_entries"), 1)
            self.assertGreater(server.metric("mlx_flash_prefix_bytes"), 0, "it stays in memory, too")
            again, cached = ask(server, question)
            self.assertEqual(again, first)
            self.assertGreater(cached, 200)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_hits_total"), 0)
            server.process.kill()
            server.process.wait(60)
        with self.serve() as server:
            again, cached = ask(server, question)
            self.assertEqual(again, first)
            self.assertGreater(cached, 200)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_hits_total"), 1)
            self.assertEqual(server.metric("mlx_flash_prefix_disk_rejected_total"), 0)

    @staticmethod
    def ask_the_doomed(server, body):
        try:
            ask(server, body)
        except (OSError, http.client.HTTPException):
            pass  # Its server was killed.


if __name__ == "__main__":
    unittest.main()
