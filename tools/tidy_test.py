#!/usr/bin/env python3
"""Tests of tools/tidy.py: every check on snippets that it must accept and snippets that it must refuse."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tidy  # noqa: E402  (found beside this file)

# The number of entries in tools/tidy_exceptions.txt. Lower it when an entry goes; never raise it.
EXCEPTIONS_RECORDED = 0

HEADER = "// What it is.\n// Who owns it.\n// Which threads.\n#pragma once\n"
LAYERS = "base:\ntensor: base\nkernels: base tensor\n"


class TidyTest(unittest.TestCase):
    def tree(self, files):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name)
        for path, text in {"tools/layers.txt": LAYERS, **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return tidy.Tree(root, ["tools/layers.txt", *files])

    def found(self, check, files):
        return [f"{f.path}:{f.line}" for f in tidy.CHECKS[check](self.tree(files))]

    def assert_good(self, check, files):
        self.assertEqual(self.found(check, files), [])

    def assert_bad(self, check, files, *places):
        self.assertEqual(self.found(check, files), list(places))

    def test_layers(self):
        self.assert_good("layers", {"src/tensor/a.h": '#include "base/b.h"\n#include "tensor/c.h"\n#include <set>\n'})
        self.assert_bad("layers", {"src/tensor/a.h": '\n#include "kernels/k.h"\n'}, "src/tensor/a.h:2")
        self.assert_bad("layers", {"src/base/a.cpp": '#  include "tensor/k.h"\n'}, "src/base/a.cpp:1")
        self.assert_bad("layers", {"src/unlisted/a.h": ""}, "src/unlisted/a.h:1")
        self.assert_bad("layers", {"tools/layers.txt": "base: tensor\ntensor:\n"}, "tools/layers.txt:1")

    def test_layers_of_the_build(self):
        cmake = "src/tensor/CMakeLists.txt"
        self.assert_good("layers", {cmake: "mlxf_module(tensor DEPS base LIBS fmt::fmt)\n"})
        self.assert_bad("layers", {cmake: "mlxf_module(tensor DEPS base kernels)\n"}, f"{cmake}:1")
        self.assert_bad("layers", {cmake: "mlxf_module(tensor HOT DEPS base kernels)\n"}, f"{cmake}:1")

    def test_cycles(self):
        self.assert_good("cycles", {"src/base/a.h": '#include "base/b.h"\n#include "base/c.h"\n',
                                    "src/base/b.h": '#include "base/c.h"\n', "src/base/c.h": ""})
        self.assert_bad("cycles", {"src/base/a.h": '#include "base/b.h"\n', "src/base/b.h": '#include "base/c.h"\n',
                                   "src/base/c.h": '#include "base/a.h"\n'}, "src/base/c.h:1")

    def test_include_paths(self):
        self.assert_good("include_paths", {"src/base/a.cpp": '#include "base/a.h"\n', "src/base/a.h": ""})
        self.assert_bad("include_paths", {"src/base/a.cpp": '#include "a.h"\n', "src/base/a.h": ""},
                        "src/base/a.cpp:1")

    def test_words(self):
        bad = ["std::mutex m;", "throw 1;", "try { f(); } ", "} catch (...) {}", "assert(x);", "using namespace std;",
               "std::this_thread::sleep_for(t);", "std::cout << 1;", 'printf("x");', "std::regex r;",
               "std::async(f);", "worker.detach();", "std::format(x);", "thread_local int i;", "std::random_device d;",
               "#ifdef __linux__", "strcpy(a, b);", "atoi(s);"]
        for line in bad:
            with self.subTest(line):
                self.assert_bad("words", {"src/tensor/a.cpp": f"int x;\n{line}\n"}, "src/tensor/a.cpp:2")
        good = ["// throw, assert(x), std::mutex", 'const char* s = "throw std::mutex assert(";', "static_assert(x);",
                "/* using namespace\n std; */", "rethrow_count++;", 'R"(throw)";', "std::fprintf(stderr, s);",
                "int n = 1'000'000; int throw_count = 2'000;", "snprintf(a, 4, s);"]
        for line in good:
            with self.subTest(line):
                self.assert_good("words", {"src/tensor/a.cpp": line + "\n"})

    def test_words_where_they_are_allowed(self):
        self.assert_good("words", {"src/base/mutex.h": "std::mutex m;", "src/base/json.cpp": "try { f(); } catch (",
                                   "src/cli/run.cpp": "std::cout << 1;", "src/platform/a.cpp": "#ifdef __linux__"})

    def test_unfinished(self):
        for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX", "place" + "holder", "St" + "ub", "not" + " yet implemented"):
            with self.subTest(word):
                self.assert_bad("unfinished", {"src/base/a.h": f"\n// {word}: later\n"}, "src/base/a.h:2")
        self.assert_good("unfinished", {"src/base/a.h": "// stubborn Todos, xxxl\n", "tests/data/a.txt": "TO" + "DO"})

    def test_machine_paths(self):
        for path in ("/wo" + "rk/main", "/ro" + "ot/.cargo", "/ho" + "me/ann/models", "/Us" + "ers/ann"):
            with self.subTest(path):
                self.assert_bad("machine_paths", {"docs/a.md": f"\nsee {path}\n"}, "docs/a.md:2")
        self.assert_good("machine_paths", {"docs/a.md": "~/models, src/work/x, $HOME/root/x, /usr/bin, a/root/b\n"})
        self.assert_bad("machine_paths", {"bridge/Cargo.lock": 'source = "registry+https://elsewhere.example/i"\n'},
                        "bridge/Cargo.lock:1")
        self.assert_good("machine_paths", {
            "bridge/Cargo.lock": 'source = "registry+https://github.com/rust-lang/crates.io-index"\n'})

    def test_file_lines(self):
        self.assert_good("file_lines", {"src/base/a.cpp": "int x;\n" * 700, "src/kernels/a.cpp": "int x;\n" * 900,
                                        "src/base/shape_table.cpp": "int x;\n" * 900})
        self.assert_bad("file_lines", {"src/base/a.cpp": "int x;\n" * 701}, "src/base/a.cpp:701")

    def test_columns(self):
        self.assert_good("columns", {"src/base/a.h": "x" * 120 + "\n" + "é" * 120 + "\n"})
        self.assert_bad("columns", {"src/base/a.h": "\n" + "x" * 121 + "\n"}, "src/base/a.h:2")

    def test_function_lines(self):
        body = "  f();\n"
        shapes = ["int f(int a,\n      int b) {\n%s}\n", "namespace n {\nvoid A::g() const noexcept {\n%s}\n}\n",
                  "class C final : public D {\n public:\n  int h(int x) override {\n%s  }\n};\n",
                  "A::A(int x)\n    : a_{x}, b_(x) {\n%s}\n", "auto f() -> std::vector<int> {\n%s}\n",
                  "template <typename T>\nbool operator==(T a, T b) {\n%s}\n", "TEST(a, b) {\n%s}\n",
                  "constexpr auto f = [](int x) {\n%s};\n", "struct S;\nS make_s(struct T t) {\n%s}\n"]
        for shape in shapes:
            with self.subTest(shape):
                self.assert_good("function_lines", {"src/base/a.cpp": shape % (body * 60)})
                self.assertEqual(len(self.found("function_lines", {"src/base/a.cpp": shape % (body * 71)})), 1)
                self.assert_good("function_lines", {"src/kernels/a.cpp": shape % (body * 71)})
        small = "void f() {\n  if (x) {\n    for (int i = 0; i < 3; i++) {\n    }\n  }\n  g({1, 2}, [] { return 1; });\n}\n"
        self.assert_good("function_lines", {"src/base/a.cpp": small * 30})
        table = "const int kTable[] = {\n" + "  1,\n" * 200 + "};\n"
        self.assert_good("function_lines", {"src/base/a.cpp": table + small})
        scopes = "namespace a {\nclass C {\n" + "  int x_ = 0;\n" * 200 + "  int f() { return 1; }\n};\n}\n"
        self.assert_good("function_lines", {"src/base/a.cpp": scopes})

    def test_function_lines_counts_from_the_signature(self):
        code = "int x;\n\nint f() {\n}\n\nint g(int a) {\n  return a;\n}\n"
        self.assertEqual(list(tidy.functions(tidy.blank_literals(code))), [(3, 4), (6, 8)])

    def test_header_form(self):
        self.assert_good("header_form", {"src/base/a.h": HEADER + "int x;\n"})
        self.assert_bad("header_form", {"src/base/a.h": "// One.\n#pragma once\n"}, "src/base/a.h:1")
        self.assert_bad("header_form", {"src/base/a.h": "// 1\n// 2\n// 3\n#include <set>\n#pragma once\n"},
                        "src/base/a.h:4")
        self.assert_good("header_form", {"src/base/a.cpp": "int x;\n"})

    def test_std_includes(self):
        self.assert_good("std_includes", {"src/base/a.h": "#include <vector>\nstd::vector<int> x;  // std::map\n"})
        self.assert_bad("std_includes", {"src/base/a.h": "#include <map>\nstd::map<int, std::string> x;\n"},
                        "src/base/a.h:2")
        self.assert_good("std_includes", {"src/base/a.cpp": "std::vector<int> x;\n"})

    def test_included_first(self):
        tree = self.tree({"src/base/a.h": "", "src/base/a.cpp": '// A\n#include "base/a.h"\n#include "base/b.h"\n',
                          "src/base/b.h": "", "src/base/b.cpp": '#include "base/a.h"\n#include "base/b.h"\n',
                          "src/base/c.h": ""})
        self.assertEqual([tidy.included_first(tree, f"src/base/{name}.h") for name in "abc"], [True, False, False])

    def test_tests(self):
        self.assert_good("tests", {"src/base/a.cpp": "", "src/base/b_test.cpp": "", "src/tensor/only_header.h": ""})
        self.assert_bad("tests", {"src/base/a.cpp": "", "src/tensor/b_test.cpp": ""}, "src/base/a.cpp:1")

    def test_exceptions(self):
        finding = tidy.Finding("words", "src/a.cpp", 3, "m")
        entry = tidy.read_exceptions("# a comment\n\nwords src/a.cpp  a reason of several words\n")
        self.assertEqual(entry, [(3, "words", "src/a.cpp", "a reason of several words")])
        self.assertEqual(tidy.apply_exceptions([finding], entry), [])
        self.assertEqual(tidy.apply_exceptions([finding], []), [finding])
        self.assertEqual([f.line for f in tidy.apply_exceptions([], entry)], [3])
        no_reason = tidy.read_exceptions("words src/a.cpp\n")
        self.assertEqual(len(tidy.apply_exceptions([finding], no_reason)), 1)

    def test_exceptions_only_shrink(self):
        text = (pathlib.Path(tidy.__file__).parent / "tidy_exceptions.txt").read_text(encoding="utf-8")
        self.assertEqual(len(tidy.read_exceptions(text)), EXCEPTIONS_RECORDED)

    def test_objects(self):
        def objects_of(code):
            folder = tempfile.TemporaryDirectory()
            self.addCleanup(folder.cleanup)
            place = pathlib.Path(folder.name) / "src/kernels/CMakeFiles/k.dir/avx2"
            place.mkdir(parents=True)
            source = place / "a.cpp"
            source.write_text(code, encoding="utf-8")
            subprocess.run(["c++", "-std=c++20", "-O0", "-c", str(source), "-o", f"{source}.o"], check=True)
            return tidy.check_objects(folder.name)

        self.assertEqual(objects_of("namespace { int g() { return 2; } }\nint f() { return g(); }\n"), [])
        weak = objects_of("inline int shared() { return 2; }\nint f() { return shared(); }\n")
        self.assertEqual([f.check for f in weak], ["objects"])
        self.assertIn("shared", weak[0].message)

    def test_objects_of_an_empty_build_are_a_finding(self):
        if tidy.platform.machine() != "x86_64":
            self.skipTest("no such objects on this architecture")
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(len(tidy.check_objects(folder)), 1)


if __name__ == "__main__":
    unittest.main()
