#!/usr/bin/env bash
# Builds images, kernel and initramfs for the Firecracker backend (linux/amd64); see --help.
set -euo pipefail
SHED_DOOR=${BASH_SOURCE[0]} exec "$(dirname "${BASH_SOURCE[0]}")/build-rootfs.sh" amd64 /var/lib/shed/firecracker/images "$@"
