#!/usr/bin/env bash
# Installs the system packages that building, running and testing Shed need.
#
#   scripts/setup.sh            install what is missing (root, or sudo without a prompt when possible)
#   scripts/setup.sh --tests    the same, and the tools of others that only tests need
#   scripts/setup.sh --check    change nothing; exit 1 when something is missing
#
# Works on Debian 12, Debian 13 and Ubuntu 24.04. Safe to run again: when nothing is missing it only asks dpkg and
# returns. It never asks a question and never upgrades a package that is new enough.
#
# Debian 12 carries a QEMU and an e2fsprogs that are too old; both come from its own backports suite, fetched from the
# mirror this machine already uses. Packages of another release are never installed.
set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

check_only=no for_tests=no
for word in "$@"; do
    case "$word" in
        --check) check_only=yes ;;
        --tests) for_tests=yes ;;
        *) echo "usage: scripts/setup.sh [--tests] [--check]" >&2; exit 2 ;;
    esac
done

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# ---- which system is this -------------------------------------------------------------------------------------------
os_id=unknown os_name=unknown os_codename=""
if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091
    os_id=$(. /etc/os-release && echo "${ID:-unknown}")
    # shellcheck disable=SC1091
    os_name=$(. /etc/os-release && echo "${PRETTY_NAME:-${ID:-unknown}}")
    # shellcheck disable=SC1091
    os_codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
elif [ "$(uname -s)" = Darwin ]; then
    os_name="macOS $(sw_vers -productVersion 2>/dev/null || true)"
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "$os_name has no apt: this script knows Debian 12, Debian 13 and Ubuntu 24.04 only.
       Install these yourself: QEMU 8.2 or newer for x86-64, mmdebstrap, e2fsprogs, kmod, xz,
       zstd, jq, curl, git, nftables, a C toolchain, pkg-config, virtiofsd 1.13 or newer and cargo-nextest."
fi

# ---- what is needed -------------------------------------------------------------------------------------------------
# One line each: package [minimum version]. "a|b" is satisfied by either name; the first one the archive has is installed.
#   qemu-system-x86   the VMM of the qemu backend; its firmware (seabios, linuxboot_dma.bin) and slirp are hard dependencies
#   qemu-utils        qemu-img
#   mmdebstrap        builds guest images; debian-archive-keyring verifies what it downloads, uidmap lets a user run it
#   e2fsprogs         mke2fs for the empty disks of sheds; debugfs and e2fsck look into images in tests
#   kmod              depmod for the module tree of the initramfs
#   nftables          nft: rules of the bridge of Firecracker's machines
#   busybox-static    the smallest image a test boots: one static program
#   python3-venv      the API's fuzzer and SSH's other clients, each in an environment of its own
#   rsync, tmux       clients of a shed that the tests drive, and the terminal they drive them in
#   build-essential   crates with C parts, and libc.a for the static programs of the guest
needed=(
    "qemu-system-x86"
    "qemu-utils"
    "qemu-system-data"
    "seabios"
    "mmdebstrap"
    "debian-archive-keyring"
    "uidmap"
    "e2fsprogs"
    "kmod"
    "nftables"
    "busybox-static"
    "xz-utils"
    "zstd"
    "build-essential"
    "pkg-config|pkgconf"
    "ca-certificates"
    "curl"
    "git"
    "jq"
    "openssh-client"
    "python3-venv"
    "rsync"
    "tmux"
    "procps"
    "util-linux"
)
# Only for tests:
#   docker-registry   a real registry; apache2-utils and openssl make passwords, tokens and certificates for it
#   skopeo, umoci     make images and say what is in them
#   buildah, crun     build Dockerfiles
#   iproute2          ip, which lays out networks for the tests of the bridge and says what became of them
#   openssh-server    git's server over SSH; the tests start one of their own on a port of their own
for_tests_alone=(
    "docker-registry"
    "apache2-utils"
    "openssl"
    "skopeo"
    "umoci"
    "buildah"
    "crun|runc"
    "iproute2"
    "openssh-server"
)
[ "$for_tests" = no ] || needed+=("${for_tests_alone[@]}")

# Packages which Debian 12 must take from backports, with the version that makes them new enough.
backports_suite="" backports=()
if [ "$os_id" = debian ] && [ "$os_codename" = bookworm ]; then
    backports_suite=bookworm-backports
    backports=(
        "qemu-system-x86 1:10.0~"
        "qemu-utils 1:10.0~"
        "qemu-system-data 1:10.0~"
        "e2fsprogs 1.47.1~"
    )
fi

# ---- what is missing ------------------------------------------------------------------------------------------------
declare -A installed=()
read_installed() {
    installed=()
    local name version status
    while read -r name version status; do
        # The first letter is what is wanted (i, or h for a package on hold), the second what is there.
        case "$status" in ?i) installed[$name]=$version ;; esac
    done < <(dpkg-query -W -f='${Package} ${Version} ${db:Status-Abbrev}\n' 2>/dev/null)
}

# Sets missing=(names…) and missing_backports=(names…).
find_missing() {
    read_installed
    missing=() missing_backports=()
    local line name alternatives alternative found minimum
    local -A from_backports=()
    for line in ${backports[@]+"${backports[@]}"}; do
        read -r name minimum <<<"$line"
        from_backports[$name]=1
        if [ -z "${installed[$name]:-}" ] || dpkg --compare-versions "${installed[$name]}" lt "$minimum"; then
            missing_backports+=("$name")
        fi
    done
    for line in "${needed[@]}"; do
        [ -n "${from_backports[$line]:-}" ] && continue
        IFS='|' read -ra alternatives <<<"$line"
        found=no
        for alternative in "${alternatives[@]}"; do
            [ -n "${installed[$alternative]:-}" ] && found=yes
        done
        [ "$found" = yes ] || missing+=("$line")
    done
}

have_nextest() {
    command -v cargo-nextest >/dev/null || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-nextest" ]
}

# Shares host directories with machines. Older versions, and QEMU's own program of this name, map no owners.
virtiofsd_minimum=1.13
have_virtiofsd() {
    local place version
    for place in "$(command -v virtiofsd || true)" /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd /usr/lib/virtiofsd \
        "${CARGO_HOME:-$HOME/.cargo}/bin/virtiofsd"; do
        [ -x "$place" ] || continue
        version=$("$place" --version 2>/dev/null | sed -n 's/^virtiofsd \([0-9][0-9.]*\).*/\1/p')
        [ -n "$version" ] && dpkg --compare-versions "$version" ge "$virtiofsd_minimum" && return 0
    done
    return 1
}

# The release's own package where that is new enough; Debian 12 has none, and another release's must not be taken.
virtiofsd_is_packaged() {
    local policy candidate
    [ -z "$backports_suite" ] || return 1
    policy=$(apt-cache policy virtiofsd 2>/dev/null || true)
    candidate=$(sed -n 's/^  Candidate: \([0-9].*\)/\1/p' <<<"$policy")
    [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$virtiofsd_minimum"
}

# Stands in for Firecracker's vsock device in tests of machines that need no Firecracker. No release packages it.
have_vsock_device() {
    [ "$for_tests" = no ] || command -v vhost-device-vsock >/dev/null ||
        [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/vhost-device-vsock" ]
}

find_missing
if [ "$check_only" = yes ]; then
    lacking=("${missing[@]+"${missing[@]}"}" "${missing_backports[@]+"${missing_backports[@]}"}")
    have_nextest || lacking+=("cargo-nextest")
    have_virtiofsd || lacking+=("virtiofsd")
    have_vsock_device || lacking+=("vhost-device-vsock")
    if [ ${#lacking[@]} -gt 0 ]; then
        fail "missing: ${lacking[*]} (run scripts/setup.sh)"
    fi
    exit 0
fi

# ---- install --------------------------------------------------------------------------------------------------------
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=DEBIAN_FRONTEND,LC_ALL "$@"
    else
        fail "must be root to run: $* (and there is no sudo)"
    fi
}

apt_get() { as_root apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }

# A broken third-party source must not stop us: what we need comes from the distribution's own.
apt_update() {
    say "apt-get update"
    apt_get update >&2 || say "warning: some package sources could not be refreshed; going on with the others"
}

# Prints "URI<TAB>keyring" of the archive this machine already takes its release from.
release_source() {
    # shellcheck disable=SC2016 # $(…) is apt's own template syntax
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v codename="$os_codename" '$1 == codename && $2 == "main" && !found { print $3; found = 1 }'
}

suite_configured() {
    local codenames
    # shellcheck disable=SC2016
    codenames=$(apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' 2>/dev/null || true)
    grep -qx "$1" <<<"$codenames"
}

add_backports() {
    suite_configured "$backports_suite" && return 0
    local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    local file=/etc/apt/sources.list.d/shed-backports.sources
    uri=$(release_source)
    [ -n "$uri" ] || fail "no package source for $os_codename main is configured on this machine; cannot find its mirror for $backports_suite"
    say "adding $backports_suite of $uri to the package sources ($file)"
    # Backports have priority 100: nothing is taken from there unless it is asked for by name.
    as_root tee "$file" >/dev/null <<SOURCES
# Added by Shed's scripts/setup.sh for a newer QEMU and e2fsprogs. Used only for packages asked for by name.
Types: deb
URIs: $uri
Suites: $backports_suite
Components: main
Signed-By: $keyring
SOURCES
    apt_update
    suite_configured "$backports_suite" ||
        fail "$uri has no $backports_suite; add another mirror of it to /etc/apt/sources.list.d and run this again"
}

# Of "a|b" prints the first name the archive can install.
installable() {
    local alternatives alternative policy
    IFS='|' read -ra alternatives <<<"$1"
    for alternative in "${alternatives[@]}"; do
        # Into a variable first: grep -q would leave apt-cache writing into a closed pipe.
        policy=$(apt-cache policy "$alternative" 2>/dev/null || true)
        if grep -q 'Candidate: [^(]' <<<"$policy"; then
            echo "$alternative"
            return 0
        fi
    done
    fail "no package source of this machine has ${1//|/ or }"
}

if [ ${#missing[@]} -gt 0 ] || [ ${#missing_backports[@]} -gt 0 ]; then
    say "$os_name: missing packages: ${missing[*]-} ${missing_backports[*]-}"
    apt_update
    if [ ${#missing_backports[@]} -gt 0 ]; then
        add_backports
        say "installing from $backports_suite: ${missing_backports[*]}"
        apt_get install -y --no-install-recommends -t "$backports_suite" "${missing_backports[@]}" >&2 ||
            fail "apt-get could not install ${missing_backports[*]} from $backports_suite"
        find_missing
    fi
    names=()
    for line in ${missing[@]+"${missing[@]}"}; do
        name=$(installable "$line")
        names+=("$name")
    done
    if [ ${#names[@]} -gt 0 ]; then
        say "installing: ${names[*]}"
        apt_get install -y --no-install-recommends "${names[@]}" >&2 ||
            fail "apt-get could not install ${names[*]}"
        # The program is wanted, not a registry that runs on this machine from now on.
        if [[ " ${names[*]} " == *" docker-registry "* ]] && [ -d /run/systemd/system ]; then
            as_root systemctl disable --quiet --now docker-registry.service >&2 || true
        fi
    fi
    find_missing
    if [ ${#missing[@]} -gt 0 ] || [ ${#missing_backports[@]} -gt 0 ]; then
        fail "still missing after apt-get: ${missing[*]-} ${missing_backports[*]-}"
    fi
fi

if ! have_nextest; then
    command -v cargo >/dev/null || fail "there is no cargo; install the Rust toolchain, then run this again"
    say "building cargo-nextest with cargo install (a few minutes, once)"
    cargo install --locked cargo-nextest >&2 || fail "cargo install cargo-nextest failed"
fi
if ! have_virtiofsd; then
    if virtiofsd_is_packaged; then
        say "installing: virtiofsd"
        apt_get install -y --no-install-recommends virtiofsd >&2 || fail "apt-get could not install virtiofsd"
    else
        command -v cargo >/dev/null || fail "there is no cargo; install the Rust toolchain, then run this again"
        apt_get install -y --no-install-recommends libcap-ng-dev libseccomp-dev >&2 ||
            fail "apt-get could not install libcap-ng-dev and libseccomp-dev"
        say "building virtiofsd with cargo install (some minutes, once)"
        cargo install --locked virtiofsd >&2 || fail "cargo install virtiofsd failed"
    fi
    have_virtiofsd || fail "virtiofsd is still missing, or older than $virtiofsd_minimum"
fi
if ! have_vsock_device; then
    command -v cargo >/dev/null || fail "there is no cargo; install the Rust toolchain, then run this again"
    say "building vhost-device-vsock with cargo install (a minute, once)"
    cargo install --locked --version 0.3.0 vhost-device-vsock >&2 || fail "cargo install vhost-device-vsock failed"
fi
say "all packages are there"
