#!/bin/sh
# The main job in two runs: a page from the bundled model with all of it in memory, then under a memory budget of
# about half the model's size. Fails if the two texts differ in one byte.
#
#   tools/demo.sh PROGRAM MODEL PROMPT [BUDGET]
set -eu

program=$1 model=$2 prompt=$3 budget=${4:-25MiB}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

echo "== all weights in memory"
"$program" run -m "$model" -p "$prompt" --echo -n 160 --temp 0.7 --seed 1 --memory-budget none | tee "$out/whole"
echo
echo "== the same within $budget for the whole process; what does not fit is read from disk as it is needed"
"$program" run -m "$model" -p "$prompt" --echo -n 160 --temp 0.7 --seed 1 --memory-budget "$budget" >"$out/within"
if ! cmp "$out/whole" "$out/within"; then
  echo "the two texts differ" >&2
  exit 1
fi
echo "the same text, byte for byte"
