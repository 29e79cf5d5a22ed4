#!/usr/bin/env bash
# check_symbols.sh BUILD - libsonde.so exports what include/sonde.h declares, and nothing else.
set -euo pipefail
library=$(find "$1" -maxdepth 3 -name 'libsonde.so*' -type f | head -n 1)
header=$(dirname "$0")/../include/sonde.h
[ -n "$library" ] || {
    echo "check_symbols: no libsonde.so under $1" >&2
    exit 1
}
exported=$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}' | sort)
declared=$(cc -E -P -x c -DSONDE_API=SONDE_EXPORTED "$header" 2>/dev/null |
    grep -oE '\bsonde_[a-z0-9_]+ ?\(' | tr -d ' (' | sort -u)
foreign=$(comm -23 <(printf '%s\n' "$exported") <(printf '%s\n' "$declared"))
absent=$(comm -13 <(printf '%s\n' "$exported") <(printf '%s\n' "$declared"))
status=0
for name in $foreign; do
    echo "libsonde.so exports $name, which sonde.h does not declare" >&2
    status=1
done
for name in $absent; do
    echo "sonde.h declares $name, which libsonde.so does not export" >&2
    status=1
done
exit $status
