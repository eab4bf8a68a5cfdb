#!/usr/bin/env bash
# Where and when a figure was measured, as members of a JSON object: commit, kernel, CPU model, date (UTC). `compare` writes
# the same of itself.
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git describe --always --dirty 2> /dev/null || true)
# Some kernels tell no model (arm64 has "CPU part" numbers only).
cpu=$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
# Nothing here may end a JSON string.
plain() { printf '%s' "$1" | tr -d '"\\[:cntrl:]'; }
printf '"commit":"%s","kernel":"%s","cpu":"%s","date":"%s"\n' \
    "$(plain "$commit")" "$(plain "$(uname -r)")" "$(plain "${cpu:-unknown CPU}")" "$(date -u +%F)"
