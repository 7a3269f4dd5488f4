"""Codex and Claude Code themselves, unchanged, finish a task with two tools against the real server.

A small model cannot do that, so the answers are a script's (scripted_model.py); all else is real. They are set up as
the README says, and run where no network but loopback exists (run.sh). Their packages are large, so ctest runs this
with -C agents only:

    tests/server/run.sh build/release/mlx-flash build/server-sdk agents_test.py
"""

import glob
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from readme import block
from scripted_model import call, write_model
from serving import Server

PACKAGES = pathlib.Path(os.environ["MLXF_PACKAGES"])
TASK = "Write hello.txt with a greeting, then show it."
GREETING = "Hello, world."
CLOSING = "Done: hello.txt holds a greeting."
THOUGHT = "<think>\nI must write the file, then look at it.\n</think>\n\n"


def program(pattern):
    found = glob.glob(str(PACKAGES / "node_modules" / pattern))
    assert found, f"{pattern} is not among the packages"
    return found[0]


class Agents(unittest.TestCase):
    def run_agent(self, turns, words, files):
        """Runs it in an empty folder with `files` in its home; `turns` are the model's, given the folder."""
        with tempfile.TemporaryDirectory() as place:
            home, folder, model = (pathlib.Path(place) / name for name in ("home", "work", "scripted"))
            folder.mkdir()
            write_model(model, turns(folder))
            for name, text in files.items():
                (home / name).parent.mkdir(parents=True)
                (home / name).write_text(text)
            with Server("--preload", "--max-context", "65536", "--log-requests", template=False, model=model,
                        port=8080) as server:
                done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                      timeout=240, check=False, env={"PATH": os.environ["PATH"], "HOME": str(home)})
                server.stop()
            told = done.stdout + done.stderr + server.text()
            self.assertEqual(done.returncode, 0, told)
            self.assertIn(CLOSING, done.stdout, told)
            self.assertIn(GREETING, (folder / "hello.txt").read_text(), told)
            statuses = re.findall(r"POST (/v1/\S+) (\d+)", server.text())
            self.assertGreaterEqual(len(statuses), 3, told)
            self.assertEqual({status for _, status in statuses}, {"200"}, told)

    def test_claude_code(self):
        self.run_agent(
            lambda folder: [
                THOUGHT + "I write it.\n" +
                call("Write", {"file_path": f"{folder}/hello.txt", "content": GREETING + "\n"}),
                "Now I look.\n" + call("Read", {"file_path": f"{folder}/hello.txt"}), CLOSING],
            ["sh", "-c", block("Claude Code") + 'exec "$0" -p --allowedTools Write,Read -- "$1"',
             program("@anthropic-ai/claude-code-linux-x64/claude"), TASK], {})

    def test_codex(self):
        self.run_agent(
            lambda _: [THOUGHT + call("exec_command", {"cmd": f"echo '{GREETING}' > hello.txt"}),
                       "Now I look.\n" + call("exec_command", {"cmd": "cat hello.txt"}), CLOSING],
            [program("@openai/codex-linux-*/vendor/*/bin/codex"), "exec", "--skip-git-repo-check",
             "--dangerously-bypass-approvals-and-sandbox", TASK], {".codex/config.toml": block("Codex")})


if __name__ == "__main__":
    unittest.main()
