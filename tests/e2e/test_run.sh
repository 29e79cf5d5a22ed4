#!/usr/bin/env bash
# test_run.sh - sonde run on the bundled model: its answers, its silence, and how it ends.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

sentences() { [ "$(grep -o '[.!?]' "$out" | wc -l)" -ge "$1" ]; }
words() { [ "$(wc -w <"$out")" -ge "$1" ]; }
ends_in_newline() { [ "$(tail -c 1 "$out" | od -An -tx1 | tr -d ' ')" = 0a ]; }

run_quietly run -p 'Tell me a story about a cat.' -n 200 --seed 7 --temp 0.7
cp "$out" "$dir/first"
is 'a story succeeds' [ "$status" -eq 0 ]
is 'a story has several sentences' sentences 3
is 'a story has words enough' words 30
is 'nothing is said beside the answer' silent
is 'the answer ends in a newline' ends_in_newline
is 'the answer holds no special tokens' [ "$(grep -c '<｜' "$out")" -eq 0 ]
run_quietly run "$NANO" -p 'Tell me a story about a cat.' -n 200 --seed 7 --temp 0.7
is 'the bundled model is models/nano, and the same seed gives the same text' cmp -s "$out" "$dir/first"
run_quietly run -p 'Tell me a story about a cat.' -n 200 --seed 8 --temp 0.7
is 'another seed gives another text' [ "$(cmp -s "$out" "$dir/first" && echo same)" != same ]
SONDE_MODEL=$dir/none run_quietly run -p x
is 'SONDE_MODEL names another bundled model' failed "$dir/none"
mkdir "$dir/elsewhere"
(cd "$dir/elsewhere" && run_quietly run -p Hi -n 3 --seed 1 && exit "$status")
status=$?
is 'the bundled model is found from any directory' [ "$status" -eq 0 -a -s "$out" ]

run_quietly run --greedy -p 'What do cows eat?' -n 40
cp "$out" "$dir/greedy"
run_quietly run --greedy -p 'What do cows eat?' -n 40 --chunk 1
is 'greedy answers do not depend on the seed or the chunk' cmp -s "$out" "$dir/greedy"
run run --greedy -n 40 <<<'What do cows eat?'
is 'the prompt comes from standard input too' cmp -s "$out" "$dir/greedy"
run run --greedy -n 40 -p - <<<'What do cows eat?'
is '-p - reads standard input' cmp -s "$out" "$dir/greedy"
run_quietly run -p 'What do cows eat?' -n 40 --temp 2 --top-k 1 --seed 9
is '--top-k 1 is greedy' cmp -s "$out" "$dir/greedy"
differs() { [ -s "$out" ] && ! cmp -s "$out" "$1"; }
hot=(run --raw -p 'Once upon a time' -n 60 --seed 7 --temp 2 --top-k 0 --top-p 1 --min-p 0)
run_quietly "${hot[@]}"
cp "$out" "$dir/hot"
for flag in '--temp 0.5' '--top-k 2' '--top-p 0.2' '--min-p 0.5' '--repetition-penalty 9' '--presence-penalty 50' \
    '--frequency-penalty 50' '--seed 8' '--greedy'; do
    # shellcheck disable=SC2086 # a flag and its value
    run_quietly "${hot[@]}" $flag
    is "$flag changes the text" differs "$dir/hot"
done

run_quietly run --raw -p 'Once upon a time' -n 12 --greedy
is '--raw continues the text' [ "$status" -eq 0 -a -s "$out" ]
cp "$out" "$dir/raw"
run_quietly run --raw -p '<｜begin▁of▁sentence｜>Once upon a time' -n 12 --greedy
is '--raw understands special tokens, and begins a text once' cmp -s "$out" "$dir/raw"
run_quietly run --raw -p '' -n 8 --seed 3
is '--raw goes on from nothing' [ "$status" -eq 0 -a -s "$out" ]

run_quietly run -p 'Hello' -n 16 --seed 1
is 'a plain question is answered' [ "$status" -eq 0 -a -s "$out" ]
"$SONDE" run -p 'Hello' -n 1 --seed 1 --stats >/dev/null 2>"$dir/plain" </dev/null
"$SONDE" run -p 'Hello<think>' -n 1 --seed 1 --stats >/dev/null 2>"$dir/typed" </dev/null
tokens_in() { sed -E 's/.*prompt ([0-9]+) tokens.*/\1/' "$1"; }
is 'a special token typed by a user is text, not a token' [ "$(tokens_in "$dir/typed")" -gt $(($(tokens_in "$dir/plain") + 1)) ]
is '--stats names the seed' grep -q 'seed 1$' "$dir/plain"

for i in 1 2; do
    "$SONDE" run --cache-dir "$dir/cache" -p 'Tell me about a dog' -n 12 --seed 1 --stats >"$dir/kept$i" 2>"$dir/said$i" </dev/null
done
is 'a second start takes up what the first has read' grep -q "prompt $(tokens_in "$dir/said2") tokens, $(tokens_in "$dir/said2") of them remembered" "$dir/said2"
is 'and says the same' cmp -s "$dir/kept1" "$dir/kept2"
# killed at any moment, the directory is as good as before
damaged=0
for i in $(seq 12); do
    "$SONDE" run --cache-dir "$dir/cache" -p "Tell me a story about a dog, a cat and $i hens" -n 40 --seed 1 >/dev/null 2>>"$dir/torn" </dev/null &
    job=$!
    sleep "0.0$((i * 7 % 10))$i"
    kill -KILL "$job" 2>/dev/null
    wait "$job" 2>/dev/null
    "$SONDE" run --cache-dir "$dir/cache" -p 'Tell me about a dog' -n 12 --seed 1 >"$dir/kept3" 2>>"$dir/torn" </dev/null
    cmp -s "$dir/kept1" "$dir/kept3" || damaged=$((damaged + 1))
done
is 'and is killed at any moment without harm' [ "$damaged" -eq 0 -a ! -s "$dir/torn" ]
run_quietly run --cache-dir "$dir/no/such" -p 'Hello' -n 1
is 'a cache directory that cannot be made is named' [ "$status" -eq 1 -a "$(grep -c "$dir/no/such" "$err")" -eq 1 ]

run_quietly run --raw -p 'Once upon a time' -n 60 --greedy
cp "$out" "$dir/whole"
word=$(tr -s ' ' '\n' <"$out" | grep -E '^[a-z]{4,}$' | sed -n 3p)
run_quietly run --raw -p 'Once upon a time' -n 60 --greedy --stop "${word:-none}"
is 'a stop string is no error' [ "$status" -eq 0 -a -n "$word" -a -s "$out" ]
is 'the text ends before a stop string' python3 -c '
import sys
whole, stopped = (open(p, encoding="utf-8").read() for p in sys.argv[2:])
assert sys.argv[1] in whole and stopped == whole.partition(sys.argv[1])[0]' "${word:-none}" "$dir/whole" "$out"

run_quietly run -p 'Tell me a story.' -n 200 --context 20
is 'a full context ends the answer without an error' [ "$status" -eq 0 ]
run_quietly run -p "$(printf 'a cat %.0s' {1..40})" --context 20
is 'a prompt that does not fit is an error' failed 'context'

"$SONDE" run -p 'Hi' -n 8 >/dev/full 2>"$err" </dev/null
status=$?
rm -f "$out"
is 'a full disk is one line and status 1' [ "$status" -eq 1 -a "$(wc -l <"$err")" -eq 1 ]
{ "$SONDE" run --raw -p 'Once' -n 400 --seed 1 2>"$err" </dev/null; echo $? >"$dir/status"; } | head -c 5 >"$out"
is 'a closed pipe ends it quietly' silent
is 'a closed pipe gets the text that was read' [ "$(wc -c <"$out")" -eq 5 ]
# 141: SIGPIPE; 1 where whoever runs this ignores that signal
status=$(cat "$dir/status")
is 'a closed pipe ends it before the answer ends' [ "$status" -eq 141 -o "$status" -eq 1 ]

# Ctrl-C once there is text; so hot a model does not end by itself
rm -f "$out"
"$SONDE" run --raw -p 'Once upon a time' --seed 1 --temp 5 -n 4000 --stats >"$out" 2>"$err" </dev/null &
job=$!
for ((i = 0; i < 200; i++)); do
    [ -s "$out" ] && break
    sleep 0.05
done
kill -INT "$job"
wait "$job"
status=$?
over() { grep -qE '; (end of turn|token limit|context full); seed' "$err"; }
if [ "$status" -eq 0 ] && over; then
    skip 'Ctrl-C ends an answer with status 130' 'the answer was over before'
else
    is 'Ctrl-C ends an answer with status 130' [ "$status" -eq 130 ]
fi
is 'Ctrl-C leaves the text that was there' [ -s "$out" ]
is 'Ctrl-C is no error' [ "$(grep -vc 'seed 1$' "$err")" -eq 0 ]
# The bundled model, asked at random, sometimes goes on with the user's next turn: that ends the answer
for seed in 1 2 3 4 5 6 7 8 9 10 11 12; do
    "$SONDE" run -p 'Tell me a story.' --seed "$seed" -n 150 2>>"$dir/turns.err" </dev/null
done >"$dir/turns"
is 'no answer shows the tokens that begin a turn' [ "$(grep -c '<｜' "$dir/turns")" -eq 0 ]

# DeepSeek-V4.1: the same answer whatever the chunks of its prompt and the threads are
v41() { "$SONDE" run tests/golden/v41-flash -p 'Hello there, who are you?' --greedy -n 24 "$@" 2>"$err" </dev/null; }
is 'a model of V4.1 answers' [ -n "$(v41)" ]
is 'with one thread as with three' [ "$(v41 --threads 1)" = "$(v41 --threads 3)" ]
is 'and as the released code decodes, if asked to' [ -n "$(v41 --released-decode)" ]
"$SONDE" run --released-decode -p hello >"$out" 2>"$err" </dev/null
status=$?
is 'V4 knows no such thing' [ "$status" -eq 1 -a "$(wc -l <"$err")" -eq 1 ]

finish
