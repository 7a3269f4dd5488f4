#!/usr/bin/env python3
"""Tests of tools/check.py: what it counts as passed and as failed."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check  # noqa: E402  (found beside this file)

# As ctest 3.25 writes it.
REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="(empty)" tests="6" failures="2" disabled="1" skipped="2">
  <testcase name="pass" status="run"><system-out>text</system-out></testcase>
  <testcase name="will_fail" status="run"></testcase>
  <testcase name="fail" status="fail"><failure message=""/></testcase>
  <testcase name="timeout" status="fail"><failure message=""/></testcase>
  <testcase name="skip" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/></testcase>
  <testcase name="missing" status="notrun"><skipped message="Unable to find executable"/></testcase>
  <testcase name="off" status="disabled"></testcase>
</testsuite>
"""


class CheckTest(unittest.TestCase):
    def test_counts_of_a_report(self):
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "ctest.xml"
            report.write_text(REPORT, encoding="utf-8")
            self.assertEqual(check.count_junit(report), (2, 4, ["fail", "timeout", "missing", "off"]))

    def run_ctest(self, report, ended_well):
        """check.ctest with a ctest that writes `report` (or nothing) and ends well or not."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "build/release").mkdir(parents=True)
            (root / "build/release/ctest.xml").write_text(REPORT, encoding="utf-8")  # A stale one must not count.

            def fake_run(*command, env=None):
                if report is not None:
                    pathlib.Path(command[command.index("--output-junit") + 1]).write_text(report, encoding="utf-8")
                return ended_well

            tally, old = check.Tally(), (check.ROOT, check.run)
            check.ROOT, check.run = root, fake_run
            try:
                check.ctest("release", tally)
            finally:
                check.ROOT, check.run = old
            return tally

    def test_a_run_that_leaves_no_report_has_failed(self):
        for ended_well in (True, False):
            with self.subTest(ended_well=ended_well):
                tally = self.run_ctest(None, ended_well)
                self.assertEqual((tally.passed, tally.failed), (0, 1))

    def test_a_run_without_a_test_has_failed(self):
        tally = self.run_ctest("<testsuite></testsuite>", True)
        self.assertEqual((tally.passed, tally.failed), (0, 1))

    def test_a_bad_exit_status_counts_even_when_every_test_passed(self):
        tally = self.run_ctest('<testsuite><testcase name="a" status="run"/></testsuite>', False)
        self.assertEqual((tally.passed, tally.failed), (1, 1))

    def test_failures_are_named_with_their_build(self):
        self.assertEqual(self.run_ctest(REPORT, False).failures[0], "release: fail")

    def test_every_stage_belongs_to_a_group(self):
        self.assertEqual(sorted(check.STAGES), sorted(check.GROUPS["test"] + check.GROUPS["check"]))


if __name__ == "__main__":
    unittest.main()
