#!/usr/bin/env bash
# test_logits.sh - sonde logits: the file it writes and the ids it refuses.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

FLASH=tests/golden/flash

cat >"$dir/read.py" <<'PY'
"""The tensors of a safetensors file as lists of rows."""
import array, json, math

def read(path):
    data = open(path, "rb").read()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, t in json.loads(data[8:8 + size]).items():
        if name == "__metadata__" or t["dtype"] not in ("F32", "I32"):
            continue
        begin, end = t["data_offsets"]
        flat = array.array("f" if t["dtype"] == "F32" else "i", data[8 + size + begin:8 + size + end])
        wide = t["shape"][-1]
        tensors[name] = (t["shape"], [flat[i:i + wide] for i in range(0, len(flat), wide)])
    return tensors

def farthest(a, b):
    """Of two tensors; infinity if their shapes differ or one holds what is not finite."""
    if a[0] != b[0] or [len(row) for row in a[1]] != [len(row) for row in b[1]] or not a[1]:
        return math.inf
    return max(d if math.isfinite(d) else math.inf
               for p, q in zip(a[1], b[1]) for d in map(lambda x, y: abs(x - y), p, q))
PY
python() { PYTHONPATH=$dir python3 -c "
from read import *
import sys
$1" "${@:2}"; }

is 'the comparison fails on NaN and on other shapes' python '
nan = float("nan")
assert farthest(([1, 2], [[1, 2]]), ([1, 2], [[1, 4]])) == 2
assert farthest(([1, 2], [[1, nan]]), ([1, 2], [[1, 4]])) == math.inf
assert farthest(([1, 2], [[nan, 1]]), ([1, 2], [[nan, 4]])) == math.inf
assert farthest(([1, 2], [[1, 2]]), ([2, 2], [[1, 2], [3, 4]])) == math.inf
assert farthest(([0, 2], []), ([0, 2], [])) == math.inf'

python 'print(*read(sys.argv[1])["ids"][1][0])' "$FLASH/golden.safetensors" >"$dir/ids"

run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/a" --precision f32 --mtp
is 'logits succeeds and is silent' [ "$status" -eq 0 -a ! -s "$out" -a ! -s "$err" ]
is 'the file holds the golden logits' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert farthest(a["logits"], g["logits.f32"]) < 2e-3' "$dir/a" "$FLASH/golden.safetensors"
is 'with --mtp it holds the golden prediction' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert farthest(a["mtp"], g["mtp.f32"]) < 2e-3' "$dir/a" "$FLASH/golden.safetensors"
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/b" --precision f32 --mtp --chunk 7 --decode-from 200
is 'chunks and decoding give the same' python '
a, b = read(sys.argv[1]), read(sys.argv[2])
assert farthest(a["logits"], b["logits"]) < 1e-3 and farthest(a["mtp"], b["mtp"]) < 1e-3' "$dir/a" "$dir/b"
for p in kv official fast; do
    run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/c" --precision $p
    is "precision $p is taken" [ "$status" -eq 0 ]
done

# -------------------------------------------------------------------------------------- DeepSeek-V4.1

V41=tests/golden/v41-flash
python 'print(*read(sys.argv[1])["ids"][1][0])' "$V41/golden.safetensors" >"$dir/ids41"
python 'print(*read(sys.argv[1])["ids"][1][0][:49])' "$V41/golden.safetensors" >"$dir/few41"
run_quietly logits "$V41" --ids "$dir/ids41" --out "$dir/a" --chunk 31 --decode-from 240
is 'V4.1: the file holds the golden logits' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert farthest(a["logits"], g["logits.f32"]) < 2e-3' "$dir/a" "$V41/golden.safetensors"
run_quietly logits "$V41" --ids "$dir/few41" --out "$dir/a" --decode-from 33 --released-decode
is 'V4.1: --released-decode gives what the released code does' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert farthest(([16, 320], a["logits"][1][33:]), g["released.logits"]) < 2e-3' "$dir/a" "$V41/golden.safetensors"
run_quietly logits "$V41" --ids "$dir/ids41" --out "$dir/none" --mtp
is 'V4.1: predictions are refused' failed 'no multi-token-prediction block'
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/none" --released-decode
is 'V4: --released-decode is refused' failed 'only DeepSeek-V4.1'

echo '1 2 3 four' >"$dir/bad"
run_quietly logits "$FLASH" --ids "$dir/bad" --out "$dir/none"
is 'a word that is no id is named' failed "line 1, word 4: 'four'"
printf '1 2\n3 256\n' >"$dir/bad"
run_quietly logits "$FLASH" --ids "$dir/bad" --out "$dir/none"
is 'an id outside the vocabulary is named' failed "line 2, word 2: '256'"
: >"$dir/bad"
run_quietly logits "$FLASH" --ids "$dir/bad" --out "$dir/none"
is 'no ids are refused' failed 'no token ids'
run_quietly logits "$FLASH" --ids "$dir/absent" --out "$dir/none"
is 'a missing ids file is named' failed "$dir/absent"
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/no/where"
is 'a directory that is not there is named' failed "$dir/no/where"
is 'nothing is left of what failed' [ ! -e "$dir/none" ]
# ----------------------------------------------------------------------------- where the output goes

run_quietly logits "$FLASH" --ids <(cat "$dir/ids") --out "$dir/piped"
is 'ids come from a pipe too' [ "$status" -eq 0 ]
# not /dev/null or /dev/full: run by root, a program that replaced its output would take them from the machine
mkfifo "$dir/fifo"
timeout 60 cat "$dir/fifo" >"$dir/through" &
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/fifo"
[ -p "$dir/fifo" ] || kill "$!"
wait "$!"
is 'a FIFO is written to and stays one' [ "$status" -eq 0 -a -p "$dir/fifo" ]
is 'what goes through it is the file' cmp -s "$dir/through" "$dir/piped"
ln -s "$dir/piped" "$dir/link"
echo old >"$dir/piped"
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/link"
is 'a symbolic link is followed' [ "$status" -eq 0 -a -L "$dir/link" -a "$(wc -c <"$dir/piped")" -gt 1000 ]
(
    trap '' XFSZ
    ulimit -f 40
    "$SONDE" logits "$FLASH" --ids "$dir/ids" --out "$dir/large" >"$out" 2>"$err" </dev/null
)
status=$?
is 'a file too large is named, and why' failed "$dir/large: cannot be written: File too large"

# ends SIGNAL: while rows are written; nothing may be left of them
python 'print(*[5] * 4000)' >"$dir/many"
ends() {
    local i job
    mkdir -p "$dir/ended"
    rm -f "$out"
    "$SONDE" logits "$NANO" --ids "$dir/many" --out "$dir/ended/big" >"$out" 2>"$err" </dev/null &
    job=$!
    for ((i = 0; i < 200; i++)); do
        [ -n "$(find "$dir/ended" -type f -size +0)" ] && break
        sleep 0.05
    done
    kill -"$1" "$job"
    status=0
    wait "$job" || status=$?
}
ends INT
is 'Ctrl-C ends it with status 130' [ "$status" -eq 130 -a ! -s "$err" ]
is 'Ctrl-C leaves nothing' rmdir "$dir/ended"
ends TERM
is 'SIGTERM ends it with status 143' [ "$status" -eq 143 -a ! -s "$err" ]
is 'SIGTERM leaves nothing' rmdir "$dir/ended"

run_quietly synth "$dir/tiny" --shape tiny
run_quietly logits "$dir/tiny" --ids "$dir/ids" --out "$dir/none" --mtp
is 'a model without multi-token prediction refuses --mtp' failed 'no multi-token-prediction block'
finish
