#!/usr/bin/env bash
# What a slow disk does to answers that need none of it: a store on a device that is held to so many reads a second, cached
# questions at a fixed rate, and beside them questions for blocked names whose pages are not in memory. One worker. For root, on
# a machine with loop devices and blkio throttling (control groups v1). Writes one JSON object a binary.
#
#   bench/cold.sh                                        the release binary
#   bench/cold.sh /tmp/corewall-before target/release/corewall     two, to be compared
#   READS=100 RATE=5000 COLD_RATES="30 300" SECONDS_EACH=10 bench/cold.sh
set -euo pipefail
cd "$(dirname "$0")/.."

reads=${READS:-100}                     # a second: 100 are 10 ms each
rate=${RATE:-5000}                      # cached questions a second
cold_rates=${COLD_RATES:-"30 300"}      # questions a second for names that are not in memory
seconds=${SECONDS_EACH:-10}
rules=${RULES:-target/bench/names/union.txt}
out=${OUT:-bench/results/cold.json}
load=${LOAD:-target/release/load}
[ $# -gt 0 ] || set -- target/release/corewall
work=$(mktemp -d /tmp/corewall-cold-XXXXXX)
group=/sys/fs/cgroup/blkio/corewall-cold-$$
device='' server=''

clean() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true
    [ ! -d "$group" ] || rmdir "$group" || true
    mountpoint -q "$work/slow" && umount "$work/slow"
    [ -z "$device" ] || losetup -d "$device"
    rm -rf "$work"
}
trap clean EXIT

# The store, on a file system of its own.
mkdir "$work/slow"
truncate -s 2G "$work/disk"
device=$(losetup --find --show --direct-io=on "$work/disk")
mkfs.ext4 -q "$device"
mount -o noatime "$device" "$work/slow"
# Addresses are in real lists too, and are no names.
grep -v '^[0-9.]*$' "$rules" | shuf --random-source=<(yes) > "$work/shuffled"
head -n 2000 "$work/shuffled" | sed 's/$/ A blocked/' > "$work/cached"
sed -n '2001,202000s/$/ A blocked/p' "$work/shuffled" > "$work/cold"
sed -e "s|@CORES@|0|; s|@LISTEN@|127.0.0.1:5395|; s|@STORE@|$work/slow/store|; s|@UPSTREAM@|127.0.0.1:5396|; s|@UNION@|$(realpath "$rules")|" \
    -e '/^#/d' bench/corewall.toml.in > "$work/corewall.toml"
"$1" build --store "$work/slow/store" --config "$work/corewall.toml" > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 2; }
sync

mkdir "$group"
echo "$((0x$(stat -c %t "$device"))):$((0x$(stat -c %T "$device"))) $reads" > "$group/blkio.throttle.read_iops_device"

ask() { taskset -c 1 "$load" --server 127.0.0.1:5395 --json "$@"; }
figures() { sed -n '/"phases"/,$d; s/^ *"\(sent\|answered\|wrong\|lost\|us_p50\|us_p99\|us_p999\|us_max\)": \([0-9.]*\),*$/"\1":\2/p' "$1" | paste -sd, ; }
counted() { grep -o "\b\(store_[a-z_]*\|servfail\|blocked\)=[0-9]*" "$1" | sed 's/\(.*\)=\(.*\)/"\1":\2/' | paste -sd, ; }

for binary; do
    # Nobody waits while it starts: what it starts with is read at full speed.
    "$binary" serve --config "$work/corewall.toml" > "$work/serve.log" 2>&1 &
    server=$!
    until grep -q '^ready' "$work/serve.log"; do kill -0 "$server"; sleep 0.05; done
    ask --names "$work/cached" --each-once --window 32 > "$work/warm.json" || cat "$work/warm.json" >&2
    for thread in /proc/$server/task/*; do echo "${thread##*/}" > "$group/tasks"; done
    # What was read while it started is to be read again.
    sync; echo 1 > /proc/sys/vm/drop_caches
    ask --names "$work/cached" --rate "$rate" --seconds "$seconds" > "$work/alone.json" || true
    runs=''
    for cold_rate in $cold_rates; do
        echo 1 > /proc/sys/vm/drop_caches
        ask --names "$work/cold" --rate "$cold_rate" --seconds $((seconds + 2)) --seed "$cold_rate" > "$work/cold.json" &
        colder=$!
        sleep 1
        ask --names "$work/cached" --rate "$rate" --seconds "$seconds" > "$work/beside.json" || true
        wait "$colder" || true
        runs="$runs${runs:+,}{\"cold_rate\":$cold_rate,\"cached\":{$(figures "$work/beside.json")},\"cold\":{$(figures "$work/cold.json")}}"
    done
    kill "$server"; wait "$server" || true
    server=''
    printf '{"binary":"%s","reads_per_second":%d,"cached_rate":%d,"alone":{%s},"beside":[%s],"counted":{%s},%s}\n' \
        "$("$binary" --version | tr -d '"')" "$reads" "$rate" "$(figures "$work/alone.json")" "$runs" "$(counted "$work/serve.log")" "$(bench/machine.sh)"
done > "$out"
cat "$out"
