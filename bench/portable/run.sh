#!/usr/bin/env bash
# Measures Corewall on this machine with the binaries beside this script: scaling, latency, and CPU per answer against the floor.
# No toolchain, no root, no network. What it writes lies in ./results, or the folder OUT.
#
#   ./run.sh                           some 15 minutes on 2 cores, 30 on 32
#   QUICK=1 ./run.sh                   two minutes, to see that it works; its figures are worth little
#   WORKERS=1,2,4 ROUNDS=3 WAIT=spin ./run.sh
#   ONLY="scaling latency" PORT=5399 MINUTES_MAX=20 ./run.sh     MINUTES_MAX is for each tool
#
# Exit code 0: everything ran and what is held is so; 1: something is not so, the tools say what; 2: something could not be run.
set -euo pipefail
start=$PWD
cd "$(dirname "$0")"

stop() { echo "run.sh: $*" >&2; exit 2; }
rounds=${ROUNDS:-5} seconds=3 idle_seconds=5 warm_up=3 names_max=50000
if [ -n "${QUICK:-}" ]; then rounds=1 seconds=1 idle_seconds=1 warm_up=1 names_max=5000; fi
workers=${WORKERS:-1,2,4,8,16}
only=${ONLY:-scaling latency compare}
port=${PORT:-5399}
minutes_max=${MINUTES_MAX:-30}
out=${OUT:-$PWD/results}
case $out in /*) ;; *) out=$start/$out ;; esac
mkdir -p "$out" || stop "cannot write to $out; name another folder by OUT"
work=$(mktemp -d -t corewall-bench.XXXXXX)
trap 'rm -rf -- "$work"' EXIT

for needed in taskset timeout nproc awk; do
    command -v "$needed" > /dev/null || stop "$needed is missing; it comes with every distribution (util-linux, coreutils, awk)"
done
export PATH=$PWD/bin:$PATH LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
COREWALL_BENCH_COMMIT=$(cat commit)
export COREWALL_BENCH_COMMIT
said=$(bin/corewall --version 2>&1) || stop "the binary does not run here (built against $(cat built-against)): $said"

# The cores that this process may use, one a line.
cores=$(taskset -cp $$ | sed 's/.*: //' | tr , '\n' | awk -F- '{ for (core = $1; core <= (NF > 1 ? $2 : $1); core++) print core }')
[ "$(wc -l <<< "$cores")" -ge 2 ] || stop "server and load need a core each, and this process may use one only"
server_core=$(head -n 1 <<< "$cores")
siblings=$(cat "/sys/devices/system/cpu/cpu$server_core/topology/thread_siblings_list" 2> /dev/null || echo "$server_core")
siblings=$(tr , '\n' <<< "$siblings" | awk -F- '{ for (core = $1; core <= (NF > 1 ? $2 : $1); core++) print core }')
# Not the other thread of the server's physical core, if there is another one.
client_core=$(grep -vxF "$siblings" <<< "$cores" | head -n 1 || true)
[ -n "$client_core" ] || client_core=$(sed -n 2p <<< "$cores")

echo "run.sh: $said, commit $COREWALL_BENCH_COMMIT; $(wc -l <<< "$cores") cores, server on $server_core, load on $client_core; results in $out"
{
    echo "commit $COREWALL_BENCH_COMMIT"
    uname -a
    awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo
    echo "cores $(tr '\n' ' ' <<< "$cores")"
    for file in /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor /sys/devices/system/cpu/smt/active /sys/devices/system/node/online \
        /proc/sys/net/core/rmem_max /proc/sys/net/core/netdev_max_backlog; do
        [ ! -r "$file" ] || echo "$file $(cat "$file")"
    done
} > "$out/machine.txt"

common=(--corewall bin/corewall --names names --store store --listen "127.0.0.1:$port")
pair=(--server-core "$server_core" --client-core "$client_core" --upstream "127.0.0.1:$((port - 1))" --rounds "$rounds" --seconds "$seconds")
wait_option=()
[ -z "${WAIT:-}" ] || wait_option=(--wait "$WAIT")
worst=0
measure() {
    local name=$1 code=0
    shift
    [[ " $only " == *" $name "* ]] || return 0
    echo "run.sh: $name"
    timeout --kill-after=30 $((minutes_max * 60)) "bin/$name" "$@" --work "$work/$name" --out "$out/$name.json" > "$out/$name.txt" 2>&1 || code=$?
    case $code in
        0) echo "run.sh: $name is done" ;;
        1) echo "run.sh: $name is done; not all of it is as it has to be, see $out/$name.txt" ;;
        *)
            echo "run.sh: $name could not be run ($code); the end of $out/$name.txt:" >&2
            tail -n 5 "$out/$name.txt" >&2
            code=2
            ;;
    esac
    # The tables, without the lines of single rounds.
    sed -n '/^$/,$p' "$out/$name.txt"
    [ "$code" -le "$worst" ] || worst=$code
}

measure scaling "${common[@]}" --workers "$workers" --rounds "$rounds" --seconds "$seconds" --warm-up-seconds "$warm_up" --names-max "$names_max" "${wait_option[@]}"
measure latency "${common[@]}" "${pair[@]}" --idle-seconds "$idle_seconds" --names-max "$names_max" "${wait_option[@]}"
measure compare "${common[@]}" "${pair[@]}"
exit "$worst"
