#!/usr/bin/env bash
# Names a release in the formula: packaging/homebrew/release.sh HOMEPAGE URL ARCHIVE prints shed.rb with the address of a tag's
# source archive and the checksum of that archive, which must have been downloaded already. It changes nothing.
set -euo pipefail
formula=$(dirname "${BASH_SOURCE[0]}")/shed.rb
fail() { printf 'release: error: %s\n' "$*" >&2; exit 1; }

[ $# -eq 3 ] || fail "usage: packaging/homebrew/release.sh HOMEPAGE URL ARCHIVE > shed.rb"
homepage=$1 url=$2 archive=$3
# They become Ruby between quotation marks, in which `#{` begins a program.
address='^https://[A-Za-z0-9._~/%:+-]+$'
[[ $homepage =~ $address ]] || fail "HOMEPAGE is no address that begins with https://: $homepage"
[[ $url =~ $address ]] || fail "URL is no address that begins with https://: $url"
[ -s "$archive" ] || fail "there is no archive $archive; download $url first"
tar -tzf "$archive" 2>/dev/null | grep '/bin/shed-server/Cargo.toml$' >/dev/null ||
  fail "$archive has no bin/shed-server/Cargo.toml in its top folder; it must be the source archive of a tag (.tar.gz)"

if command -v sha256sum >/dev/null; then sum=$(sha256sum "$archive"); else sum=$(shasum -a 256 "$archive"); fi
sum=${sum%% *}
sed -e "s|^  homepage \".*\"|  homepage \"$homepage\"|" -e "s|^  url \".*\"|  url \"$url\"|" \
  -e "s|^  sha256 \".*\"|  sha256 \"$sum\"|" "$formula"
