#!/usr/bin/env bash
# test_logits.sh - sonde logits: the file it writes and the ids it refuses.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

FLASH=tests/golden/flash

cat >"$dir/read.py" <<'PY'
"""The tensors of a safetensors file as lists of rows."""
import array, json

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
    return max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q))
PY
python() { PYTHONPATH=$dir python3 -c "
from read import *
import sys
$1" "${@:2}"; }

python 'print(*read(sys.argv[1])["ids"][1][0])' "$FLASH/golden.safetensors" >"$dir/ids"

run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/a" --precision f32 --mtp
is 'logits succeeds and is silent' [ "$status" -eq 0 -a ! -s "$out" -a ! -s "$err" ]
is 'the file holds the golden logits' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert a["logits"][0] == g["logits.f32"][0]
assert farthest(a["logits"][1], g["logits.f32"][1]) < 2e-3' "$dir/a" "$FLASH/golden.safetensors"
is 'with --mtp it holds the golden prediction' python '
a, g = read(sys.argv[1]), read(sys.argv[2])
assert a["mtp"][0] == g["mtp.f32"][0]
assert farthest(a["mtp"][1], g["mtp.f32"][1]) < 2e-3' "$dir/a" "$FLASH/golden.safetensors"
run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/b" --precision f32 --mtp --chunk 7 --decode-from 200
is 'chunks and decoding give the same' python '
a, b = read(sys.argv[1]), read(sys.argv[2])
assert farthest(a["logits"][1], b["logits"][1]) < 1e-3 and farthest(a["mtp"][1], b["mtp"][1]) < 1e-3' "$dir/a" "$dir/b"
for p in kv official fast; do
    run_quietly logits "$FLASH" --ids "$dir/ids" --out "$dir/c" --precision $p
    is "precision $p is taken" [ "$status" -eq 0 ]
done

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
run_quietly logits "$NANO" --ids "$dir/ids" --out "$dir/none" --mtp
is 'a model without multi-token prediction refuses --mtp' [ "$status" -eq 1 ]
finish
