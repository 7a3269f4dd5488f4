#!/bin/sh
# Runs one of the tests beside it against a program: run.sh PROGRAM FOLDER NAME_test.py
#
# Tests of clients' packages get them in folders of FOLDER. Where they cannot be had, or a test cannot run, it is
# skipped (77). Some run in a network of their own, which is loopback alone.
set -eu
here=$(dirname "$0")
python=python3
case $3 in
  sdk_test.py | quickstart_test.py)
    "$here/sdk_venv.sh" "$2/python" || exit $?
    python="$2/python/bin/python3"
    ;;
esac
case $3 in
  mcp_conformance_test.py) packages=mcp ;;
  javascript_test.py | quickstart_test.py) packages=javascript ;;
  agents_test.py) packages=agents ;;
  *) packages= ;;
esac
alone="unshare --user --map-root-user --net"
case $3 in
  quickstart_test.py | agents_test.py)
    $alone sh -c 'ip link set lo up' || exit 77
    ;;
esac
[ -z "$packages" ] || "$here/npm_folder.sh" "$2/$packages" "$here/${packages}_packages.txt" || exit $?
export MLXF_PROGRAM="$1" MLXF_PACKAGES="$2/$packages"
case $3 in
  quickstart_test.py | agents_test.py)
    exec $alone sh -c 'ip link set lo up && exec "$0" -B "$1"' "$python" "$here/$3"
    ;;
esac
exec "$python" -B "$here/$3"
