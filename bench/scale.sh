#!/usr/bin/env bash
# A store of a hundred million rules, or of any number: how it is built, how it starts, and how it answers random listed names.
#
#   bench/scale.sh                                              105 million made-up names, layout sql
#   NAMES=1050000000 LAYOUT=packed MEMORY=8G OUT=bench/results/scale-1g.json bench/scale.sh
#
# Some names come twice: a few more are made than there are to be rules. Every question is asked once, so no answer comes from the
# response cache. Writes one JSON object to OUT. As root it also starts the server with an empty page cache.
# Needs: target/release/{corewall,load,rules}; disk for the list (21 bytes a name), what the build puts aside, and the store.
set -euo pipefail
cd "$(dirname "$0")/.."

names=${NAMES:-105000000}
layout=${LAYOUT:-sql}
memory=${MEMORY:-3G}
shards=${SHARDS:-}
filter_bits=${FILTER_BITS:-8}
cores=${CORES:-0}
load_core=${LOAD_CORE:-1}
rate=${RATE:-50000}
seconds=${SECONDS_RUN:-30}
work=${WORK:-target/bench/scale}
out=${OUT:-bench/results/scale.json}
listen=127.0.0.1:${PORT:-5397}

for needed in target/release/corewall target/release/load target/release/rules; do
    [ -e "$needed" ] || { echo "scale.sh: $needed is missing; cargo build --release --workspace makes it" >&2; exit 2; }
done
mkdir -p "$work"
work=$(realpath "$work")
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true' EXIT

list=$work/names.txt
if [ "$(cat "$work/names.made" 2> /dev/null)" != "$names" ]; then
    echo "scale.sh: making $names names"
    target/release/rules --names "$names" --threads "$(nproc)" > "$list"
    target/release/rules --names "$names" --sample $((rate * seconds * 11 / 10)) --append " A blocked" > "$work/blocked.names"
    echo "$names" > "$work/names.made"
fi
cat > "$work/corewall.toml" <<CONFIG
cores = "$cores"
listen = ["$listen"]
store = "$work/store"
control_socket = "$work/control.sock"

[[list]]
name = "scale"
format = "plain"
path = "$list"
CONFIG

if [ -z "${KEEP_STORE:-}" ]; then
    rm -rf "$work/store"
    echo "scale.sh: building, layout $layout, $memory of memory"
    build=(target/release/corewall build --config "$work/corewall.toml" --json --memory "$memory" --layout "$layout" --filter-bits "$filter_bits")
    [ -z "$shards" ] || build+=(--shards "$shards")
    started=$(date +%s.%N)
    "${build[@]}" > "$work/build.json" &
    pid=$!
    peak_kib=0
    while kib=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status" 2> /dev/null) && [ -n "$kib" ]; do
        peak_kib=$kib
        sleep 0.2
    done
    wait "$pid"
    build_s=$(awk -v started="$started" -v now="$(date +%s.%N)" 'BEGIN { printf "%.1f", now - started }')
    echo "$build_s $peak_kib" > "$work/build.figures"
fi
read -r build_s peak_kib < "$work/build.figures"
rules=$(awk '$1 == "rules" { print $3; exit }' "$work/store/current/manifest.toml")
places_bytes=$(find -L "$work/store/current" -name '*.places' -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f", sum }')
store_bytes=$(($(du -sbL "$work/store/current" | cut -f1) - places_bytes))
filter_bytes=$(cat "$work"/store/current/*.filter | wc -c)

head -1 "$work/blocked.names" > "$work/first.names"
# Milliseconds from the start of the process to its first right answer.
start_server() {
    local started now
    started=$(date +%s%N)
    target/release/corewall serve --config "$work/corewall.toml" > "$work/corewall.log" 2>&1 &
    server=$!
    until target/release/load --server "$listen" --names "$work/first.names" --each-once --timeout-ms 100 > /dev/null 2>&1; do
        kill -0 "$server" 2> /dev/null || { cat "$work/corewall.log" >&2; exit 2; }
    done
    now=$(date +%s%N)
    start_ms=$(((now - started) / 1000000))
}
stop_server() { kill "$server"; wait "$server" || true; server=; }

cold_ms=null
if [ "$(id -u)" = 0 ] && sync && echo 1 2> /dev/null > /proc/sys/vm/drop_caches; then
    start_server
    cold_ms=$start_ms
    stop_server
    # What a server that has run for a while has in memory.
    cat "$work"/store/current/*.db "$work"/store/current/*.filter > /dev/null
fi
start_server
# One worker may have answered before the last one serves.
until grep '^ready' "$work/corewall.log"; do sleep 0.1; done
echo "scale.sh: $rate questions a second for random listed names, $seconds s"
ask() {
    target/release/load --server "$listen" --names "$work/blocked.names" --seconds "$seconds" --rate "$rate" --core "$load_core" \
        --sockets 8 --window 2048 --spin --seed "$1" --json --server-pid "$server" > "$2" || true
}
ask 1 "$work/load.json"
json() { awk -v name="\"$1\":" '$1 == name { gsub(/,/, "", $2); print $2; exit }' "$work/load.json"; }
private_kib=$(awk '$1 == "RssAnon:" { print $2 }' "/proc/$server/status")
awk -v rules="$rules" -v layout="$layout" -v memory="$memory" -v build_s="$build_s" -v peak="$peak_kib" -v bytes="$store_bytes" \
    -v filters="$filter_bytes" -v places="$places_bytes" -v warm="$start_ms" -v cold="$cold_ms" -v private="$private_kib" -v qps="$(json qps)" -v rate="$rate" \
    -v answered="$(json answered)" -v wrong="$(json wrong)" -v lost="$(json lost)" -v p50="$(json us_p50)" -v p99="$(json us_p99)" \
    -v p999="$(json us_p999)" -v cpu="$(json server_cpu_us_per_answer)" -v machine="$(bench/machine.sh)" 'BEGIN {
        printf "{\"rules\":%d,\"layout\":\"%s\",\"build_memory\":\"%s\",\"build_s\":%s,\"build_peak_kib\":%d,\"rules_per_s\":%d,", rules, layout, memory, build_s, peak, rules / build_s
        printf "\"store_bytes\":%.0f,\"bytes_per_rule\":%.2f,\"filter_bytes_per_rule\":%.3f,\"places_bytes_per_rule\":%.2f,", bytes, bytes / rules, filters / rules, places / rules
        printf "\"first_answer_ms\":%d,\"first_answer_cold_ms\":%s,\"private_kib\":%d,\"private_bytes_per_rule\":%.3f,\"private_and_filter_bytes_per_rule\":%.3f,", warm, cold, private, private * 1024 / rules, (private * 1024 + filters) / rules
        printf "\"rate\":%d,\"qps\":%.0f,\"answered\":%d,\"wrong\":%d,\"lost\":%d,\"us_p50\":%.1f,\"us_p99\":%.1f,\"us_p999\":%.1f,\"server_cpu_us_per_answer\":%s,%s}\n", rate, qps, answered, wrong, lost, p50, p99, p999, cpu, machine }' | tee "$out"
stop_server
