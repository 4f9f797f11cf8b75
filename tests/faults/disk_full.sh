#!/usr/bin/env bash
# The real binary on a disk that becomes full under traffic, and is given space again. Usage: disk_full.sh BINARY
#
# Needs root, to mount a small file system in memory. Without it, nothing is tested, and that is said loudly.
set -euo pipefail

binary=$(realpath "${1:?usage: disk_full.sh BINARY}")
here=$(cd "$(dirname "$0")" && pwd)
disk=$(mktemp -d)
trap 'umount "$disk" 2> /dev/null || true; rmdir "$disk"' EXIT

# Small, so that it is full soon; large enough for some hundred exchanges before.
if ! mount -t tmpfs -o size=16m,mode=700 remora-disk-full "$disk" 2> /dev/null; then
  cat >&2 <<LOUD
******************************************************************************************
*** SKIPPED: a full disk under traffic. It takes root and the right to mount a tmpfs.
******************************************************************************************
LOUD
  exit 0
fi
timeout --signal=KILL 120 python3 "$here/disk_full.py" --remora "$binary" --disk "$disk"
