#!/usr/bin/env python3
"""Runs the checks of this project: the same ones for a developer and for CI.

check.py test          release build, every test
check.py check         format, tidy, clang, AddressSanitizer + UBSan, ThreadSanitizer, short fuzz, NEON, clang-tidy
check.py test check    both, as .ci/run does
check.py --only NAME   one or more of the stages by name (check.py --list)

Every stage runs even when an earlier one failed. A ctest run counts its tests; any other stage counts as one. The last
line is "N passed, N failed", and the exit status is 1 if anything failed.
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
JOBS = str(os.cpu_count() or 2)
# Modules with threads or with state shared between them: what ThreadSanitizer has to see.
THREADED = ("base", "platform", "compute", "http", "weights", "model", "engine", "server")
ARITHMETIC = ("kernels", "compute")  # Modules whose results depend on the compiler's optimiser.
FUZZ_SECONDS = int(os.environ.get("MLXF_FUZZ_SECONDS", "30"))  # Per target.
CLANG_TIDY_FILES_MAX = 16  # About ten seconds of a core each.
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "second_deadlock_stack=1",
    "GTEST_FILTER": "-*Slow*:*Million*",  # Of how time grows, not of memory.
}


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.failures = []

    def add(self, passed, failed, names):
        self.passed += passed
        self.failed += failed
        self.failures += names


def say(text):
    print(text, flush=True)


def run(*command, env=None):
    """Runs a command in the root, output straight through; True when it exits with 0."""
    sys.stdout.flush()
    done = subprocess.run([str(part) for part in command], cwd=ROOT, stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, **(env or {})})
    return done.returncode == 0


def tracked(*patterns):
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in done.stdout.split() if (ROOT / path).is_file()]


def build(preset, *targets):
    chosen = ["--target", *targets] if targets else []
    return (run("cmake", "--preset", preset, "--log-level=WARNING")
            and run("cmake", "--build", "--preset", preset, *chosen))


def count_junit(path):
    """(passed, failed, names of the failed) of a ctest run; a skipped test counts as neither."""
    passed, failed, names = 0, 0, []
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        status = case.get("status")
        skipped = case.find("skipped")
        if status == "run":
            passed += 1
        elif status == "notrun" and skipped is not None and "SKIP_" in skipped.get("message", ""):
            continue  # It looked and had nothing to do, e.g. on a machine without the instruction set.
        else:  # Failed, timed out, disabled, or its program is not there: a test that vanished is a failure.
            failed += 1
            names.append(case.get("name"))
    return passed, failed, names


def ctest(preset, tally, *options, env=None):
    report = ROOT / "build" / preset / "ctest.xml"
    report.unlink(missing_ok=True)
    ended_well = run("ctest", "--preset", preset, "-j", JOBS, "--output-junit", report, *options, env=env)
    try:
        passed, failed, names = count_junit(report)
    except (OSError, xml.etree.ElementTree.ParseError):
        passed, failed, names = 0, 0, []
    if failed == 0 and (not ended_well or passed == 0):
        failed, names = 1, ["ctest itself"]
    tally.add(passed, failed, [f"{preset}: {name}" for name in names])


def single(tally, name, ok):
    tally.add(int(ok), int(not ok), [] if ok else [name])


# ---- the stages -----------------------------------------------------------------------------------------------

def stage_release(tally):
    if build("release"):
        ctest("release", tally)
    else:
        single(tally, "release: build", False)


def stage_format(tally):
    sources = tracked("src/**.h", "src/**.cpp", "tests/**.h", "tests/**.cpp", "bench/**.h", "bench/**.cpp")
    single(tally, "clang-format", run("clang-format-14", "--dry-run", "--Werror", *sources))


def stage_clang(tally):
    """What clang's optimiser makes of the arithmetic; that it compiles everything, stage asan shows."""
    if build("clang", *(f"{name}_test" for name in ARITHMETIC)):
        ctest("clang", tally, "-R", "^(" + "|".join(ARITHMETIC) + ")$")
        single(tally, "headers compile alone", run(sys.executable, "tools/tidy.py", "--headers", "build/clang"))
    else:
        single(tally, "clang: build", False)


def stage_asan(tally):
    if build("asan"):
        ctest("asan", tally, "-LE", "slow|style", env=SANITIZER_ENV)
    else:
        single(tally, "asan: build", False)


def stage_tsan(tally):
    if not run("cmake", "--preset", "tsan", "--log-level=WARNING"):
        return single(tally, "tsan: configure", False)
    names = [m for m in THREADED if list((ROOT / "src" / m).glob("**/*_test.cpp"))]
    if not build("tsan", "canary", *(f"{name}_test" for name in names)):
        return single(tally, "tsan: build", False)
    pattern = "^(" + "|".join([*names, "canary.*"]) + ")$"
    return ctest("tsan", tally, "-R", pattern, "-LE", "slow|style", env=SANITIZER_ENV)


def stage_fuzz(tally):
    """Each fuzz target from its committed corpus; findings stay in build/asan/findings."""
    targets = sorted(path.stem for path in (ROOT / "src").glob("**/*_fuzz.cpp"))
    targets += sorted(path.stem for path in (ROOT / "tests/fuzz").glob("*_fuzz.cpp"))
    findings = ROOT / "build/asan/findings"
    findings.mkdir(parents=True, exist_ok=True)

    def fuzz(target):
        with tempfile.TemporaryDirectory() as grown:
            corpus = ROOT / "tests/fuzz/corpus" / target
            return corpus.is_dir() and run(
                ROOT / "build/asan" / target, f"-max_total_time={FUZZ_SECONDS}", "-timeout=5", "-rss_limit_mb=2048",
                "-print_final_stats=0", "-verbosity=0", f"-artifact_prefix={findings}/{target}-", grown, corpus,
                env=SANITIZER_ENV)

    with concurrent.futures.ThreadPoolExecutor(int(JOBS)) as pool:
        for target, ok in zip(targets, pool.map(fuzz, targets)):
            single(tally, f"fuzz: {target}", ok)


def stage_neon(tally):
    """64-bit ARM under QEMU, with the dot product of bytes and without."""
    if build("neon"):
        ctest("neon", tally)
    else:
        single(tally, "neon: build", False)


def changed_sources():
    """Sources that the last commits touched, newest first: clang-tidy is too slow for all of them every time."""
    done = subprocess.run(["git", "log", "-n", "30", "--name-only", "--format=", "--", "src"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    newest = [path for path in dict.fromkeys(done.stdout.split()) if path.endswith(".cpp") and "/neon/" not in path]
    return [path for path in newest if (ROOT / path).is_file()][:CLANG_TIDY_FILES_MAX]


def stage_clang_tidy(tally):
    sources = changed_sources()
    command = ["xargs", "-n", "4", "-P", JOBS, "clang-tidy-14", "--quiet", "-p", "build/clang"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(sources), text=True, capture_output=True, check=False)
    for line in done.stdout.splitlines():
        say(line)
    # The analyzer walks into the headers of dependencies: what it finds there is not ours.
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    ours = [line for line in errors if line.startswith(str(ROOT))]
    if done.returncode != 0 and not errors:
        say(done.stderr[-2000:])
    single(tally, "clang-tidy", not ours and (done.returncode == 0 or bool(errors)))


STAGES = {
    "release": stage_release,
    "format": stage_format,
    "clang": stage_clang,
    "asan": stage_asan,
    "fuzz": stage_fuzz,
    "tsan": stage_tsan,
    "neon": stage_neon,
    "clang-tidy": stage_clang_tidy,
}
GROUPS = {"test": ["release"], "check": [name for name in STAGES if name != "release"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS])
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=[])
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(STAGES))
        return 0
    stages = options.only or [stage for group in options.groups or ["test"] for stage in GROUPS[group]]
    tally = Tally()
    start = time.monotonic()
    for stage in stages:
        began = time.monotonic()
        say(f"==== {stage}")
        STAGES[stage](tally)
        say(f"==== {stage}: {time.monotonic() - began:.0f} s")
    for name in tally.failures:
        say(f"FAILED {name}")
    say(f"{time.monotonic() - start:.0f} s in all")
    say(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
