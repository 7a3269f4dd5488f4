#!/usr/bin/env python3
"""Writes the licences of the crates that are linked into the program, from the sources that cargo fetched.

third_party.py >THIRD-PARTY-LICENSES.txt
"""

import json
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = (("nlohmann-json3-dev", "MIT"), ("libcli11-dev", "BSD-3-Clause"), ("libexpected-dev", "CC0-1.0"),
             ("liburing-dev", "LGPL-2.1 or MIT, used under MIT"), ("libboost1.81-dev", "BSL-1.0"))


def linked_crates():
    target = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", target,
               "--manifest-path", str(ROOT / "bridge/Cargo.toml")]
    graph = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    packages = {package["id"]: package for package in graph["packages"]}
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    seen, waiting = set(), list(graph["workspace_members"])
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for dependency in nodes[current]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):  # Not build or test dependencies.
                waiting.append(dependency["pkg"])
    return sorted((packages[i] for i in seen - set(graph["workspace_members"])), key=lambda p: p["name"])


def licence_texts(folder):
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE")):
            yield path.name, path.read_text(encoding="utf-8", errors="replace").strip()


def main():
    print("The program mlx-flash is MIT-licensed. It contains code of the following libraries.\n")
    for package, licence in LIBRARIES:
        print(f"{package} ({licence})")
        text = pathlib.Path(f"/usr/share/doc/{package}/copyright")
        if text.exists():
            print(text.read_text(encoding="utf-8", errors="replace").strip())
        print()
    shown = {}
    for crate in linked_crates():
        print(f"==== {crate['name']} {crate['version']} ({crate['license'] or crate['license_file']})")
        for name, text in licence_texts(pathlib.Path(crate["manifest_path"]).parent):
            if text in shown:  # Most crates carry the same Apache text.
                print(f"{name}: the same text as that of {shown[text]} above")
            else:
                shown[text] = f"{crate['name']}, {name}"
                print(f"{name}:\n{text}")
        print()


if __name__ == "__main__":
    sys.exit(main())
