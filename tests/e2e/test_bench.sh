#!/usr/bin/env bash
# test_bench.sh - sonde bench: its JSON, its table, what it refuses; and the flags that choose threads and level.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

# field NAME: of the JSON on standard output
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$out" "$1"; }
sane() { python3 - "$out" "$@" <<'PY'; }
import json, sys
b = json.load(open(sys.argv[1]))
whole = ["threads", "context", "batch", "decode_bytes_per_token", "prefill_flops_per_token", "cache_fixed_bytes"]
real = ["decode_tokens_per_s", "decode_bandwidth_ratio", "prefill_tokens_per_s", "prefill_roofline_ratio",
        "prefill_peak_ratio", "read_bandwidth", "peak_flops", "cache_bytes_per_token"]
assert isinstance(b["level"], str)
assert all(isinstance(b[k], int) and b[k] > 0 for k in whole), [(k, b[k]) for k in whole]
assert all(b[k] > 0 for k in real), [(k, b[k]) for k in real]
bandwidth = b["decode_bytes_per_token"] * b["decode_tokens_per_s"] / b["read_bandwidth"]
assert abs(bandwidth / b["decode_bandwidth_ratio"] - 1) < 1e-3
peak = b["prefill_flops_per_token"] * b["prefill_tokens_per_s"] / b["peak_flops"]
assert abs(peak / b["prefill_peak_ratio"] - 1) < 1e-3
assert b["prefill_roofline_ratio"] >= b["prefill_peak_ratio"] * 0.999
for pair in sys.argv[2:]:
    name, value = pair.split("=")
    assert str(b[name]) == value, (name, b[name], value)
PY

run_quietly bench "$NANO" --prompt 64 --generate 8 --json
is 'bench succeeds and is silent' [ "$status" -eq 0 -a ! -s "$err" ]
is 'its JSON has every key, and they agree' sane context=64 batch=1 prompt=64 chunk=64
alone=$(field decode_bytes_per_token)
# 5 layers: a token's share of what inspect counts is more than a tenth and less than all
is 'a token reads some of the weights' [ "$alone" -gt 1000000 -a "$alone" -lt 20000000 ]

run_quietly bench "$NANO" --prompt 16 --generate 5 --batch 3 --context 100 --chunk 13 --threads 2 --level c \
    --precision f32 --json
is 'batch, context, chunk, threads and level are taken' sane level=c threads=2 batch=3 context=100 prompt=16 chunk=13
is 'a batch shares what its tokens read' [ "$(field decode_bytes_per_token)" -lt "$alone" ]

run_quietly bench "$NANO" --prompt 8 --generate 1 --threads 1
is 'without --json there is a table' [ "$status" -eq 0 -a ! -s "$err" -a "$(wc -l <"$out")" -ge 6 ]
is 'it has the two speeds' [ "$(grep -cE '^(decode|prefill) +[0-9.]+ tokens/s' "$out")" -eq 2 ]

run_quietly bench
is 'a missing model is named' refused 'MODEL is missing'
run_quietly bench "$NANO" --prompt 0
is 'a prompt of nothing is refused' refused '--prompt takes'
run_quietly bench "$NANO" --batch x
is 'a batch that is no number is refused' refused '--batch takes'
run_quietly bench "$NANO" --level sse
is 'a level that there is not is refused' refused '--level takes one of best|c|'
run_quietly bench "$NANO" --context 5000
is 'more than the model holds is refused' failed "$NANO: holds 4096 tokens"
run_quietly bench "$dir/none"
is 'a model that is not there is named' failed "$dir/none"

"$SONDE" bench "$NANO" --prompt 4000 --chunk 64 --json >"$out" 2>"$err" </dev/null &
job=$!
sleep 1
kill -INT "$job"
status=0
wait "$job" || status=$?
is 'Ctrl-C ends it with status 130 and no output' [ "$status" -eq 130 -a ! -s "$out" -a ! -s "$err" ]

# ------------------------------------------------------------------------- threads and level elsewhere

run_quietly run "$NANO" --raw -p 'Once upon a time' -n 20 --greedy --threads 1 --level c
cp "$out" "$dir/one"
run_quietly run "$NANO" --raw -p 'Once upon a time' -n 20 --greedy --threads 3 --level c
is 'run takes --threads and --level; at level c the answer does not depend on threads' cmp "$out" "$dir/one"
run_quietly run "$NANO" -p hello --threads 0
is 'no threads are refused' refused '--threads takes a whole number from 1'
foreign=neon
[ "$(uname -m)" = x86_64 ] || foreign=avx2
run_quietly run "$NANO" -p hello --level $foreign
is 'a level of another processor is refused' failed "does not run kernel level '$foreign'"
echo '1 2 3' >"$dir/ids"
run_quietly logits "$NANO" --ids "$dir/ids" --out "$dir/logits" --threads 2 --level c
is 'logits takes them too' [ "$status" -eq 0 ]
run_quietly chat "$NANO" --threads 2 --level c
is 'and chat' [ "$status" -eq 0 ]
finish
