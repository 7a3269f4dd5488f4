#!/bin/sh
# Installs what is missing to build and test on Debian 12 and its relatives; `make` calls it before it builds.
#
#   tools/setup.sh           what `make build`, `make run` and `make test` need
#   tools/setup.sh check     also what `make check` needs (clang 14 and its tools, a compiler and an emulator for ARM)
#
# Says nothing, needs no network and takes milliseconds when nothing is missing. Never asks a question: without root
# it uses sudo if sudo needs no password, and otherwise prints the one command to run.
set -eu

build_packages="g++ cmake ninja-build make git ca-certificates python3 binutils pkg-config
  libexpected-dev nlohmann-json3-dev libcli11-dev libcurl4-openssl-dev libssl-dev libedit-dev liburing-dev
  libgtest-dev libgmock-dev libbenchmark-dev libboost1.81-dev"
check_packages="clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev dpkg-dev file
  g++-aarch64-linux-gnu qemu-user-static googletest"

wanted=$build_packages
if [ "${1:-}" = check ]; then
  wanted="$wanted $check_packages"
elif [ -n "${1:-}" ]; then
  echo "setup: unknown argument '$1'; use: tools/setup.sh [check]" >&2
  exit 2
fi

# A Rust tool chain: one that is there (rustup's stays untouched), else Debian's. Debian 12's plain `cargo` is too old.
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
if ! command -v cargo >/dev/null 2>&1; then
  wanted="$wanted cargo-web rustc-web"
fi

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
  # Not a Debian relative: look for the programs and leave the libraries to CMake's own messages.
  absent=""
  for program in c++ cmake ninja python3 cargo; do
    command -v "$program" >/dev/null 2>&1 || absent="$absent $program"
  done
  if [ -n "$absent" ]; then
    echo "setup: this system has no apt-get; please install:$absent" >&2
    echo "setup: and the libraries tl-expected, nlohmann-json, CLI11, libcurl, OpenSSL, liburing (Linux)," >&2
    echo "setup: GoogleTest, Google Benchmark" >&2
    exit 1
  fi
  exit 0
fi

# dpkg-query prints one line per installed package, and complains about the others on stderr.
# shellcheck disable=SC2086  # The lists are words.
installed=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' $wanted 2>/dev/null |
  sed -n 's/^installed \([^:]*\).*/\1/p') || true
missing=""
for package in $wanted; do
  case "
$installed
" in
    *"
$package
"*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  else
    echo "setup: these packages are missing, and installing them needs root:" >&2
    echo "  sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
  fi
fi

echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
install_missing() {
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o Dpkg::Options::=--force-confold $missing </dev/null
}
$as_root apt-get update -q </dev/null >&2
if ! install_missing >&2; then
  echo "setup: apt-get could not install all of:$missing" >&2
  echo "setup: this project is built on Debian 12; see docs/dependencies.md for what each package is for" >&2
  exit 1
fi
