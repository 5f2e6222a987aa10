#!/bin/sh
# Builds the three static programs of the guest: shed-init, shed-agent and shed-ext.
#
#   scripts/build-guest-bins.sh [amd64|arm64] [OUT_DIR]
#
# They end up in OUT_DIR, by default below cargo's target directory; the last line printed names that directory.
# Another architecture needs its Rust target and its cross compiler (Debian: gcc-aarch64-linux-gnu).
set -eu

host=$(uname -m)
case "${1:-}" in
    "") case "$host" in x86_64) arch=amd64 ;; aarch64 | arm64) arch=arm64 ;; *) arch=$host ;; esac ;;
    *) arch=$1 ;;
esac
case "$arch" in
    amd64) cpu=x86_64 ;;
    arm64) cpu=aarch64 ;;
    *)
        echo "build-guest-bins: $arch is not amd64 or arm64" >&2
        exit 2
        ;;
esac
target=$cpu-unknown-linux-gnu
tools=""
if [ "$host" != "$cpu" ]; then
    tools=$cpu-linux-gnu-
    linker=CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER
    export "$linker=${tools}gcc"
fi

cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-target}
# A target directory of its own: these flags would otherwise make cargo build everything else again.
target_dir=$target_dir/guest-bins
out=${2:-$target_dir/$arch}

# With an explicit --target the flags stay away from build scripts and procedural macros, which cannot be static.
# Symbols are kept for the check below and stripped after it.
RUSTFLAGS='-C target-feature=+crt-static' CARGO_PROFILE_GUEST_STRIP=none \
    cargo build --locked --profile guest --target "$target" --target-dir "$target_dir" -p shed-agent -p shed-init -p shed-ext >&2

mkdir -p "$out"
for program in shed-init shed-agent shed-ext; do
    built=$target_dir/$target/guest/$program
    # A static glibc loads the image's NSS libraries for these and crashes: none may be linked in.
    symbols=$("${tools}nm" "$built")
    if echo "$symbols" |
        grep -E ' [TtWw] (getaddrinfo|getpw|getgr(nam|gid|ent|ouplist)|gethostby|initgroups)' >&2; then
        echo "build-guest-bins: $program must not contain the functions above" >&2
        exit 1
    fi
    "${tools}strip" -o "$out/.$program.new" "$built"
    # The same bytes keep their time, so that nothing is rebuilt from them.
    if cmp -s "$out/.$program.new" "$out/$program"; then
        rm "$out/.$program.new"
    else
        mv "$out/.$program.new" "$out/$program"
    fi
done
echo "$out"
