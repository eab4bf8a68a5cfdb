#!/usr/bin/env bash
# Builds the store of every measurement from names/union.txt, and tells how long that took and how much memory.
#
#   bench/store.sh                              all rules into target/bench/store
#   RULES=2000000 STORE=/tmp/two bench/store.sh     so many of them into another store
set -euo pipefail
cd "$(dirname "$0")/.."

store=${STORE:-target/bench/store}
work=target/bench/build
out=${OUT:-bench/results/build.json}
union=$(realpath target/bench/names/union.txt)
mkdir -p "$work" "$store"
if [ -n "${RULES:-}" ]; then
    awk -v want="$RULES" -v total="$(wc -l < "$union")" 'int(NR * want / total) > int((NR - 1) * want / total)' "$union" > "$work/union.txt"
    union=$(realpath "$work/union.txt")
fi
sed -e "s|@CORES@|0|; s|@LISTEN@|127.0.0.1:5397|; s|@STORE@|$(realpath "$store")|; s|@UPSTREAM@|127.0.0.1:5396|; s|@UNION@|$union|" \
    -e '/^#/d' bench/corewall.toml.in > "$work/corewall.toml"

started=$(date +%s.%N)
target/release/corewall build --store "$store" --config "$work/corewall.toml" &
pid=$!
# The kernel keeps the peak; it is gone with the process, so it is read as long as there is one. Children count beside it.
peak_kib=0
while kib=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status" 2> /dev/null) && [ -n "$kib" ]; do
    peak_kib=$kib
    sleep 0.05
done
wait "$pid"
places_bytes=$(find -L "$store/current" -name '*.places' -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f", sum }')
awk -v started="$started" -v now="$(date +%s.%N)" -v rules="$(wc -l < "$union")" -v peak="$peak_kib" \
    -v bytes="$(($(du -sbL "$store/current" | cut -f1) - places_bytes))" -v places="$places_bytes" -v machine="$(bench/machine.sh)" 'BEGIN {
        printf "{\"rules\":%d,\"seconds\":%.2f,\"peak_kib\":%d,\"store_bytes\":%d,\"bytes_per_rule\":%.1f,\"places_bytes\":%d,%s}\n",
            rules, now - started, peak, bytes, bytes / rules, places, machine }' | tee "$out"
