#!/usr/bin/env python3
"""Checks the rules of this source tree that a compiler does not know.

tidy.py                   the text rules, over every file that git knows or would add (a second or two)
tidy.py --headers BUILD   each header that no source includes first, compiled alone with the include folders of
                          BUILD/compile_commands.json
tidy.py --objects BUILD   the objects of src/kernels/{avx2,avx512,amx,neon} in BUILD hold no weak symbol
tidy.py --list            the name of each check

Prints one line per finding, "path:line: [check] what and why", and exits with 1 if there is any. Deliberate
exceptions stand in tools/tidy_exceptions.txt.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 700
COLUMNS_MAX = 120  # Of comments and literals; clang-format holds code to 110.
HEADER_COMMENT_LINES_MIN = 3

# The only files where an exception may be caught: adapters over a library that throws, and thread entries.
EXCEPTION_ADAPTERS = (
    "src/base/json.cpp",
    "src/cli/main.cpp",
    "src/http/connection.cpp",
    "src/http/server.cpp",
    "src/server/served_model.cpp",
)

CPP_SUFFIXES = (".h", ".cpp")
TEXT_SUFFIXES = CPP_SUFFIXES + (
    ".py", ".sh", ".cmake", ".txt", ".md", ".rs", ".toml", ".lock", ".json", ".yml", ".yaml", ".in", ".html")
TEXT_NAMES = ("Makefile", "run", ".clang-format", ".clang-tidy", ".gitignore", "LICENSE")


@dataclass(frozen=True)
class Finding:
    check: str
    path: str
    line: int
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.check}] {self.message}"


class Tree:
    """The files under a root, read once. Paths are relative, with forward slashes."""

    def __init__(self, root, paths=None):
        self.root = pathlib.Path(root)
        self.paths = sorted(paths if paths is not None else list_files(self.root))
        self._texts = {}
        self._codes = {}

    def text(self, path):
        if path not in self._texts:
            self._texts[path] = (self.root / path).read_text(encoding="utf-8", errors="replace")
        return self._texts[path]

    def code(self, path):
        """The text with comments and literals blanked out; every line keeps its number and length."""
        if path not in self._codes:
            self._codes[path] = blank_literals(self.text(path))
        return self._codes[path]

    def cpp(self, *folders):
        folders = folders or ("src/", "tests/", "bench/")
        return [p for p in self.paths if p.endswith(CPP_SUFFIXES) and p.startswith(folders)]


def list_files(root):
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return [p for p in done.stdout.decode().split("\0") if p and (root / p).is_file()]
    found = []  # An unpacked archive without git.
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n not in ("build", ".git", "target", "node_modules", "__pycache__")]
        found += [(pathlib.Path(folder) / f).relative_to(root).as_posix() for f in files]
    return found


LITERALS = re.compile(
    r"""//[^\n]*                                  # a comment to the end of the line
      | /\*.*?\*/                                 # a block comment
      | R"(?P<tag>[^\s()\\]{0,16})\(.*?\)(?P=tag)"  # a raw string
      | "(?:\\.|[^"\\\n])*"                       # a string
      | (?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'      # a character, not a digit separator
    """, re.DOTALL | re.VERBOSE)


def blank_literals(text):
    def blank(match):
        found = match.group(0)
        if found[0] in "\"'R":  # Keep the quotes so that the code still reads as code.
            return '"' + re.sub(r"[^\n]", " ", found[1:-1]) + '"'
        return re.sub(r"[^\n]", " ", found)

    return LITERALS.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# ---- includes -------------------------------------------------------------------------------------------------

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def read_layers(tree):
    """tools/layers.txt as {module: set of modules it may use}, with the findings about the list itself."""
    layers, findings = {}, []
    for number, line in enumerate(tree.text("tools/layers.txt").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, _, uses = line.partition(":")
        for used in uses.split():
            if used not in layers:
                message = f"{name} names {used}, which is not on a line above it"
                findings.append(Finding("layers", "tools/layers.txt", number, message))
        layers[name.strip()] = set(uses.split())
    return layers, findings


def check_layers(tree):
    layers, findings = read_layers(tree)
    for path in tree.cpp("src/"):
        module = path.split("/")[1]
        if module not in layers:
            message = f"module {module} has no line in tools/layers.txt"
            findings.append(Finding("layers", path, 1, message))
            continue
        for match in INCLUDE.finditer(tree.text(path)):
            used = match.group(1).split("/")[0]
            if "/" in match.group(1) and used in layers and used != module and used not in layers[module]:
                message = f"{module} may not include {used} (tools/layers.txt)"
                findings.append(Finding("layers", path, line_of(tree.text(path), match.start()), message))
    for path in tree.paths:
        if re.fullmatch(r"src/\w+/CMakeLists\.txt", path):
            findings += check_layer_deps(tree, path, layers)
    return findings


def check_layer_deps(tree, path, layers):
    module, findings = path.split("/")[1], []
    for match in re.finditer(r"mlxf_module\(\s*\w+(?:\s+HOT)?\s+DEPS\s+([\w\s]+?)(?:\s+LIBS\b[^)]*)?\)", tree.text(path)):
        for used in match.group(1).split():
            if used not in layers.get(module, ()):
                message = f"{module} may not link {used} (tools/layers.txt)"
                findings.append(Finding("layers", path, line_of(tree.text(path), match.start()), message))
    return findings


def include_graph(tree):
    known, graph = set(tree.paths), {}
    for path in tree.cpp():
        graph[path] = []
        for match in INCLUDE.finditer(tree.text(path)):
            for target in ("src/" + match.group(1), match.group(1)):
                if target in known:
                    graph[path].append(target)
                    break
    return graph


def check_cycles(tree):
    graph, findings, state = include_graph(tree), [], {}

    def visit(path, trail):
        state[path] = "open"
        for target in graph.get(path, ()):
            if state.get(target) == "open":
                loop = " -> ".join(trail[trail.index(target):] + [target]) if target in trail else target
                findings.append(Finding("cycles", path, 1, f"include cycle: {loop}"))
            elif target not in state:
                visit(target, trail + [target])
        state[path] = "done"

    for path in graph:
        if path not in state:
            visit(path, [path])
    return findings


def check_include_paths(tree):
    """A quoted include names a file from src/ (or the bridge's C header)."""
    known, findings = set(tree.paths), []
    for path in tree.cpp("src/"):
        for match in INCLUDE.finditer(tree.text(path)):
            name = match.group(1)
            if "src/" + name not in known and not any(p.endswith("include/" + name) for p in known):
                message = f'"{name}" is no path from src/'
                findings.append(Finding("include_paths", path, line_of(tree.text(path), match.start()), message))
    return findings


# ---- words ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Ban:
    pattern: str
    why: str
    allowed: tuple = ()  # Prefixes of the paths where the word may stand.


BANS = (
    Ban(r"std::(mutex|shared_mutex|lock_guard|unique_lock|scoped_lock|condition_variable)\b",
        "use base/mutex.h, which clang's thread-safety analysis understands", ("src/base/mutex.h",)),
    Ban(r"\bthrow\b", "failures are Result values"),
    Ban(r"\b(try\s*\{|catch\s*\()", "exceptions stop in the adapters that tidy.py lists", EXCEPTION_ADAPTERS),
    Ban(r"\bassert\s*\(", "use CHECK, which stays on in release, or DCHECK in kernels"),
    Ban(r"\busing\s+namespace\b", "name what is used"),
    Ban(r"\b(sleep_for|sleep_until|usleep|nanosleep)\b", "wait for an event with a deadline"),
    Ban(r"\bstd::cout\b|\bstd::printf\s*\(|(?<![\w:])(printf|puts)\s*\(",
        "only the command line writes results", ("src/cli/", "tests/", "bench/")),
    Ban(r"\bstd::regex\b", "it recurses on input and is slow"),
    Ban(r"\bstd::async\b|\.detach\(\)", "threads have an owner that joins them"),
    Ban(r"\bstd::(format|views)\b|#\s*include\s*<format>", "GCC 12 or clang 14 lacks it"),
    Ban(r"\bthread_local\b", "state belongs to an object"),
    Ban(r"\bstd::(rand|srand)\b|\bstd::random_device\b", "randomness comes from a seed"),
    Ban(r"\b(__linux__|__APPLE__|_WIN32)\b", "operating systems differ in platform/ alone", ("src/platform/",)),
    Ban(r"\b(strcpy|strcat|sprintf|gets|atoi|atol|atof|strtok)\s*\(", "unbounded or unchecked"),
)


def check_words(tree):
    findings = []
    for path in tree.cpp():
        code = tree.code(path)
        for ban in BANS:
            if path.startswith(ban.allowed) if ban.allowed else False:
                continue
            for match in re.finditer(ban.pattern, code):
                message = f"{match.group(0).strip()!r} is banned: {ban.why}"
                findings.append(Finding("words", path, line_of(code, match.start()), message))
    return findings


# The words are put together here so that this file does not hold them.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b|\b(?i:"
                        + "|".join(("place" + "holder", "st" + "ub", "un" + "implemented",
                                    "not" + " yet implemented", "lorem" + " ipsum")) + r")s?\b")
MACHINE_PATH = re.compile(r"(?<![\w.~*}-])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/\w+|Us" + r"ers/\w+)(?:/|\b)")
CARGO_SOURCE = re.compile(r'^source = "(?!registry\+https://github\.com/rust-lang/crates\.io-index")', re.MULTILINE)


def prose_files(tree):
    for path in tree.paths:
        name = path.rsplit("/", 1)[-1]
        if (name.endswith(TEXT_SUFFIXES) or name in TEXT_NAMES) and not path.startswith(
                ("tests/data/", "tests/fuzz/corpus/", "models/")):
            yield path


def check_unfinished(tree):
    findings = []
    for path in prose_files(tree):
        if path.endswith(".lock"):
            continue
        for match in UNFINISHED.finditer(tree.text(path)):
            message = f"{match.group(0)!r}: unfinished work is described in docs/roadmap.md"
            findings.append(Finding("unfinished", path, line_of(tree.text(path), match.start()), message))
    return findings


def check_machine_paths(tree):
    findings = []
    for path in prose_files(tree):
        for match in MACHINE_PATH.finditer(tree.text(path)):
            message = f"{match.group(0)!r} exists on one machine only"
            findings.append(Finding("machine_paths", path, line_of(tree.text(path), match.start()), message))
        if path.endswith("Cargo.lock"):
            for match in CARGO_SOURCE.finditer(tree.text(path)):
                message = "a crate from elsewhere than crates.io"
                findings.append(Finding("machine_paths", path, line_of(tree.text(path), match.start()), message))
    return findings


# ---- shape ----------------------------------------------------------------------------------------------------

def is_kernel_or_table(path):
    return path.startswith("src/kernels/") or re.search(r"_tables?\.(h|cpp)$", path) is not None


def check_file_lines(tree):
    findings = []
    for path in tree.paths:
        if not path.endswith(CPP_SUFFIXES + (".py", ".rs", ".sh")) or path.startswith("tests/data/"):
            continue
        lines = tree.text(path).count("\n")
        if lines > FILE_LINES_MAX and not is_kernel_or_table(path):
            findings.append(Finding("file_lines", path, lines, f"{lines} lines, at most {FILE_LINES_MAX}"))
    return findings


def check_columns(tree):
    findings = []
    for path in tree.cpp():
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if len(line) > COLUMNS_MAX and 'R"' not in line and "http" not in line:
                message = f"{len(line)} columns, at most {COLUMNS_MAX}"
                findings.append(Finding("columns", path, number, message))
    return findings


SCOPE_HEAD = re.compile(r"^\s*(template\s*<.*>\s*)?(typedef\s+)?(class|struct|union|enum)\b", re.DOTALL)
FUNCTION_TAIL = re.compile(r"\)\s*(const|noexcept|override|final|&&?|->[\w:<>,\s*&]+|\s)*$")


def scope_kind(head, opener_touches_word):
    """What a '{' outside functions opens, from the text since the previous ';', '{' or '}'."""
    if re.search(r"\bnamespace\b", head) or re.search(r'\bextern\s*"', head):
        return "scope"
    if SCOPE_HEAD.match(head) and not FUNCTION_TAIL.search(head.split(":")[0] if "::" not in head else head):
        return "scope"
    if opener_touches_word or "(" not in head:
        return "value"
    if re.search(r"(?<![=!<>+\-*/|&^%])=(?!=)", head) and "operator" not in head and "[" not in head:
        return "value"
    return "function"


def functions(code):
    """Yields (first line, last line) of each function body at namespace or class level."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), code,
                  flags=re.MULTILINE)
    stack, start, parens = [], 0, 0
    for match in re.finditer(r"[{}();]", code):
        mark, at = match.group(0), match.start()
        if mark in "()":
            parens += 1 if mark == "(" else -1
        elif mark == "{":
            outer = stack[-1][0] if stack else "scope"
            head = code[start:at]
            touches = at > 0 and (code[at - 1].isalnum() or code[at - 1] in "_>")
            kind = "code" if outer != "scope" or parens > 0 else scope_kind(head, touches)
            first = start + len(head) - len(head.lstrip())
            stack.append((kind, line_of(code, first), parens))
            if kind != "value":
                start = at + 1
            parens = 0
        elif mark == "}":
            if not stack:
                return  # Unbalanced, e.g. by preprocessor branches: the compiler is the judge.
            kind, first, parens = stack.pop()
            if kind == "function":
                yield first, line_of(code, at)
            if kind != "value" and parens == 0:
                start = at + 1
        elif parens == 0:
            start = at + 1


def check_function_lines(tree):
    findings = []
    for path in tree.cpp():
        if is_kernel_or_table(path):
            continue
        for first, last in functions(tree.code(path)):
            if last - first + 1 > FUNCTION_LINES_MAX:
                message = f"a function of {last - first + 1} lines, at most {FUNCTION_LINES_MAX}"
                findings.append(Finding("function_lines", path, first, message))
    return findings


def check_header_form(tree):
    findings = []
    for path in tree.cpp():
        if not path.endswith(".h"):
            continue
        lines = tree.text(path).splitlines()
        comment = 0
        while comment < len(lines) and lines[comment].startswith("//"):
            comment += 1
        rest = [line for line in lines[comment:] if line.strip()]
        if comment < HEADER_COMMENT_LINES_MIN:
            message = (f"opens with {comment} comment lines, at least {HEADER_COMMENT_LINES_MIN}: what it is, who owns "
                       "it, which threads may call what, invariants, units")
            findings.append(Finding("header_form", path, 1, message))
        if not rest or rest[0].strip() != "#pragma once":
            findings.append(Finding("header_form", path, comment + 1, "#pragma once follows the opening comment"))
    return findings


# Names of std whose header is theirs alone: a precompiled header would hide that it is missing.
STD_HEADERS = {
    "algorithm": "all_of any_of clamp copy count_if fill find_if max min sort", "array": "array", "atomic": "atomic",
    "chrono": "chrono", "cstdint": "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t",
    "cstdio": "fprintf printf snprintf", "cstring": "memcmp memcpy memset strlen", "deque": "deque",
    "filesystem": "filesystem", "functional": "function", "limits": "numeric_limits", "map": "map",
    "memory": "make_shared make_unique shared_ptr unique_ptr weak_ptr", "mutex": "mutex",
    "optional": "nullopt optional", "set": "set", "span": "span", "string": "string",
    "string_view": "string_view", "thread": "jthread thread", "utility": "exchange move pair swap",
    "variant": "variant", "vector": "vector",
}
STD_HEADER_OF = {name: header for header, names in STD_HEADERS.items() for name in names.split()}


def check_std_includes(tree):
    """Headers include what they use of the standard library themselves."""
    findings = []
    for path in tree.cpp():
        if not path.endswith(".h"):
            continue
        included = set(re.findall(r"#include <(\w+)>", tree.text(path)))
        for number, line in enumerate(tree.code(path).splitlines(), 1):
            for name in re.findall(r"\bstd::(\w+)", line):
                header = STD_HEADER_OF.get(name)
                if header and header not in included:
                    included.add(header)  # Said once.
                    findings.append(Finding("std_includes", path, number, f"std::{name} needs #include <{header}>"))
    return findings


def check_tests(tree):
    """Every module with code has unit tests beside it."""
    sources, tested = {}, set()
    for path in tree.cpp("src/"):
        module = path.split("/")[1]
        if path.endswith("_test.cpp"):
            tested.add(module)
        elif path.endswith(".cpp"):
            sources.setdefault(module, path)
    return [Finding("tests", path, 1, f"module {module} has no *_test.cpp")
            for module, path in sorted(sources.items()) if module not in tested]


# ---- build products -------------------------------------------------------------------------------------------

def check_objects(build):
    """An inline function emitted by a per-ISA file could be the copy that a lesser machine runs."""
    objects = [p for isa in ("avx2", "avx512", "amx", "neon") for p in pathlib.Path(build).glob(f"src/kernels/**/{isa}/*.o")]
    if not objects:
        if platform.machine() in ("x86_64", "AMD64"):
            return [Finding("objects", str(build), 0, "no object of src/kernels/{avx2,avx512,amx,neon} found: build first")]
        return []
    findings = []
    for path in sorted(objects):
        done = subprocess.run(["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            kind, name = line.split()[-2:]
            if kind in ("W", "V", "u", "w", "v"):
                message = f"weak symbol {name}: include only intrinsics and plain layouts here"
                findings.append(Finding("objects", path.name, 0, message))
    return findings


AVX512_FLAGS = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16", "-mavx512vbmi",
                "-mfma", "-mf16c"]
ISA_FLAGS = {"avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": AVX512_FLAGS,
             "amx": [*AVX512_FLAGS, "-mamx-tile", "-mamx-int8"]}


def include_flags(build):
    """Where headers are found, and where tests find their data."""
    flags = {}
    for entry in json.loads((pathlib.Path(build) / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        for word, following in zip(words, words[1:] + [""]):
            if word == "-isystem":
                flags[word, following] = None
            elif word.startswith(("-I", "-DMLXF_SOURCE_DIR=")):
                flags[word,] = None
    return [word for flag in flags for word in flag]


def included_first(tree, header):
    """Whether the source beside a header includes it before anything else, which compiles it alone in every build."""
    source = header[:-len(".h")] + ".cpp"
    if source not in tree.paths:
        return False
    first = re.search(r'#include\s+["<]([^">]+)', tree.text(source))
    return first is not None and "src/" + first.group(1) == header


def check_headers(tree, build, compiler):
    flags = include_flags(build)

    def compile_alone(path):
        isa = path.split("/")[2] if path.startswith("src/kernels/") else ""
        if isa == "neon" and platform.machine() not in ("aarch64", "arm64"):
            return None
        command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-function",
                   "-Wno-unused-const-variable", "-Wno-pragma-once-outside-header", "-Werror", *flags,
                   *ISA_FLAGS.get(isa, ()), "-x", "c++", str(tree.root / path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        first = next((s for s in done.stderr.splitlines() if "error" in s), done.stderr.strip()[:200])
        return Finding("headers", path, 1, f"does not compile alone: {first}")

    headers = [p for p in tree.cpp("src/") if p.endswith(".h") and not included_first(tree, p)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [finding for finding in pool.map(compile_alone, headers) if finding]


# ---- exceptions and the main program --------------------------------------------------------------------------

CHECKS = {
    "layers": check_layers,
    "cycles": check_cycles,
    "include_paths": check_include_paths,
    "words": check_words,
    "unfinished": check_unfinished,
    "machine_paths": check_machine_paths,
    "file_lines": check_file_lines,
    "columns": check_columns,
    "function_lines": check_function_lines,
    "header_form": check_header_form,
    "std_includes": check_std_includes,
    "tests": check_tests,
}


def read_exceptions(text):
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            check, path, *why = line.split(None, 2)
            entries.append((number, check, path, why[0] if why else ""))
    return entries


def apply_exceptions(findings, entries, listing="tools/tidy_exceptions.txt"):
    """Drops the excepted findings; an entry without a reason or without a match is a finding itself."""
    excepted = {(check, path) for _, check, path, _ in entries}
    kept = [f for f in findings if (f.check, f.path) not in excepted]
    seen = {(f.check, f.path) for f in findings}
    for number, check, path, why in entries:
        if not why:
            kept.append(Finding("exceptions", listing, number, "an exception needs its reason"))
        if (check, path) not in seen:
            kept.append(Finding("exceptions", listing, number, f"{check} {path} matches nothing: remove it"))
    return kept


def check_text(tree):
    findings = [finding for check in CHECKS.values() for finding in check(tree)]
    return apply_exceptions(findings, read_exceptions(tree.text("tools/tidy_exceptions.txt")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", metavar="BUILD")
    parser.add_argument("--objects", metavar="BUILD")
    parser.add_argument("--compiler", default="clang++-14", help="for --headers")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join([*CHECKS, "headers", "objects"]))
        return 0
    tree = Tree(pathlib.Path(__file__).resolve().parent.parent)
    if options.headers:
        findings = check_headers(tree, options.headers, options.compiler)
    elif options.objects:
        findings = check_objects(options.objects)
    else:
        findings = check_text(tree)
    for finding in findings:
        print(finding)
    print(f"tidy: {len(tree.paths)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
