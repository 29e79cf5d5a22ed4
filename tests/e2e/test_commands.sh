#!/usr/bin/env bash
# test_commands.sh - every command's help, its refusal of what it does not know, and inspect.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

commands='run chat inspect logits tokenize render parse synth'

mentions_all() {
    local c
    for c in $commands; do
        grep -q "^  $c " "$out" || return 1
    done
}

run_quietly
is 'no command is wrong usage' refused 'command is missing'
run_quietly help
is 'help lists every command' mentions_all
is 'help succeeds' [ "$status" -eq 0 ]
run_quietly --help
is '--help is help' mentions_all
run_quietly --version
is '--version names the version' grep -qE '^sonde [0-9]+\.[0-9]+\.[0-9]+$' "$out"
run_quietly rnu
is 'a misspelt command is refused' refused "'rnu'"
is 'a misspelt command gets a suggestion' says "'run'"
run_quietly help nothing
is 'help on nothing is refused' refused "'nothing'"
run_quietly $'bad\nname'
is 'an error stays one line whatever it names' refused 'bad?name'

for c in $commands; do
    run_quietly "$c" --help
    is "$c --help explains it" grep -q "^usage: sonde $c " "$out"
    is "$c --help succeeds and says nothing else" [ "$status" -eq 0 -a ! -s "$err" ]
    cp "$out" "$dir/help"
    run_quietly help "$c"
    is "help $c is $c --help" cmp -s "$out" "$dir/help"
    run_quietly "$c" --no-such-flag
    is "$c refuses a flag it does not know" refused '--no-such-flag'
    run_quietly "$c" -Z
    is "$c refuses a letter it does not know" refused '-Z'
    run_quietly "$c" one two three
    is "$c refuses too many arguments" refused 'too many'
done

for c in inspect logits tokenize; do
    run_quietly "$c"
    is "$c without its argument is refused" refused 'is missing'
done
for c in render parse; do
    run_quietly "$c"
    is "$c without --jsonl is refused" refused '--jsonl'
done

run_quietly run --temp
is 'a flag without its value is refused' refused '--temp needs a value'
run_quietly run --temp warm -p x
is 'a number that is none is refused' refused "'warm'"
run_quietly run --top-p 1.5 -p x
is 'a number out of range is refused' refused '--top-p'
run_quietly run -n -3 -p x
is 'a negative count is refused' refused "'-3'"
run_quietly run --precision exact -p x
is 'a choice that is none is refused' refused 'fast|f32|kv|official'
run_quietly run --greedy=yes -p x
is 'a switch takes no value' refused '--greedy takes no value'
run_quietly run --stop '' -p x
is 'an empty stop string is refused' refused '--stop'
run_quietly run
is 'run without a prompt is refused' refused 'prompt'
run_quietly run --raw --system x -p y
is '--raw and --system exclude each other' refused '--raw has no conversation, so it does not go with --system'
run_quietly run --raw --effort high -p y
is '--raw and --effort exclude each other' refused '--effort'
run_quietly run --raw --think -p y
is '--raw and --think exclude each other' refused '--think'
run_quietly logits "$NANO" --ids x
is 'logits without --out is refused' refused '--out is missing'

for c in 'run -p x' chat inspect 'logits --ids x --out y'; do
    # shellcheck disable=SC2086 # commands with arguments
    run_quietly $c "$dir/none"
    is "${c%% *} of a model that is not there fails" failed "$dir/none"
done
run_quietly tokenize "$dir/none.json" --jsonl
is 'tokenize with a tokenizer that is not there fails' failed "$dir/none.json"
run_quietly run -p x tests/golden/flash
is 'run of a model without tokenizer fails' failed 'tokenizer.json'

run_quietly inspect "$NANO"
is 'inspect prints the parameters' grep -q '^parameters  16,221,070 total, 8,113,902 active$' "$out"
is 'inspect prints nothing on standard error' silent
run_quietly inspect "$NANO" --json
is 'inspect --json is JSON with the same figures' python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
assert d["parameters"] == {"total": 16221070, "active": 8113902}
assert d["layers"]["csa"] == 2 and d["layers"]["hca"] == 1 and d["layers"]["window"] == 2
assert d["bytes"]["total"] == sum(v for k, v in d["bytes"].items() if k != "total")
assert d["memory"]["context"] == 4096 and d["memory"]["cache_bytes"] > 0' "$out"
run_quietly inspect "$NANO" --json --context 64 --tensors
is 'inspect --tensors lists them, --context is obeyed' python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
assert len(d["tensors"]) == d["tensor_count"] and d["memory"]["context"] == 64
assert sum(t["bytes"] for t in d["tensors"]) == d["bytes"]["total"]' "$out"
run_quietly inspect tests/golden/v41-flash
is 'inspect tells the roles of layers of DeepSeek-V4.1' grep -qx \
    'layers      9: 2 window only, 3 make entries, 1 choose anew, 3 reuse a choice' "$out"
is 'drafting blocks are not active' grep -q '^parameters  3,917,068 total, 2,216,082 active$' "$out"
run_quietly inspect "$NANO" --check
is 'inspect --check finds the bundled model sound' [ "$status" -eq 0 ]

cp -r tests/golden/flash "$dir/"$'caf\xe9'
run_quietly inspect "$dir/"$'caf\xe9'
is 'inspect shows a name that is not UTF-8' grep -qx "model       $dir/caf?" "$out"
run_quietly inspect "$dir/"$'caf\xe9' --json
is 'inspect --json shows it too' python3 -c '
import json, sys
assert json.load(open(sys.argv[1]))["model"].endswith("/caf?")' "$out"

mkfifo "$dir/fifo"
mkdir "$dir/stuck"
mkfifo "$dir/stuck/config.json"
status=0
timeout 20 "$SONDE" inspect "$dir/stuck" >"$out" 2>"$err" </dev/null || status=$?
is 'a FIFO in the place of config.json holds nobody up' failed 'config.json: not a regular file'
status=0
timeout 20 "$SONDE" tokenize "$dir/fifo" --jsonl >"$out" 2>"$err" </dev/null || status=$?
is 'a FIFO in the place of tokenizer.json holds nobody up' failed 'fifo: not a regular file'

# a NaN in a scale is found by name
mkdir "$dir/bad"
cp tests/golden/flash/* "$dir/bad"
python3 - "$dir/bad" <<'PY'
import json, pathlib, sys
path = next(pathlib.Path(sys.argv[1]).glob("model-*.safetensors"))
data = bytearray(path.read_bytes())
size = int.from_bytes(data[:8], "little")
at = json.loads(data[8:8 + size])["layers.2.attn.wq_b.scale"]["data_offsets"][0]
data[8 + size + at + 1] = 255
path.write_bytes(data)
PY
run_quietly inspect "$dir/bad" --check
is 'inspect --check names the tensor with a NaN scale' says 'layers.2.attn.wq_b.scale: element 1 '
is 'inspect --check then fails' [ "$status" -eq 1 ]
run_quietly inspect "$dir/bad"
is 'inspect without --check reads no values' [ "$status" -eq 0 ]
truncate -s -1 "$dir"/bad/model-*.safetensors
run_quietly inspect "$dir/bad"
is 'a truncated file is refused by name' failed 'model-00001-of-00001.safetensors'

"$SONDE" help >/dev/full 2>"$err" </dev/null
status=$?
is 'a full disk is an error' [ "$status" -eq 1 ]
is 'a full disk is named' says 'No space left'
"$SONDE" help >&- 2>"$err" </dev/null
status=$?
is 'a closed standard output is an error' [ "$status" -eq 1 ]
finish
