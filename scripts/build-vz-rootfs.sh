#!/usr/bin/env bash
# Builds images, kernel and initramfs for the VZ backend: linux/arm64 for Apple silicon, or with `--arch amd64` for Intel; see --help.
set -euo pipefail
SHED_DOOR=${BASH_SOURCE[0]} exec "$(dirname "${BASH_SOURCE[0]}")/build-rootfs.sh" arm64 \
  "$HOME/Library/Application Support/shed/vz" "$@"
