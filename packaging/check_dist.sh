#!/bin/sh
# Checks what packaging/dist.sh made: checksums, the files in both packages, and that the packed program runs.
set -eu
out=${1:?usage: packaging/check_dist.sh FOLDER}
version_pattern='[0-9]*'

fail() {
  echo "check_dist: $1" >&2
  exit 1
}
(cd "$out" && sha256sum --check --status SHA256SUMS) || fail "SHA256SUMS does not match"
deb=$(echo "$out"/mlx-flash_${version_pattern}.deb)
tarball=$(echo "$out"/mlx-flash-${version_pattern}.tar.gz)
[ -f "$deb" ] || fail "no .deb"
[ -f "$tarball" ] || fail "no tarball"

in_deb=$(dpkg-deb -c "$deb" | sed 's/^.* \.\///')
in_tarball=$(tar -tzf "$tarball" | sed 's#^[^/]*/##')
for path in bin/mlx-flash share/man/man1/mlx-flash.1.gz share/doc/mlx-flash/copyright share/doc/mlx-flash/README.md \
  share/doc/mlx-flash/docs/roadmap.md share/doc/mlx-flash/THIRD-PARTY-LICENSES.txt \
  share/mlx-flash/models/classics-moe-4bit/config.json share/mlx-flash/models/classics-moe-4bit/README.md; do
  echo "$in_deb" | grep -qx "usr/$path" || fail "the .deb lacks usr/$path"
  echo "$in_tarball" | grep -qx "$path" || fail "the tarball lacks $path"
done
dpkg-deb -f "$deb" Depends | grep -q libc6 || fail "the .deb does not depend on libc6"

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar -xzf "$tarball" -C "$unpacked" --strip-components=1
"$unpacked/bin/mlx-flash" --version </dev/null >/dev/null || fail "the packed program does not start"
"$unpacked/bin/mlx-flash" inspect "$unpacked/share/mlx-flash/models/classics-moe-4bit" </dev/null >/dev/null ||
  fail "the packed program does not read the packed model"
echo "check_dist: $(basename "$deb") and $(basename "$tarball") are complete"
