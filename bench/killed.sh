#!/usr/bin/env bash
# Kills builds and rule changes at random moments, 50 times each kind by default, and looks for what is lost.
#
#   bench/killed.sh             KILLS=50 NAMES=1500000 SEED=1 bench/killed.sh
#
# Builds: `corewall build` of one of two lists is killed (SIGKILL) at a random moment of its usual time; every third time the
# next one goes on with `--resume`. After each kill the store must open, its current generation must be whole (`corewall
# verify`), and what it blocks must be the names of one list, all of a sample of them. Rules: the server is killed while rules are being added
# through it; every rule whose command had come back must block after the restart. Writes one JSON object to OUT.
# Needs: target/release/{corewall,load,rules}.
set -euo pipefail
cd "$(dirname "$0")/.."

kills=${KILLS:-50}
names=${NAMES:-1500000}
out=${OUT:-bench/results/killed.json}
work=${WORK:-target/bench/killed}
port=${PORT:-5397}
RANDOM=${SEED:-1}

for needed in target/release/corewall target/release/load target/release/rules; do
    [ -e "$needed" ] || { echo "killed.sh: $needed is missing; cargo build --release --workspace makes it" >&2; exit 2; }
done
rm -rf "$work"
mkdir -p "$work"
work=$(realpath "$work")
server=
trap '[ -z "$server" ] || kill -9 "$server" 2> /dev/null || true' EXIT
corewall=target/release/corewall
lost_stores=0 lost_rules=0

for list in a b; do
    # Seeds that share no name but by chance.
    [ "$list" = a ] && seed=11 || seed=22
    target/release/rules --names "$names" --seed $seed > "$work/$list.txt"
    target/release/rules --names "$names" --seed $seed --sample 500 --append " A blocked" > "$work/$list.names"
    cat > "$work/$list.toml" <<CONFIG
cores = "0"
listen = ["127.0.0.1:$port"]
store = "$work/store"
control_socket = "$work/control.sock"
[[list]]
name = "list-$list"
format = "plain"
path = "$work/$list.txt"
CONFIG
done
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# A number of thousandths of a second below $1 of them, for sleep.
moment() { awk -v ms="$1" -v draw="$RANDOM$RANDOM" 'BEGIN { printf "%.3f", (draw % 100000) / 100000 * ms / 1000 }'; }
start_server() {
    "$corewall" serve --config "$work/a.toml" > "$work/corewall.log" 2>&1 &
    server=$!
    until grep -q '^ready' "$work/corewall.log"; do
        kill -0 "$server" 2> /dev/null || { cat "$work/corewall.log" >&2; return 1; }
    done
}

started=$(now_ms)
"$corewall" build --config "$work/a.toml" > "$work/build.log"
build_ms=$(($(now_ms) - started))
current=a killed_builds=0 ended_builds=0 resumed=0
echo "killed.sh: a build takes $build_ms ms; killing $kills of them"
for turn in $(seq "$kills"); do
    next=b resume=()
    [ "$current" = b ] && next=a
    if [ $((turn % 3)) = 0 ]; then
        resume=(--resume)
        resumed=$((resumed + 1))
    fi
    before=$(readlink "$work/store/current")
    "$corewall" build --config "$work/$next.toml" "${resume[@]}" > "$work/build.log" 2>&1 &
    pid=$!
    sleep "$(moment "$build_ms")"
    kill -9 "$pid" 2> /dev/null || true
    code=0
    wait "$pid" 2> /dev/null || code=$?
    # Anything but our signal or success is a build that failed by itself.
    case $code in
        0) ended_builds=$((ended_builds + 1)) ;;
        137) killed_builds=$((killed_builds + 1)) ;;
        *) echo "killed.sh: turn $turn: the build failed" >&2; cat "$work/build.log" >&2; exit 1 ;;
    esac
    # A build that was through before it was killed has published its list.
    [ "$(readlink "$work/store/current")" = "$before" ] || current=$next
    if ! "$corewall" verify --config "$work/$current.toml" > "$work/verify.log" 2>&1; then
        echo "killed.sh: turn $turn: the store is not whole" >&2
        cat "$work/verify.log" >&2
        lost_stores=$((lost_stores + 1))
    elif [ $((turn % 5)) = 0 ]; then
        start_server
        target/release/load --server "127.0.0.1:$port" --names "$work/$current.names" --each-once > "$work/load.log" || {
            echo "killed.sh: turn $turn: the store does not block its list" >&2
            lost_stores=$((lost_stores + 1))
        }
        kill "$server"; wait "$server" || true; server=
    fi
done
"$corewall" build --config "$work/a.toml" --resume > "$work/build.log"
"$corewall" verify --config "$work/a.toml" > "$work/verify.log"

echo "killed.sh: killing the server $kills times while rules are added"
acknowledged=0
: > "$work/rules.names"
for turn in $(seq "$kills"); do
    start_server
    # Each name is noted only when its command has come back.
    (
        place=0
        while place=$((place + 1)) && kill -0 "$server" 2> /dev/null && "$corewall" rule add "k$turn-$place.killed.example" --config "$work/a.toml" > /dev/null 2>&1; do
            echo "k$turn-$place.killed.example A blocked" >> "$work/rules.names"
        done
    ) &
    adder=$!
    sleep "$(moment 600)"
    kill -9 "$server"
    wait "$server" 2> /dev/null || true
    wait "$adder" || true
done
acknowledged=$(wc -l < "$work/rules.names")
start_server
target/release/load --server "127.0.0.1:$port" --names "$work/rules.names" --each-once --json > "$work/load.json" || {
    # A run that could not be made tells nothing, least of all that nothing was lost.
    [ $? = 1 ] || exit 2
    lost_rules=$(awk '$1 == "\"wrong\":" || $1 == "\"lost\":" { gsub(/,/, "", $2); sum += $2 } END { print sum }' "$work/load.json")
}
kill "$server"; wait "$server" || true; server=

printf '{"kills":%d,"builds_killed":%d,"builds_ended_before":%d,"resumed":%d,"stores_lost":%d,"rules_acknowledged":%d,"rules_lost":%d,%s}\n' \
    "$kills" "$killed_builds" "$ended_builds" "$resumed" "$lost_stores" "$acknowledged" "$lost_rules" "$(bench/machine.sh)" | tee "$out"
[ "$lost_stores" = 0 ] && [ "$lost_rules" = 0 ] && [ "$acknowledged" -gt "$kills" ]
