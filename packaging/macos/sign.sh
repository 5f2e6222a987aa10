#!/usr/bin/env bash
# Signs Shed's programs, or a vfkit that was built here, and looks whether the signatures hold; see --help. On a Mac only.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Tests put a program of their own in its place.
CODESIGN=${CODESIGN:-/usr/bin/codesign}

usage() {
  cat <<'TEXT'
usage: packaging/macos/sign.sh [--identity NAME] PROGRAM…

  PROGRAM          shed, shed-server, shed-host-agent or vfkit, by its path. shed-server and vfkit get the entitlements
                   that lie beside this script, the others none.
  --identity NAME  whose signature, as `security find-identity -v -p codesigning` names it. Left out, it is nobody's
                   (ad hoc): enough for the Mac that it was made on. With one, the hardened runtime and a time stamp are
                   added, which notarization asks for.
TEXT
}
fail() { printf 'sign: error: %s\n' "$*" >&2; exit 1; }

identity=-
programs=()
while [ $# -gt 0 ]; do
  case $1 in
    --identity) identity=${2:?--identity needs a name}; shift 2 ;;
    --identity=*) identity=${1#*=}; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; fail "what is $1?" ;;
    *) programs+=("$1"); shift ;;
  esac
done
[ ${#programs[@]} -gt 0 ] || { usage >&2; fail "name the programs to sign"; }
[ -n "$identity" ] || fail "the identity is empty; leave out --identity to sign as nobody"
[ -x "$CODESIGN" ] || fail "there is no $CODESIGN; run this on a Mac with Xcode's command line tools (xcode-select --install)"

# All are looked at before the first one is changed.
for program in "${programs[@]}"; do
  [ -f "$program" ] && [ -x "$program" ] || fail "$program is no program; build it first: ./x build"
  case ${program##*/} in
    shed | shed-server | shed-host-agent | vfkit) ;;
    *) fail "it is not known what ${program##*/} may do; this signs shed, shed-server, shed-host-agent and vfkit" ;;
  esac
done

for program in "${programs[@]}"; do
  name=${program##*/}
  flags=(--force --sign "$identity" --identifier "dev.shed.$name")
  [ "$identity" = - ] || flags+=(--options runtime --timestamp)
  entitlements=$here/$name.entitlements
  [ ! -f "$entitlements" ] || flags+=(--entitlements "$entitlements")
  "$CODESIGN" "${flags[@]}" -- "$program"
  "$CODESIGN" --verify --strict --verbose=2 -- "$program"
  # A signature is whole without its entitlements, and a machine refused only when it starts.
  if [ -f "$entitlements" ]; then
    "$CODESIGN" --display --entitlements - --xml -- "$program" 2>/dev/null | grep com.apple.security.virtualization >/dev/null ||
      fail "$program is signed, but without com.apple.security.virtualization"
  fi
  printf 'signed: %s\n' "$program"
done
