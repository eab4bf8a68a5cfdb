#!/usr/bin/env bash
# Applies what `corewall tune` says: the commands are its own, each printed before it is run. Nothing is asked.
#
#   tuning/apply.sh --list                    what differs, by group
#   tuning/apply.sh sysctl nic.rx_ring        these groups, or single values
#   tuning/apply.sh --all                     everything that differs
#   tuning/apply.sh --dry-run --all           prints and runs nothing; needs no root
#
# More: --optional (what has a price as well), --config FILE, --interface IF, --tuning DIR (as for corewall tune), --undo FILE (writes
# the commands that bring back what was there). COREWALL names the program, else target/release/corewall or the one on PATH.
# Exit code: 0 all done, 1 a command failed, 2 wrong usage.
set -euo pipefail

usage() { sed -n '4,7s/^# *//p' "$0" >&2; }
wrong() { echo "apply.sh: $*" >&2; usage; exit 2; }

dry=false list=false all=false undo_file=''
pass=() only=()
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=true ;;
        --list) list=true ;;
        --all) all=true ;;
        --optional) pass+=("$1") ;;
        --config | --interface | --tuning)
            [ $# -ge 2 ] || wrong "$1 wants a value"
            pass+=("$1" "$2")
            shift
            ;;
        --undo)
            [ $# -ge 2 ] || wrong "--undo wants a file"
            undo_file=$2
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        -*) wrong "there is no option $1" ;;
        *) only+=(--only "$1") ;;
    esac
    shift
done
$list || $all || [ ${#only[@]} -gt 0 ] || wrong "name what to apply, or --all"
if $all && [ ${#only[@]} -gt 0 ]; then wrong "--all and names together mean nothing; use one of them"; fi

here=$(cd "$(dirname "$0")/.." && pwd)
corewall=${COREWALL:-}
if [ -z "$corewall" ]; then
    corewall=$here/target/release/corewall
    [ -x "$corewall" ] || corewall=$(command -v corewall) || wrong "there is no corewall here; build it (make run), or name it by COREWALL"
fi
if ! $dry && ! $list && [ "$(id -u)" -ne 0 ]; then
    echo "apply.sh: changes the machine; run it as root, or with --dry-run to see what it would do" >&2
    exit 2
fi

# 1 means that something differs; a wrong name, configuration or file is told by corewall itself.
status=0
script=$("$corewall" tune --commands "${pass[@]}" "${only[@]}") || status=$?
[ "$status" -le 1 ] || exit "$status"
if [ -z "$script" ]; then
    echo "nothing to mend"
    exit 0
fi
if $list; then
    grep -E '^# [a-z]+\.[a-z0-9_.]+( of |:)' <<< "$script" | cut -c3-
    exit 0
fi

failed=0 undo=() lasts=() by_hand=()
title=''
while IFS= read -r line; do
    case $line in
        '# why: '*) ;;
        '# undo: '*)
            undo+=("${line#\# undo: }")
            # Before the command that it undoes: whoever interrupts this finds there what was changed.
            [ -z "$undo_file" ] || $dry || printf '%s\n' "${line#\# undo: }" >> "$undo_file"
            ;;
        '# lasts: '*) lasts+=("$title: ${line#\# lasts: }") ;;
        '# by hand: '*) by_hand+=("$title: ${line#\# by hand: }") ;;
        '# '*)
            echo "$line"
            title=${line#\# }
            title=${title%%: *}
            ;;
        *)
            echo "$line"
            $dry || bash -c "$line" < /dev/null || { failed=$((failed + 1)); echo "apply.sh: this failed: $line" >&2; }
            ;;
    esac
done <<< "$script"

# say HEADING LINE...
say() {
    local heading=$1
    shift
    [ $# -eq 0 ] || printf '\n%s\n' "$heading"
    # What many values have in common is said once.
    [ $# -eq 0 ] || printf '  %s\n' "$@" | awk '{ rest = $0; sub(/^[^:]*: /, "", rest); if (rest != last) print; last = rest }'
}
say 'by hand' "${by_hand[@]}"
say 'how long it lasts' "${lasts[@]}"
say 'to undo it' "${undo[@]}"
if [ -n "$undo_file" ] && [ ${#undo[@]} -gt 0 ] && ! $dry; then
    echo "  (also in $undo_file: run it with bash)"
fi
if [ "$failed" -gt 0 ]; then
    echo "apply.sh: $failed commands failed" >&2
    exit 1
fi
