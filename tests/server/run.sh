#!/bin/sh
# Runs one of the tests beside it against a program: run.sh PROGRAM FOLDER NAME_test.py
# The client packages' test gets a virtual environment in FOLDER; without the packages it is skipped (77).
set -eu
here=$(dirname "$0")
MLXF_PROGRAM=$1
export MLXF_PROGRAM
python=python3
if [ "$3" = sdk_test.py ]; then
  "$here/sdk_venv.sh" "$2" || exit $?
  python="$2/bin/python3"
fi
exec "$python" -B "$here/$3"
