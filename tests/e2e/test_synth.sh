#!/usr/bin/env bash
# test_synth.sh - sonde synth: a checkpoint that the other commands take, the same for the same seed, and nothing
# left of one that could not be written.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

tiny=$dir/tiny

# python PROGRAM ARGS...: d is what inspect --json --tensors said, t its tensors by name.
python() { python3 -c "
import json, os, sys
d = json.load(open('$dir/described'))
t = {x['name']: x for x in d['tensors']}
$1" "${@:2}"; }
describe() {
    run_quietly inspect "$1" --json --tensors --context 64
    cp "$out" "$dir/described"
}

# ------------------------------------------------------------------------------------ what is written

run_quietly synth "$tiny" --shape tiny
is 'synth succeeds and is silent' [ "$status" -eq 0 -a ! -s "$out" -a ! -s "$err" ]
is 'only a checkpoint is left' [ -z "$(find "$tiny" -mindepth 1 ! -name 'model-0000?-of-0000?.safetensors' \
    ! -name config.json ! -name model.safetensors.index.json)" ]
run_quietly inspect "$tiny" --check
is 'inspect opens it and finds every value finite' [ "$status" -eq 0 ]
describe "$tiny"
is 'it has the pattern of Flash and no multi-token prediction' python '
assert d["layers"]["compress_ratios"] == [0, 0, 4, 128, 4] and d["layers"]["mtp"] == 0
assert d["layers"]["hash_routed"] == 1 and not any(n.startswith("mtp.") for n in t)'
is 'dtypes are those of the released files' python '
kinds = {n: t["layers.0." + n]["dtype"] for n in ("attn.wq_a.weight", "attn.wq_a.scale", "ffn.experts.7.w1.weight",
    "ffn.experts.7.w1.scale", "ffn.gate.tid2eid", "attn.attn_sink", "attn_norm.weight")}
assert list(kinds.values()) == ["F8_E4M3", "F8_E8M0", "I8", "F8_E8M0", "I64", "F32", "BF16"]
assert "layers.1.ffn.gate.bias" in t'
is 'the index names every tensor, in several shards' python '
index = json.load(open(sys.argv[1]))
assert set(index["weight_map"]) == set(t) and index["metadata"]["total_size"] == d["bytes"]["total"]
assert all(os.path.basename(t[n]["file"]) == f for n, f in index["weight_map"].items())
assert len(set(index["weight_map"].values())) > 2' "$tiny/model.safetensors.index.json"

# the values, decoded by hand
is 'routes are different experts, all experts are chosen, no code is NaN' python '
def raw(name):
    data = open(t[name]["file"], "rb").read()
    size = int.from_bytes(data[:8], "little")
    a, b = json.loads(data[8:8 + size])[name]["data_offsets"]
    assert (8 + size + a) % {"I64": 8, "F32": 4, "BF16": 2}.get(t[name]["dtype"], 1) == 0
    return data[8 + size + a:8 + size + b]
ids = raw("layers.0.ffn.gate.tid2eid")
ids = [int.from_bytes(ids[i:i + 8], "little") for i in range(0, len(ids), 8)]
assert len(ids) == 512 and all(a != b for a, b in zip(ids[::2], ids[1::2])) and set(ids) == set(range(8))
for x in d["tensors"]:
    if x["dtype"] == "F8_E4M3": assert not set(raw(x["name"])) & {0x7f, 0xff}
    if x["dtype"] == "F8_E8M0": assert max(raw(x["name"])) < 130
    if x["dtype"] in ("F32", "BF16"): raw(x["name"])'

seq 3 200 >"$dir/ids"
cat >"$dir/spread.py" <<'PY'
"""Fails unless the logits are finite, vary, and prefer many tokens."""
import array, json, math, sys
data = open(sys.argv[1], "rb").read()
size = int.from_bytes(data[:8], "little")
t = json.loads(data[8:8 + size])["logits"]
flat = array.array("f", data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
wide = t["shape"][1]
rows = [flat[i:i + wide] for i in range(0, len(flat), wide)]
assert all(map(math.isfinite, flat))
assert 0.3 < math.sqrt(sum(x * x for x in flat) / len(flat)) < 3
assert len({max(range(wide), key=row.__getitem__) for row in rows}) > len(rows) / 4
PY
for p in f32 official fast; do
    run_quietly logits "$tiny" --ids "$dir/ids" --out "$dir/logits" --precision $p
    is "precision $p runs on it" [ "$status" -eq 0 ]
    is "its logits in precision $p are finite and varied" python3 "$dir/spread.py" "$dir/logits"
done

# ------------------------------------------------------------------------------------------- options

sums() { (cd "$1" && sha256sum -- *) >"$2"; }
sums "$tiny" "$dir/sums"
run_quietly synth "$dir/again" --shape tiny
sums "$dir/again" "$dir/sums.again"
is 'the same seed gives the same bytes' cmp "$dir/sums" "$dir/sums.again"
mkdir "$dir/other"
run_quietly synth "$dir/other" --shape tiny --seed 18446744073709551615
sums "$dir/other" "$dir/sums.other"
is 'an empty directory is taken' [ "$status" -eq 0 ]
is 'another seed gives other bytes in every shard' [ -z "$(comm -12 <(sort "$dir/sums") <(sort "$dir/sums.other") |
    grep -v json)" ]

run_quietly synth "$dir/mtp" --shape tiny --layers 3 --experts 5 --vocab 77 --mtp --tokenizer "$NANO/tokenizer.json"
describe "$dir/mtp"
is 'three layers are the three kinds; counts are obeyed' python '
assert d["layers"]["compress_ratios"] == [0, 4, 128] and d["layers"]["mtp"] == 1
assert d["shape"]["experts"] == 5 and t["head.weight"]["shape"] == [77, 128]
assert "mtp.0.ffn.experts.4.w2.scale" in t and "mtp.0.ffn.experts.5.w2.scale" not in t'
is 'the tokenizer is copied' cmp "$NANO/tokenizer.json" "$dir/mtp/tokenizer.json"
seq 3 40 >"$dir/ids"
run_quietly logits "$dir/mtp" --ids "$dir/ids" --out "$dir/logits" --mtp
is 'its multi-token prediction runs' [ "$status" -eq 0 ]
run_quietly synth "$dir/long" --shape tiny --layers 7 --experts 2
describe "$dir/long"
is 'more layers go on with the pattern' python '
assert d["layers"]["compress_ratios"] == [0, 0, 4, 128, 4, 128, 4]'

run_quietly synth "$dir/flash" --shape flash --layers 1 --experts 6 --vocab 64
describe "$dir/flash"
is 'Flash has the shapes of the released files' python '
shapes = {"attn.wq_a.weight": [1024, 4096], "attn.wq_b.scale": [256, 8], "attn.wkv.weight": [512, 4096],
          "attn.wo_a.weight": [8192, 4096], "attn.wo_b.weight": [4096, 8192], "ffn.gate.tid2eid": [64, 6],
          "ffn.experts.5.w1.weight": [2048, 2048], "ffn.experts.5.w2.weight": [4096, 1024],
          "ffn.experts.5.w2.scale": [4096, 64], "ffn.shared_experts.w2.weight": [4096, 2048], "hc_attn_fn": [24, 16384]}
assert {n: t["layers.0." + n]["shape"] for n in shapes} == shapes' "$out"
echo '1 2' >"$dir/ids"
run_quietly logits "$dir/flash" --ids "$dir/ids" --out "$dir/logits"
is 'a Flash layer runs' [ "$status" -eq 0 ]
rm -rf "$dir/flash"

# ------------------------------------------------------------------------------------------ failures

run_quietly synth "$tiny" --shape tiny --seed 1
is 'a directory that is not empty is refused' failed '--force'
sums "$tiny" "$dir/sums.again"
is 'and left as it was' cmp "$dir/sums" "$dir/sums.again"
echo mine >"$tiny/notes"
run_quietly synth "$tiny" --shape tiny --layers 1 --force
describe "$tiny"
is '--force replaces the checkpoint' python 'assert d["layers"]["total"] == 1'
is 'old shards are gone, other files are not' [ "$(cat "$tiny/notes")" = mine -a \
    "$(find "$tiny" -name '*.safetensors' | sed 's/.*-of-//' | sort -u | wc -l)" -eq 1 ]

# limited BLOCKS OUT ARGS: no file may become larger, as on a full disk
limited() {
    status=0
    (
        trap '' XFSZ
        ulimit -f "$1"
        exec "$SONDE" synth "${@:2}" >"$out" 2>"$err" </dev/null
    ) || status=$?
}
limited 200 "$dir/full" --shape tiny
is 'a write that fails is an error that names the file' failed 'model-00001-of-'
is 'nothing is left of it' [ ! -e "$dir/full" ]
sums "$tiny" "$dir/sums"
limited 200 "$tiny" --shape tiny --force
is 'a write that fails in a directory in use is an error' failed 'cannot be written'
is 'which leaves no hidden files' [ "$(find "$tiny" -name '.*' | wc -l)" -eq 0 ]
sums "$tiny" "$dir/sums.again"
is 'and the old checkpoint as it was' cmp "$dir/sums" "$dir/sums.again"

free=$(df -Pk "$dir" | awk 'NR == 2 {print $4}')
if [ "$free" -lt 840000000 ]; then
    run_quietly synth "$dir/pro" --shape pro
    is 'what does not fit the disk is refused at once' failed 'GB are needed'
    is 'before anything is written' [ ! -e "$dir/pro" ]
else
    skip 'what does not fit the disk is refused at once' 'the disk is large'
fi
# killed SIGNAL: while the first shard is being written
killed() {
    "$SONDE" synth "$dir/cut" --shape flash --layers 1 --vocab 64 >"$out" 2>"$err" </dev/null &
    for _ in $(seq 200); do
        [ -z "$(find "$dir/cut" -name '*.safetensors.*' 2>/dev/null)" ] || break
        sleep 0.05
    done
    kill "-$1" $!
    status=0
    wait $! || status=$?
}
for pair in INT=130 TERM=143; do
    if [ "$free" -gt 5000000 ]; then
        killed "${pair%=*}"
        is "SIG${pair%=*} ends it with its status, silently" [ "$status" -eq "${pair#*=}" -a ! -s "$err" ]
        is 'nothing is left then either' [ ! -e "$dir/cut" ]
    else
        skip "SIG${pair%=*} ends it with its status" 'the disk is nearly full'
    fi
done

run_quietly synth "$dir/no/where" --shape tiny
is 'a directory whose parent is not there is named' failed "$dir/no/where"
run_quietly synth "$dir/ids" --shape tiny
is 'a file in its place is named' failed "$dir/ids"
run_quietly synth "$dir/none" --shape tiny --layers 4096 --experts 32768
is 'more experts than can be listed are refused' failed 'experts in all layers together'
run_quietly synth "$dir/none" --shape tiny --tokenizer "$dir/none.json"
is 'a tokenizer that is not there is named' failed "$dir/none.json"
is 'and nothing is made' [ ! -e "$dir/none" ]

# ----------------------------------------------------------------------------------------- wrong usage

run_quietly synth "$dir/none"
is 'the shape is needed' refused '--shape is missing'
run_quietly synth "$dir/none" --shape huge
is 'a shape that is none is refused' refused 'flash|pro|tiny'
run_quietly synth "$dir/none" --shape tiny --layers 0
is 'no layers are refused' refused '--layers'
run_quietly synth "$dir/none" --shape flash --experts 5
is 'fewer experts than a token is sent to are refused' refused '--experts takes at least 6'
run_quietly synth "$dir/none" --shape tiny --vocab 1
is 'a vocabulary without an end is refused' refused '--vocab'
run_quietly synth --shape tiny
is 'OUT is needed' refused 'is missing'
run_quietly synth "$dir/none" --shape tiny --seed -1
is 'a negative seed is refused' refused '--seed'
is 'none of these made a directory' [ ! -e "$dir/none" ]
run_quietly synth --help
is 'synth --help explains it' grep -q '^usage: sonde synth .*OUT$' "$out"
finish
