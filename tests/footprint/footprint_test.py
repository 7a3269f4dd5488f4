"""What a run on a model larger than its budget takes of the machine, looked at from outside from its first moment to
its last: its own memory, the page cache that it leaves, and the page faults that its tokens wait for."""

import ctypes
import json
import mmap
import os
import pathlib
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import unittest

PROGRAM = ""
BUNDLED = pathlib.Path(__file__).resolve().parents[2] / "models/classics-moe-4bit"
MIB = 1 << 20
LOOK_SECONDS = 0.01
PROMPT = "It was a dark night, and the wind rose over the old house by the sea. " * 8

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def cached_bytes(path):
    """Of one file, in the page cache."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"cannot map {path}")
    pages = ctypes.create_string_buffer((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
    failed = libc.mincore(address, size, pages)
    libc.munmap(address, size)
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE


def weight_files(model):
    return [model] if model.is_file() else sorted(model.glob("*.safetensors"))


def drop_cached(model):
    for path in weight_files(model):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory(pid):
    """RssAnon + RssShmem + VmSwap in bytes; 0 once the process has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kib) << 10 for kib in re.findall(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB", status, re.M))


def major_faults(pid):
    # The name, in parentheses, may hold anything; majflt is the tenth field after it.
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


class Watched:
    """Runs the program to its end and looks every 10 ms."""

    def __init__(self, *words):
        self.peak = self.looks = 0
        self.faults_when_answering = None  # As the first of the answer came out: the model was loaded.
        out = b""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, stderr=errors,
                                       stdin=subprocess.DEVNULL)
            descriptor = process.stdout.fileno()
            while True:
                self.peak = max(self.peak, own_memory(process.pid))
                self.looks += 1
                if select.select([descriptor], [], [], LOOK_SECONDS)[0]:
                    if self.faults_when_answering is None:
                        self.faults_when_answering = major_faults(process.pid)
                    some = os.read(descriptor, 65536)
                    if not some:
                        break
                    out += some
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_majflt
            self.code = process.wait()
            # The process was the only child, so what came is all of its own.
            self.faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_majflt - before
            process.stdout.close()
            errors.seek(0)
            self.error = errors.read().decode()
        self.out = out.decode(errors="replace")


def smallest_budget(model, words):
    """As a refusal names it, in MiB: it depends on what is asked for."""
    refused = Watched(*words, "-m", str(model), "-t", "2", "--memory-budget", "1MiB")
    found = re.search(r"it needs (\d+) MiB", refused.error)
    if not found:
        raise AssertionError(refused.error)
    return int(found[1])


class FootprintTest(unittest.TestCase):
    def setUp(self):
        # Beside the build: a temporary folder may be in memory.
        self.folder = tempfile.TemporaryDirectory(dir=os.getcwd())
        self.addCleanup(self.folder.cleanup)
        cache = pathlib.Path(self.folder.name) / "cache"
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(cache)  # No profile of this machine, no heat.
        self.addCleanup(lambda: os.environ.pop("XDG_CACHE_HOME") if before is None
                        else os.environ.update(XDG_CACHE_HOME=before))

    def check_at_the_floor(self, model, words, tokens=0, times=1):
        """`tokens`: answered one by one on stdout; 0: the program says at its end what it did. `times`: so much larger
        than its budget is the model at least."""
        budget_mib = smallest_budget(model, words)
        files = weight_files(model)
        whole = sum(path.stat().st_size for path in files)
        budget = budget_mib * MIB
        self.assertGreater(whole, times * budget)
        with open(files[0], "rb") as file:
            self.assertLessEqual(len(file.read(MIB)), cached_bytes(files[0]), "what was just read is in no page cache")
        drop_cached(model)
        before = sum(map(cached_bytes, files))
        watched = Watched(*words, "-m", str(model), "-t", "2", "--memory-budget", f"{budget_mib}MiB")
        grown = sum(map(cached_bytes, files)) - before
        told = f"{words[0]}, {budget_mib} MiB of {whole // MIB}: peak {watched.peak / MIB:.1f} MiB, page cache " \
               f"{grown / MIB:+.1f} MiB, major faults {watched.faults_when_answering} + " \
               f"{watched.faults - (watched.faults_when_answering or 0)}, {watched.looks} looks"
        print(told, file=sys.stderr)
        self.assertEqual(watched.code, 0, watched.error)
        self.assertLessEqual(watched.peak, budget + max(budget // 100, 2 * MIB), told)
        self.assertGreater(watched.peak, budget // 2, "a check of nothing: " + told)
        self.assertGreater(watched.looks, 20, told)
        # Headers are read through the page cache, with as much as the kernel reads ahead; weights are not.
        self.assertLessEqual(grown, whole // 20 + 2 * MIB, told)
        if tokens:
            self.assertGreater(len(watched.out), tokens // 4, "no answer came out")
            self.assertLess((watched.faults - watched.faults_when_answering) / tokens, 1, told)
        return watched

    def test_the_bundled_model_at_its_floor(self):
        model = pathlib.Path(self.folder.name) / "model"
        shutil.copytree(BUNDLED, model)  # Whose pages no other program has.
        self.check_at_the_floor(model, ["run", "-p", PROMPT, "-n", "200", "--ignore-eos", "--seed", "3"], tokens=200)
        done = self.check_at_the_floor(model, ["bench", "-p", "64", "-n", "32", "-r", "2", "--json"])
        rows = json.loads(done.out)
        self.assertEqual([row["test"] for row in rows], ["pp64", "tg32"])
        for row in rows:
            self.assertLessEqual(row["peak_anon_bytes"], done.peak + MIB)

    def test_several_times_the_budget(self):
        model = pathlib.Path(self.folder.name) / "mixtral.gguf"
        made = subprocess.run([PROGRAM, "synth", "--shape", "mixtral-8x7b", "--layers", "1", "-o", str(model)],
                              capture_output=True, text=True)
        self.assertEqual(made.returncode, 0, made.stderr)
        words = ["run", "-p", "The old man", "-n", "40", "--ignore-eos", "--seed", "3"]
        self.check_at_the_floor(model, words, tokens=40, times=2)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
