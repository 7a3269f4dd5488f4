#!/bin/sh
# Packs the release build: build/dist/*.deb, build/dist/*.tar.gz and SHA256SUMS. `make dist` builds first.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
out=${2:-build/dist}

for tool in dpkg-shlibdeps file cpack; do
  if ! command -v "$tool" >/dev/null 2>&1; then
    echo "dist: $tool is missing; run: tools/setup.sh check" >&2
    exit 1
  fi
done
[ -x "$build/mlx-flash" ] || { echo "dist: $build/mlx-flash is missing; run: make build" >&2; exit 1; }

generated=$build/dist-files
rm -rf "$generated" "$out"
mkdir -p "$generated" "$out"
python3 packaging/manual_page.py "$build/mlx-flash" >"$generated/mlx-flash.1"
gzip -9 -n -f "$generated/mlx-flash.1"
python3 packaging/third_party.py >"$generated/THIRD-PARTY-LICENSES.txt"

cpack --config "$build/CPackConfig.cmake" -B "$out" >"$generated/cpack.log" 2>&1 || { cat "$generated/cpack.log" >&2; exit 1; }
rm -rf "$out/_CPack_Packages"
(cd "$out" && sha256sum ./*.deb ./*.tar.gz | sed 's# \./# #' >SHA256SUMS)
packaging/check_dist.sh "$out"
ls -l "$out"
