#!/usr/bin/env bash
# nano.sh BINARY MODEL - how fast a small model reads and writes: medians of five answers, one line.
# End to end, tokenizer and sampling included. Nothing else should run on the machine meanwhile.
set -euo pipefail

prompt=$(printf 'Once upon a time there was a little cat who liked to sit in the sun. %.0s' {1..24})
reads=() writes=()
for seed in 1 2 3 4 5; do
    line=$("$1" run "$2" --raw -p "$prompt" -n 128 --seed "$seed" --stats 2>&1 >/dev/null)
    reads+=("$(sed -E 's/.*prompt [^;]*, ([0-9.]+) a second.*/\1/' <<<"$line")")
    writes+=("$(sed -E 's/.*answer [^;]*, ([0-9.]+) a second.*/\1/' <<<"$line")")
done
median() { printf '%s\n' "$@" | sort -n | sed -n 3p; }
printf 'prefill %s tokens/s, decode %s tokens/s: medians of 5, %s, 128 tokens after %s\n' \
    "$(median "${reads[@]}")" "$(median "${writes[@]}")" "$2" "$(sed -E 's/.*prompt ([0-9]+) tokens.*/\1/' <<<"$line")"
