#!/usr/bin/env bash
# The figures behind the values in tuning/: each is measured with the value and without. For root, on loopback; every setting is put
# back at the end. Writes one JSON object to results/tuning.json.
#
#   bench/tuning.sh                     all of it, 3 minutes
#   bench/tuning.sh buffers clock       some of it: buffers backlog budget clock pages needs memlock io_uring
#   PORT=5310 OUT=/tmp/tuning.json bench/tuning.sh
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-bench/results/tuning.json}
port=${PORT:-5310}
corewall=$PWD/target/release/corewall
load=$PWD/target/release/load
tuning=$PWD/target/release/tuning
[ $# -gt 0 ] || set -- buffers backlog budget clock pages needs memlock io_uring
[ "$(id -u)" -eq 0 ] || { echo "tuning.sh: changes settings of the kernel; run it as root" >&2; exit 2; }

work=$(mktemp -d /tmp/corewall-tuning-XXXXXX)
clocksource=/sys/devices/system/clocksource/clocksource0/current_clocksource
pages=/sys/kernel/mm/transparent_hugepage/enabled
steering=/sys/class/net/lo/queues/rx-0/rps_cpus
settings=(net.core.rmem_max net.core.netdev_max_backlog net.core.netdev_budget kernel.io_uring_disabled)
declare -A before
for setting in "${settings[@]}"; do before[$setting]=$(sysctl -n "$setting"); done
clock_before=$(cat "$clocksource")
pages_before=$(sed 's/.*\[\(.*\)\].*/\1/' "$pages")
steering_before=$(cat "$steering")
servers=()

stop() { # one server, until its end
    kill "$1" 2> /dev/null || true
    while kill -0 "$1" 2> /dev/null; do sleep 0.02; done
}
clean() {
    for server in "${servers[@]}"; do stop "$server"; done
    for setting in "${settings[@]}"; do sysctl -qw "$setting=${before[$setting]}"; done
    echo "$clock_before" > "$clocksource"
    echo "$pages_before" > "$pages"
    echo "$steering_before" > "$steering"
    rm -rf "$work"
}
trap clean EXIT

figures=()
tell() { figures+=("\"$1\":$2"); echo "$1 $2"; }

# A store of so many shards with names to ask for.
build() {
    [ -f "$work/list" ] || awk 'BEGIN { for (i = 0; i < 100000; i++) printf "w%d.tracker%d.com\n", i, i % 997 }' > "$work/list"
    [ -f "$work/names" ] || awk 'NR <= 20000 { print $1, "A blocked" }' "$work/list" > "$work/names"
    [ -d "$work/store-$1" ] || "$corewall" build --store "$work/store-$1" --list "plain:$work/list" --shards "$1" > "$work/build.log"
}
# serve NAME CORES SHARDS PORT OPTIONS [COMMAND...]: starts a server under a command; its process is $pid. Fails when it ends.
serve() {
    local name=$1 cores=$2 shards=$3 at=$4 options=$5
    shift 5
    printf 'cores = "%s"\nlisten = ["127.0.0.1:%s"]\nstore = "%s"\ncontrol_socket = ""\n%s\n' \
        "$cores" "$at" "$work/store-$shards" "$options" > "$work/$name.toml"
    : > "$work/$name.log"
    chmod -R a+rX "$work"
    "$@" "$corewall" serve --config "$work/$name.toml" > "$work/$name.log" 2>&1 &
    pid=$!
    servers+=("$pid")
    until grep -q '^ready' "$work/$name.log"; do kill -0 "$pid" 2> /dev/null || return 1; sleep 0.02; done
}
figure() { sed -n "s/^ *\"$1\": \([0-9.]*\),*$/\1/p" "$2" | head -n 1; }
# Column of /proc/net/softnet_stat, over all cores: 2 dropped, 3 rounds that ended with work left.
softnet() { local sum=0 word; while read -r word; do sum=$((sum + 0x$word)); done < <(awk -v column="$1" '{ print $column }' /proc/net/softnet_stat); echo "$sum"; }

# A worker that is held up for 20 ms ten times, at 100,000 questions a second, with the system's usual buffer and with that of tuning/.
buffers() {
    for bytes in 212992 4194304; do
        sysctl -qw net.core.rmem_max="$bytes"
        tell "datagrams_held_of_$bytes" "$("$tuning" hold --bytes "$bytes")"
        serve stall 0 16 "$port" 'store_readers = 0' env
        "$load" --server "127.0.0.1:$port" --names "$work/names" --rate 100000 --seconds 4 --window 8192 --timeout-ms 500 --core 1 --spin --json \
            > "$work/load.json" 2> "$work/load.log" &
        local asking=$!
        sleep 1
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -STOP "$pid"; sleep 0.02; kill -CONT "$pid"; sleep 0.2; done
        wait "$asking" || true
        tell "lost_in_10_stalls_of_20_ms_with_$bytes" "$(figure lost "$work/load.json")"
        stop "$pid"
    done
}

# Bursts of 4,000 that another core takes in: what overflows between the two.
backlog() {
    echo 2 > "$steering"
    for packets in 1000 16384; do
        sysctl -qw net.core.netdev_max_backlog="$packets"
        local dropped; dropped=$(softnet 2)
        echo "backlog $packets: $("$tuning" burst --core 0)"
        tell "dropped_of_400000_with_backlog_$packets" $(($(softnet 2) - dropped))
    done
    echo "$steering_before" > "$steering"
}

# Full load with packets handed to the worker's core, by the size of a round; and without handing them over.
budget() {
    sysctl -qw net.core.netdev_max_backlog=16384
    serve budget 0 16 "$port" 'store_readers = 0' env
    local round mask packets name turn=0
    for round in '0 300' '1 300' '1 600' '0 600' '1 600' '1 300' '0 300'; do
        read -r mask packets <<< "$round"
        echo "$mask" > "$steering"
        sysctl -qw net.core.netdev_budget="$packets"
        local squeezed dropped; squeezed=$(softnet 3) dropped=$(softnet 2)
        "$load" --server "127.0.0.1:$port" --names "$work/names" --seconds 5 --window 1024 --core 1 --spin --server-pid "$pid" --json > "$work/load.json" || true
        name="turn_$((turn += 1))_steered_${mask}_budget_${packets}"
        tell "${name}_answers" "$(figure answered "$work/load.json")"
        tell "${name}_server_cpu_us" "$(figure server_cpu_us_per_answer "$work/load.json")"
        tell "${name}_client_cpu_us" "$(figure client_cpu_us_per_answer "$work/load.json")"
        tell "${name}_rounds_cut" $(($(softnet 3) - squeezed))
        tell "${name}_dropped" $(($(softnet 2) - dropped))
    done
    stop "$pid"
    echo "$steering_before" > "$steering"
}

clock() {
    local clock clocks
    read -ra clocks < /sys/devices/system/clocksource/clocksource0/available_clocksource
    for clock in "${clocks[@]}"; do
        echo "$clock" > "$clocksource"
        tell "clock_ns_${clock//-/_}" "$("$tuning" clock)"
    done
    echo "$clock_before" > "$clocksource"
}

# A cache of 256 MiB read at random. `always` is what `madvise` gives a program that asks for it.
pages() {
    local choice turn=0
    for choice in never always never always; do
        echo "$choice" > "$pages"
        tell "turn_$((turn += 1))_read_ns_huge_pages_$choice" "$("$tuning" walk)"
    done
    echo "$pages_before" > "$pages"
}

# Files and mappings of a server that has answered names of every shard.
needs() {
    local shards cores readers
    for shards in 16 256 1024; do
        build "$shards"
        for cores in 0 0-1; do
            for readers in 2 0; do
                serve needs "$cores" "$shards" "$port" "store_readers = $readers" env
                "$load" --server "127.0.0.1:$port" --names "$work/names" --each-once --window 32 --sockets 8 > /dev/null 2>&1 || true
                tell "files_${shards}_shards_cores_${cores}_readers_$readers" "$(find "/proc/$pid/fd" -mindepth 1 | wc -l)"
                tell "mappings_${shards}_shards_cores_${cores}_readers_$readers" "$(wc -l < "/proc/$pid/maps")"
                stop "$pid"
            done
        done
    done
}

# How many workers of one user start under a limit, two a server: the kernel counts what all processes of a user lock. Root's are not
# counted. Each try has a user of its own, for the last one's memory is given back a while later.
memlock() {
    local user=70000 kib workers started number
    cp "$corewall" "$work/corewall"
    local corewall=$work/corewall
    serve lock 0-1 16 "$port" '' env
    tell "pinned_kib_of_2_workers" "$(awk '$1 == "VmPin:" { print $2 }' "/proc/$pid/status")"
    stop "$pid"
    for kib in 511 512 1024 1536 2048 4096; do
        user=$((user + 1)) workers=0 started=()
        for number in 0 1 2 3; do
            serve "lock$number" 0-1 16 $((port + number)) '' \
                prlimit --memlock=$((kib * 1024)):$((kib * 1024)) setpriv --reuid $user --regid $user --clear-groups || break
            started+=("$pid") workers=$((workers + 2))
        done
        tell "workers_of_a_user_under_${kib}_kib" "$workers"
        for number in "${started[@]}"; do stop "$number"; done
    done
}

io_uring() {
    sysctl -qw kernel.io_uring_disabled=2
    if serve ring 0 16 "$port" '' env; then stop "$pid"; tell starts_without_io_uring true; else tell starts_without_io_uring false; fi
    tail -n 1 "$work/ring.log"
    sysctl -qw kernel.io_uring_disabled="${before[kernel.io_uring_disabled]}"
}

build 16
for what; do
    case $what in
        buffers | backlog | budget | clock | pages | needs | memlock | io_uring) "$what" ;;
        *) echo "tuning.sh: there is no measurement \`$what\`" >&2; exit 2 ;;
    esac
done
figures+=("$(bench/machine.sh)")
(IFS=,; printf '{%s}\n' "${figures[*]}") > "$out"
