#!/usr/bin/env bash
# test_train.sh - `sonde train`: a small model of every mechanism learns the project's own documents; what it leaves is
# a model; a run that is killed and goes on gives the bits of one that was not.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

ROUNDS=${ROUNDS:-10} # kills

# config OUT STEPS [KEY=JSON...]: a config in $dir/config.json.
config() {
    local out=$1 steps=$2
    shift 2
    python3 - "$out" "$steps" "$@" >"$dir/config.json" <<'PYTHON'
import json, sys
out, steps, changes = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
c = json.load(open("tests/e2e/train/config.json"))
c.update(out=out, steps=steps)
for change in changes:
    name, value = change.split("=", 1)
    c[name] = json.loads(value)
json.dump(c, sys.stdout)
PYTHON
}

train() { "$SONDE" train "$dir/config.json" "$@" >"$out" 2>"$err"; }

# last NAME LOG: the last value of that name.
last() { grep -o "\"$1\": *[0-9.eE+-]*" "$2" | tail -n 1 | sed 's/.*: *//'; }

trains() { config "$dir/whole" 40 && train; }

learns() {
    local log=$dir/whole/train/log.jsonl first end
    first=$(grep -o '"loss": *[0-9.]*' "$log" | head -n 1 | sed 's/.*: *//')
    end=$(last loss "$log")
    awk -v a="$first" -v b="$end" 'BEGIN { exit !(b < a - 0.3) }'
}

every_default_is_written() {
    python3 - "$dir/whole/train/config.json" <<'PYTHON'
import json, sys
c = json.load(open(sys.argv[1]))
assert c["rate"]["decay"] == 8 and c["dense"] == 4 and c["round_from"] == 32, c
assert c["data"][0]["separator"] == "<|endoftext|>", c
PYTHON
}

curves_are_drawn() {
    head -c 200 "$dir/whole/train/loss.svg" | grep -q '<svg' && head -c 200 "$dir/whole/train/experts.svg" | grep -q '<svg'
}

runs() { "$SONDE" run "$dir/whole" -p 'Sonde' -n 8 --raw --greedy >"$out" 2>"$err" && [ -s "$out" ]; }

# Its bits do not depend on the number of threads.
same_bits() { cmp "$dir/$1/model.safetensors" "$dir/$2/model.safetensors" >"$err" 2>&1; }

other_threads() { config "$dir/threads" 40 'threads=3' && train && same_bits whole threads; }

# Killed at any moment, as often as ROUNDS says, and then left to end.
survives_kills() {
    local i flag='' pid
    config "$dir/killed" 40
    for ((i = 0; i < ROUNDS; i++)); do
        # shellcheck disable=SC2086 # no flag is no argument
        "$SONDE" train "$dir/config.json" $flag >>"$out" 2>>"$err" &
        pid=$!
        sleep "0.$((RANDOM % 9 + 1))"
        kill -9 "$pid" 2>"$dir/null"
        wait "$pid" 2>"$dir/null"
        [ -e "$dir/killed/train/state.safetensors" ] && flag=--resume
    done
    # shellcheck disable=SC2086 # no flag is no argument
    train $flag && same_bits whole killed
}

each_step_is_logged_once() {
    python3 - "$dir/whole/train/log.jsonl" "$dir/killed/train/log.jsonl" <<'PYTHON'
import json, sys
def losses(path):
    lines = [json.loads(line) for line in open(path)]
    return [(x["step"], x["loss"]) for x in lines if "loss" in x]
a, b = map(losses, sys.argv[1:])
assert [step for step, _ in a] == list(range(40)) and a == b, (a, b)
PYTHON
}

interrupted() {
    local pid status
    config "$dir/interrupted" 40
    "$SONDE" train "$dir/config.json" >"$out" 2>"$err" &
    pid=$!
    until grep -qs '"step": *3,' "$dir/interrupted/train/log.jsonl"; do
        kill -0 "$pid" 2>"$dir/null" || return 1
        sleep 0.05
    done
    kill -INT "$pid"
    wait "$pid"
    status=$?
    [ "$status" = 130 ] && grep -q 'resume' "$err" && train --resume && same_bits whole interrupted
}

goes_on_from_a_model() {
    config "$dir/tuned" 4 "from=\"$dir/whole\"" 'model=null' 'tokenizer=null' && train && "$SONDE" inspect "$dir/tuned" >"$out" 2>"$err"
}

# spikes ACTION: a run that learns nothing, so that sooner or later a loss is above its mean, which is called a spike.
spikes() {
    config "$dir/spike-${1// /-}" 90 "spike={\"action\": \"$1\", \"factor\": 1.001}" 'validation=[]' \
        'rate={"peak": 1e-9, "warmup": 0, "decay": 0}' 'batch={"tokens": 64}'
    ! train
}

stops_at_a_spike() { spikes stop && grep -q 'step 5[0-9]: a spike of the loss, [0-9.]* where the mean was [0-9.]*; the last state is' "$err"; }

# Ten times, then it gives up; each time what comes behind the state is not learnt again.
rolls_back() {
    spikes 'roll back' && grep -q 'a spike of the loss, .*; the last state' "$err" &&
        [ "$(grep -c 'roll-back [0-9]' "$dir/spike-roll-back/train/log.jsonl")" = 10 ]
}

# refuses TEXT CHANGE...: with one line that says so.
refuses() {
    local text=$1
    shift
    config "$dir/refused" 4 "$@"
    train
    [ $? = 1 ] && [ "$(wc -l <"$err")" = 1 ] && grep -q -- "$text" "$err"
}

# The model of the tests with experts that FP4 cannot store.
unfit() {
    python3 - <<'PYTHON'
import json
model = json.load(open("tests/e2e/train/config.json"))["model"]
print(json.dumps(model | {"moe_intermediate_size": 24}))
PYTHON
}

refuses_twice() {
    config "$dir/whole" 40
    ! train && grep -q 'resume' "$err"
}

# Not one of a run, but one that somebody has there.
spares_a_model() {
    mkdir -p "$dir/theirs" && echo '{}' >"$dir/theirs/config.json" && config "$dir/theirs" 4
    ! train && grep -q 'theirs/config.json: there is a model already' "$err" && [ ! -e "$dir/theirs/tokenizer.json" ]
}

refuses_nothing() {
    config "$dir/none" 40
    ! train --resume && grep -q 'no state' "$err"
}

is 'a small model is trained' trains
is 'its loss falls' learns
is 'its config has every default' every_default_is_written
is 'its curves are drawn' curves_are_drawn
is 'it runs' runs
is 'three threads give the same bits' other_threads
is "killed $ROUNDS times, it gives the same bits" survives_kills
is 'and has each step in its log once' each_step_is_logged_once
is 'Ctrl-C saves it, and it goes on to the same bits' interrupted
is 'training goes on from a model' goes_on_from_a_model
is 'a spike of the loss stops a run that is to stop then' stops_at_a_spike
is 'or is rolled back, ten times' rolls_back
is 'a run is not begun where one was' refuses_twice
is 'nor where a model is' spares_a_model
is 'nor gone on with where none was' refuses_nothing
is 'an unknown field is refused' refuses 'stepps' 'stepps=4'
is 'a missing file is refused' refuses 'nowhere.txt' 'data=[{"path": "nowhere.txt"}]'
is 'a model whose weights cannot be stored is refused before it is trained' refuses 'expected a multiple' \
    "model=$(unfit)" 'tokenizer="models/nano/tokenizer.json"'
is 'a model that cannot be is refused' refuses 'hidden_size' 'model={"model_type": "deepseek_v4", "vocab_size": 300}'
finish
