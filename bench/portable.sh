#!/usr/bin/env bash
# Packs what the measurements need into one archive, for a machine that has neither a toolchain nor a network:
#
#   bench/portable.sh                  writes target/bench/portable.tar.zst
#   OUT=/tmp/c.tar.gz bench/portable.sh    compressed as the name says
#
# There: tar -xf portable.tar.zst && corewall-bench/run.sh (no root; portable/run.sh tells its options). Binaries come stripped, with every
# library that is not the C library's: that must be at least as new there as here.
# Needs: target/release/*, target/bench/names and a store of its rules; `make bench-portable` makes all that.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

out=${OUT:-target/bench/portable.tar.zst}
names=${NAMES_FOLDER:-target/bench/names}
store=${STORE:-target/bench/store}
tools=(corewall reflector load compare latency scaling)

for needed in "${tools[@]/#/target/release/}" "$names/union.txt" "$store/current"; do
    [ -e "$needed" ] || { echo "portable.sh: $needed is missing; \`make bench-portable\` makes it" >&2; exit 2; }
done
command -v nsd > /dev/null || { echo "portable.sh: nsd is missing; on Debian: apt-get install nsd" >&2; exit 2; }

work=$(mktemp -d -t corewall-portable.XXXXXX)
trap 'rm -rf -- "$work"' EXIT
folder=$work/corewall-bench
mkdir -p "$folder"/{bin,lib,names,bench/nsd}

for tool in "${tools[@]}"; do
    # Symbols are nine tenths of the bytes, and nobody debugs there.
    strip -o "$folder/bin/$tool" "target/release/$tool"
done
# The upstream from which cached answers come at first.
cp "$(command -v nsd)" "$folder/bin/nsd"
cp bench/nsd/wildcard.sh "$folder/bench/nsd/"
cp bench/portable/run.sh "$folder/run.sh"
# The C library belongs to its system: with the loader of another one it does not start.
ldd "$folder"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    { grep -Ev '/(libc|libm|libpthread|libdl|librt|libresolv|ld-linux[^/]*)\.so' || true; } | xargs -r cp -Lt "$folder/lib"
cp "$names"/{union.txt,blocked.names,cached.names,root.zone} "$folder/names/"
# Not what a server that ran here has noted.
tar -C "$store" --exclude=top-names --exclude='*lock' --exclude='overlay*' -cf - . | { mkdir "$folder/store"; tar -C "$folder/store" -xf -; }
git describe --always --dirty > "$folder/commit" 2> /dev/null || echo unknown > "$folder/commit"
getconf GNU_LIBC_VERSION > "$folder/built-against"

mkdir -p "$(dirname "$out")"
tar -C "$work" --owner=0 --group=0 -caf "$out" corewall-bench
echo "portable.sh: $out, $(du -h "$out" | cut -f1), commit $(cat "$folder/commit"), $(cat "$folder/built-against")"
