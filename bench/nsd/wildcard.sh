#!/usr/bin/env bash
# An upstream that knows every name: nsd with a wildcard root zone, unprivileged, in the foreground.
#
#   bench/nsd/wildcard.sh [ADDRESS@PORT] [ZONE] [NSD_OPTION...]
#
# Without a zone file every name has the address 192.0.2.1 and 2001:db8::1. bench/names.sh writes a zone that gives
# each top-level domain an address of its own, so that an answer given for the wrong name is noticed.
# All its files lie in a temporary folder that goes when nsd ends.
set -euo pipefail

listen=${1:-127.0.0.1@5300}
zone=${2:-}

nsd=$(PATH=$PATH:/usr/sbin command -v nsd) || {
    echo "wildcard.sh: nsd is missing; on Debian: apt-get install nsd" >&2
    exit 2
}
folder=$(mktemp -d -t corewall-nsd.XXXXXX)
# nsd gives up its rights only when told to, and started by root without a user it stays root: all it does is loopback.
if [ -n "$zone" ]; then
    cp -- "$zone" "$folder/root.zone"
else
    cat > "$folder/root.zone" <<'ZONE'
$TTL 86400
.   IN SOA a.invalid. hostmaster.invalid. 1 3600 900 604800 60
.   IN NS  a.invalid.
*.  IN A    192.0.2.1
*.  IN AAAA 2001:db8::1
*.  IN TXT  "wildcard"
ZONE
fi
cat > "$folder/nsd.conf" <<CONF
server:
    ip-address: $listen
    username: ""
    chroot: ""
    zonesdir: "$folder"
    # Debian's default is one file under /var/lib for every nsd: two of them would write into it.
    database: ""
    pidfile: ""
    zonelistfile: "$folder/zone.list"
    xfrdfile: "$folder/xfrd.state"
    xfrdir: "$folder"
    logfile: "$folder/nsd.log"
    server-count: 1
    reuseport: no
    # Response rate limiting would look like loss.
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    # Clients over TCP come by the hundred after a truncation.
    tcp-count: 500
remote-control:
    control-enable: no
zone:
    name: "."
    zonefile: "root.zone"
CONF

"$nsd" -d -c "$folder/nsd.conf" "${@:3}" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true' TERM INT
# `wait` ends early when a signal comes: the second one collects nsd itself.
wait "$pid" || status=$?
wait "$pid" 2>/dev/null || true
[ "${status:-0}" -le 128 ] || status=0
[ "${status:-0}" -eq 0 ] || tail -n 5 "$folder/nsd.log" >&2 || true
rm -rf -- "$folder"
exit "${status:-0}"
