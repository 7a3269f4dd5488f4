#!/usr/bin/env python3
"""Writes the manual page mlx-flash(1) from the program's own --help, so that the two cannot differ.

manual_page.py PROGRAM >mlx-flash.1
"""

import re
import subprocess
import sys


def help_of(program, *arguments):
    done = subprocess.run([program, *arguments, "--help"], capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL)
    return done.stdout


def quoted(text):
    text = text.replace("\\", "\\\\").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.splitlines())


def subcommands(text):
    """The names in the block that CLI11 heads with "Subcommands:"."""
    block = re.search(r"^\s*Subcommands:\n((?:[ \t]+\S.*\n?|\s*\n)+)", text, re.MULTILINE | re.IGNORECASE)
    names = re.findall(r"^ {1,4}([a-z][a-z-]*)", block.group(1), re.MULTILINE) if block else []
    return list(dict.fromkeys(names))


def page(program):
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    overview = help_of(program)
    parts = [f'.TH MLX-FLASH 1 "" "mlx-flash {quoted(version)}" "User Commands"',
             ".SH NAME", "mlx\\-flash \\- run large language models on the CPU",
             ".SH SYNOPSIS", ".B mlx\\-flash", "SUBCOMMAND [OPTIONS]",
             ".SH DESCRIPTION", ".nf", quoted(overview), ".fi"]
    for name in subcommands(overview):
        parts += [f".SH {quoted(name.upper())}", ".nf", quoted(help_of(program, name)), ".fi"]
    parts += [".SH EXIT STATUS", "0 on success, 1 on failure, 2 for a mistake on the command line."]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(sys.argv[1]))
