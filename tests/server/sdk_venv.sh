#!/bin/sh
# Makes a virtual environment with the clients' own packages, in the versions of sdk_requirements.txt.
#
#   sdk_venv.sh FOLDER
#
# Exits with 77, the test runner's word for skipped, where the packages cannot be had.
set -eu
here=$(dirname "$0")
wanted=$(cat "$here/sdk_requirements.txt")
if [ -f "$1/requirements" ] && [ "$(cat "$1/requirements")" = "$wanted" ]; then
  exit 0
fi
mkdir -p "$1"
exec 9>"$1.lock"  # Two tests may want the same folder at once.
flock 9
if [ -f "$1/requirements" ] && [ "$(cat "$1/requirements")" = "$wanted" ]; then
  exit 0
fi
if ! python3 -m venv "$1" || ! timeout 400 "$1/bin/pip" install -q --timeout 30 --retries 2 --disable-pip-version-check -r "$here/sdk_requirements.txt"; then
  echo "SKIPPED: the client packages of tests/server/sdk_requirements.txt cannot be installed here" >&2
  exit 77
fi
echo "$wanted" >"$1/requirements"
