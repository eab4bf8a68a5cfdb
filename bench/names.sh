#!/usr/bin/env bash
# The names of every measurement, always the same for the same input:
#
#   bench/names.sh [FOLDER]        (default target/bench/names)
#
#   union.txt        the rules: names to block, one a line (format plain)
#   blocked.names    questions of the mix "blocked": listed names, expected 0.0.0.0
#   cached.names     questions of the mix "cached": unlisted names, expected the address of their top-level domain
#   popular.names    questions for unlisted popular names, the most popular one first
#   mix.dnsperf      a third each of blocked, popular and never-seen names, as dnsperf reads them
#   mix.names        a sample of the same with the expected answers
#   root.zone        the upstream's zone: an address for each top-level domain (see nsd/wildcard.sh)
#
# Real names come from ../shared/data, or the folder that COREWALL_DATA names (relative to the repository root), when it is there,
# made-up ones of the same numbers otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/bench/names}
data=${COREWALL_DATA:-../shared/data}
# As many names as the figures of other servers were taken with.
names=${NAMES:-200000}
made_up_rules=2000000

# What the names that are there were made from.
made_from="$names $data"
if [ -f "$out/done" ] && [ "$(cat "$out/done")" = "$made_from" ] && [ "$out/done" -nt "$0" ]; then exit 0; fi
mkdir -p "$out"
raw=$(mktemp -d "$out/raw.XXXXXX")
trap 'rm -rf -- "$raw"' EXIT

if [ -f "$data/union-dev.tar.zst" ] && [ -f "$data/names.tar.zst" ]; then
    echo "names.sh: real names from $data"
    tar --zstd -xf "$data/union-dev.tar.zst" -C "$raw"
    tar --zstd -xf "$data/names.tar.zst" -C "$raw"
    rules=$raw/union-dev.txt unlisted=$raw/tranco-1m.txt popular=$raw/opendns-top-10k.txt
else
    echo "names.sh: $data is not there, names are made up"
    awk -v n=$made_up_rules 'BEGIN { for (i = 0; i < n; i++) printf "w%d.tracker%d.com\n", i, i % 9973 }' > "$raw/rules"
    awk 'BEGIN { for (i = 0; i < 1000000; i++) printf "site%d.net\n", i }' > "$raw/unlisted"
    awk 'BEGIN { for (i = 0; i < 10000; i++) printf "popular%d.org\n", i }' > "$raw/popular"
    rules=$raw/rules unlisted=$raw/unlisted popular=$raw/popular
fi

# A host name with a top-level domain of letters, none that a resolver answers by itself (RFC 6761 and its kin, canaries).
hostnames() {
    awk -F. 'NF > 1 && length($0) < 200 && /^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/ && $NF ~ /^[a-z]/ && !/(^-)|(\.-)|(-\.)/ &&
        $NF !~ /^(alt|arpa|corp|example|home|internal|invalid|lan|local|localdomain|localhost|mail|onion|test|zz)$/ &&
        !/^(use-application-dns\.net|mask(-h2)?\.icloud\.com)$/ {
            for (i = 1; i <= NF; i++) if (length($i) > 63) next
            print
        }' "$1"
}
# Every k-th line, as many as wanted: the same spread over the file on each run.
spread() { LC_ALL=C awk -v want="$1" -v total="$(wc -l < "$2")" 'int(NR * want / total) > int((NR - 1) * want / total)' "$2"; }
# A fixed order without neighbours: multiples of a large prime modulo another.
scatter() { awk '{ printf "%d %s\n", (NR * 2654435761) % 4294967291, $0 }' | sort -n | cut -d' ' -f2-; }

hostnames "$rules" | LC_ALL=C sort -u > "$out/union.txt"
hostnames "$unlisted" | LC_ALL=C sort -u | LC_ALL=C comm -23 - "$out/union.txt" > "$raw/free"
hostnames "$popular" > "$raw/top"

# One address a top-level domain, in public space: an answer with a private address may be refused as rebinding.
cat "$raw/free" "$raw/top" | awk -F. '{ print $NF }' | LC_ALL=C sort -u |
    awk '{ printf "%s 20.%d.%d.53\n", $1, int(NR / 250), NR % 250 + 1 }' > "$raw/tlds"
{
    echo '$TTL 86400'
    echo '. IN SOA a.invalid. hostmaster.invalid. 1 3600 900 604800 60'
    echo '. IN NS a.invalid.'
    awk '{ printf "*.%s. IN A %s\n", $1, $2 }' "$raw/tlds"
    echo '*. IN A 192.0.2.1'
} > "$out/root.zone"
expected() { awk 'NR == FNR { address[$1] = $2; next } { n = split($1, labels, "."); print $1, "A", address[labels[n]] }' "$raw/tlds" -; }

# Without what only looks like a trigger of a response policy zone: other servers would not take it for a name to block.
grep -v '\.rpz-[a-z-]*$' "$out/union.txt" > "$raw/listed"
spread "$names" "$raw/listed" | scatter | awk '{ print $1, "A blocked" }' > "$out/blocked.names"
spread "$names" "$raw/free" | scatter | expected > "$out/cached.names"

awk 'NR == FNR { listed[$1]; next } !($1 in listed) && !seen[$1]++' "$out/union.txt" "$raw/top" | expected > "$out/popular.names"

# The mix is long, so that a minute at full speed does not ask for the same unlisted name twice.
third=${MIX_THIRD:-1000000}
spread "$third" "$out/union.txt" | scatter | awk '{ print $1, "A blocked" }' > "$raw/mix-blocked"
# Popular names come again and again; a listed one among them is blocked.
expected < "$raw/top" |
    awk 'NR == FNR { listed[$1]; next } $1 in listed { print $1, $2, "blocked"; next } { print }' "$out/union.txt" - |
    awk -v want="$third" '{ line[NR] = $0 } END { for (i = 0; i < want; i++) print line[i % NR + 1] }' > "$raw/mix-popular"
spread "$third" "$raw/free" | scatter | awk '{ printf "never%d.seen.%s\n", NR, $1 }' | expected > "$raw/mix-unlisted"
paste -d '\n' "$raw/mix-blocked" "$raw/mix-popular" "$raw/mix-unlisted" | awk 'NF' > "$raw/mix"
awk '{ print $1, $2 }' "$raw/mix" > "$out/mix.dnsperf"
# Every 16th line: a step that shares no factor with the three kinds takes from all of them.
awk 'NR % 16 == 0' "$raw/mix" > "$out/mix.names"

wc -l "$out"/union.txt "$out"/*.names "$out/mix.dnsperf" "$out/root.zone" | sed '$d'
echo "$made_from" > "$out/done"
