#!/bin/sh
# Makes a folder with packages of npm, in the versions of a list; their install scripts are not run.
#
#   npm_folder.sh FOLDER LIST
#
# Exits with 77, the test runner's word for skipped, where the packages cannot be had.
set -eu
wanted=$(cat "$2")
if [ -f "$1/packages" ] && [ "$(cat "$1/packages")" = "$wanted" ]; then
  exit 0
fi
mkdir -p "$1"
exec 9>"$1.lock"  # Two tests may want the same folder at once.
flock 9
if [ -f "$1/packages" ] && [ "$(cat "$1/packages")" = "$wanted" ]; then
  exit 0
fi
# shellcheck disable=SC2086 # One word per package.
if ! timeout 400 npm install --fetch-timeout=30000 --fetch-retries=2 --silent --no-audit --no-fund --no-save --no-package-lock --ignore-scripts --prefix "$1" $wanted; then
  echo "SKIPPED: the packages of $2 cannot be installed here" >&2
  exit 77
fi
echo "$wanted" >"$1/packages"
