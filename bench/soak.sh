#!/usr/bin/env bash
# A minute at full speed: dnsperf over blocked, popular and never-seen names, while a sample of answers is checked.
#
#   bench/soak.sh            SECONDS_RUN=60 CORES=0-1 bench/soak.sh
#
# Fails when a query is lost after the warm-up, an answer is wrong, or private memory grows by more than 5 %.
# Needs: target/release/{corewall,load}, target/bench/names (bench/names.sh) and a store of its rules; `make soak` does all that.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_RUN:-60}
warm_up=${WARM_UP:-20}
cores=${CORES:-0-1}
listen=127.0.0.1 port=${PORT:-5397} upstream_port=${UPSTREAM_PORT:-5396}
names=target/bench/names
store=${STORE:-target/bench/store}
work=target/bench/soak
out=${OUT:-bench/results/soak.json}
# Growth of private memory that still counts as flat: allocator noise, not a leak.
growth_percent_max=5
# Checked questions a second, beside dnsperf's.
sample_rate=2000

command -v dnsperf > /dev/null || { echo "soak.sh: dnsperf is missing; on Debian: apt-get install dnsperf" >&2; exit 2; }
for needed in target/release/corewall target/release/load "$names/mix.dnsperf" "$store"; do
    [ -e "$needed" ] || { echo "soak.sh: $needed is missing; \`make soak\` makes it" >&2; exit 2; }
done
mkdir -p "$work"
started=()
stop_all() { for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done; wait 2> /dev/null || true; }
trap stop_all EXIT

bench/nsd/wildcard.sh "$listen@$upstream_port" "$names/root.zone" > "$work/nsd.log" 2>&1 &
started+=($!)
sed -e "s|@CORES@|$cores|; s|@LISTEN@|$listen:$port|; s|@STORE@|$(realpath "$store")|; s|@UPSTREAM@|$listen:$upstream_port|; s|@UNION@|$(realpath "$names/union.txt")|" \
    -e '/^#/d' bench/corewall.toml.in > "$work/corewall.toml"
target/release/corewall serve --config "$work/corewall.toml" > "$work/corewall.log" 2>&1 &
server=$!
started+=("$server")
for _ in $(seq 600); do
    if grep -q '^ready' "$work/corewall.log"; then break; fi
    kill -0 "$server" 2> /dev/null || { cat "$work/corewall.log" >&2; exit 2; }
    sleep 0.1
done
grep '^ready' "$work/corewall.log"

ask() { dnsperf -s "$listen" -p "$port" -d "$names/mix.dnsperf" -l "$1" -c 32 -q 256 -t 3 -O suppress=timeouts > "$2" 2>&1; }
private_kib() { awk '$1 == "RssAnon:" { print $2 }' "/proc/$server/status"; }
resident_kib() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$server/status"; }

echo "soak.sh: warm-up, $warm_up s"
ask "$warm_up" "$work/dnsperf-warm-up.txt"
before_private=$(private_kib) before_resident=$(resident_kib)

echo "soak.sh: measuring, $seconds s"
target/release/load --server "$listen:$port" --names "$names/mix.names" --seconds "$seconds" --rate "$sample_rate" \
    --sockets 16 --mixed-case --edns --timeout-ms 3000 --seed 2 --json --server-pid "$server" > "$work/load.json" &
checker=$!
ask "$seconds" "$work/dnsperf.txt"
checked=0
wait "$checker" || checked=$?
after_private=$(private_kib) after_resident=$(resident_kib)

cat "$work/dnsperf.txt"
figure() { awk -v name="$1" 'index($0, name) { sub(/^.*: */, ""); print $1; exit }' "$work/dnsperf.txt"; }
json() { awk -v name="\"$1\":" '$1 == name { gsub(/,/, "", $2); print $2; exit }' "$work/load.json"; }
lost=$(figure "Queries lost") sent=$(figure "Queries sent") qps=$(figure "Queries per second")
servfail=$(awk '/Response codes/ { for (i = 1; i <= NF; i++) if ($i == "SERVFAIL") print $(i + 1) }' "$work/dnsperf.txt")
grown=$(((after_private - before_private) * 100 / before_private))
printf '{"seconds":%s,"cores":"%s","sent":%s,"lost":%s,"servfail":%s,"qps":%s,"checked":%s,"checked_wrong":%s,"checked_lost":%s,"private_kib":[%s,%s],"resident_kib":[%s,%s],%s}\n' \
    "$seconds" "$cores" "$sent" "$lost" "${servfail:-0}" "$qps" "$(json answered)" "$(json wrong)" "$(json lost)" \
    "$before_private" "$after_private" "$before_resident" "$after_resident" \
    "$(bench/machine.sh)" > "$out"
cat "$out"

failed=0
complain() { echo "soak.sh: $*" >&2; failed=1; }
[ "$lost" -eq 0 ] || complain "$lost queries lost"
[ "${servfail:-0}" -eq 0 ] || complain "$servfail answers SERVFAIL"
[ "$checked" -eq 0 ] || { complain "the checked sample has wrong or lost answers:"; cat "$work/load.json" >&2; }
[ "$grown" -le "$growth_percent_max" ] || complain "private memory grew by $grown %: $before_private to $after_private KiB"
kill "$server"
wait "$server" || complain "the server ended with $? on SIGTERM"
[ "$failed" -eq 0 ] && echo "soak.sh: no query lost, no answer wrong, private memory $before_private to $after_private KiB"
exit "$failed"
