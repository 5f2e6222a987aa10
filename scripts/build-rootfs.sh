#!/usr/bin/env bash
# What build-firecracker-rootfs.sh and build-vz-rootfs.sh have in common: kernel, initramfs and images for one backend,
# built by shed-guest through ./x. Called by those two only: build-rootfs.sh ARCH DEFAULT_DIR [FLAGS OF THE CALLER].
set -euo pipefail

arch=$1 default_dir=$2
shift 2
caller=$(basename "${SHED_DOOR:?call build-firecracker-rootfs.sh or build-vz-rootfs.sh}")
# Before the directory changes: relative paths of the caller count from his.
[ -z "${OUTPUT_DIR:-}" ] || OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")
[ -z "${SHED_EXT_DIR:-}" ] || SHED_EXT_DIR=$(realpath -m "$SHED_EXT_DIR")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<TEXT
usage: scripts/$caller [--arch ARCH] [--variant NAME | --all] [--shed-ext-version VERSION]

  --arch ARCH                 amd64 or arm64 ($arch): arm64 for Apple silicon, amd64 for an Intel Mac and most of Linux.
                              The files of one have the names of the other's: give each an OUTPUT_DIR of its own

  --variant NAME              build the image NAME, a directory of guest/recipes (default)
  --all                       build all of them
  --shed-ext-version VERSION  put the extensions' programs into \`experimental\`, from the directory VERSION below
                              SHED_EXT_DIR; without it they are left out

Kernel and initramfs are built along. Needs no root and no Docker; for another architecture than this machine's also its
cross compiler and QEMU's user emulation (Debian: gcc-aarch64-linux-gnu, qemu-user-static, binfmt-support, arch-test).

Environment:
  OUTPUT_DIR    where they go ($default_dir)
  SHED_EXT_DIR  directory with a directory for each version of the extensions (target/extensions)
  ROOTFS_SIZE   has no effect: an image is as large as what is in it and is read-only. How much a shed can write says
                its own disk: \`default_disk_gb\` in server.yaml
TEXT
}
fail() { printf '%s: error: %s\n' "$caller" "$*" >&2; exit 1; }

variant="" all=no version=""
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?--arch needs an architecture}; shift 2 ;;
    --arch=*) arch=${1#*=}; shift ;;
    --variant) variant=${2:?--variant needs a name}; shift 2 ;;
    --variant=*) variant=${1#*=}; shift ;;
    --all) all=yes; shift ;;
    --shed-ext-version) version=${2:?--shed-ext-version needs a version}; shift 2 ;;
    --shed-ext-version=*) version=${1#*=}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "what is $1?" ;;
  esac
done
[ "$all" = no ] || [ -z "$variant" ] || fail "--all builds every variant; leave out --variant"
variant=${variant:-default}
case $arch in amd64 | arm64) ;; *) fail "there are guests for amd64 and arm64, and none for $arch" ;; esac
# Said before minutes go into the kernel.
if [ "$all" = no ] && { [[ $variant == */* || $variant == .* ]] || [ ! -d "guest/recipes/$variant" ]; }; then
  fail "there is no variant $variant; there are: $(cd guest/recipes && printf '%s ' */ | tr -d /)"
fi
[ "$(uname -s)" = Linux ] || fail "images are built on Linux, with Debian's package tools: build them there and copy OUTPUT_DIR"
[ -z "${ROOTFS_SIZE:-}" ] || printf '%s: ROOTFS_SIZE has no effect: see --help\n' "$caller" >&2

flags=()
if [ -n "$version" ]; then
  extensions=${SHED_EXT_DIR:-$PWD/target/extensions}/$version
  [ -d "$extensions" ] || fail "there are no extensions of version $version: $extensions is no directory"
  flags=(--ext-dir "$extensions" --ext-version "$version")
fi
if [ "$all" = yes ]; then flags+=(--all); else flags+=("$variant"); fi

export SHED_ARCH=$arch SHED_GUEST_DIR=${OUTPUT_DIR:-$default_dir}
mkdir -p "$SHED_GUEST_DIR" 2>/dev/null || fail "cannot create $SHED_GUEST_DIR; set OUTPUT_DIR to a directory of yours"
[ -w "$SHED_GUEST_DIR" ] || fail "cannot write to $SHED_GUEST_DIR; set OUTPUT_DIR to a directory of yours"
./x guest
exec ./x image "${flags[@]}"
