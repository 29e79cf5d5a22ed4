#!/usr/bin/env bash
# test_jsonl.sh - tokenize, render and parse, a line of JSON at a time.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

json() { python3 -c "
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1], encoding='utf-8')]
assert $1, lines" "$out"; }

TOKENIZER=$NANO/tokenizer.json

run tokenize "$TOKENIZER" --jsonl <<'E2E'
{"text": "Once upon a time, there was a cat."}
{"text": "caf\u00e9 \u4f60\u597d \ud83d\ude00\u0000 end"}
{"text": "<｜User｜>"}
{"text": ""}
E2E
is 'tokenize answers every line' json 'len(lines) == 4'
is 'decoding gives the text back' json \
    'lines[0]["text"] == "Once upon a time, there was a cat." and lines[1]["text"] == "café 你好 😀\0 end"'
user=$(python3 -c '
import json, sys
print(next(t["id"] for t in json.load(open(sys.argv[1]))["added_tokens"] if t["content"] == "<｜User｜>"))' "$TOKENIZER")
is 'a special token is one id' json "lines[2] == {'ids': [$user], 'text': '<｜User｜>'}"
is 'nothing gives nothing' json 'lines[3] == {"ids": [], "text": ""}'

run tokenize "$TOKENIZER" --jsonl <<'E2E'
{"text": "fine"}
{"text": 7}
{"text": "never reached"}
E2E
is 'a bad line ends it with its number' [ "$status" -eq 1 ]
is 'the number is in the message' says 'line 2: field text'
is 'lines before it are answered' json 'len(lines) == 1'
for bad in '{"text": "x"' '[]' '' '{"other": 1}' '{"text": "\ud800"}'; do
    run tokenize "$TOKENIZER" --jsonl <<<"$bad"
    is "tokenize refuses the line '$bad'" failed 'line 1'
done
run_quietly tokenize "$TOKENIZER" --jsonl
is 'no lines are no error' [ "$status" -eq 0 -a ! -s "$out" ]
is 'each line is answered before the next is read' python3 -c '
import subprocess, sys
p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for i in range(3):
    p.stdin.write("{\"text\": \"a\"}\n")
    p.stdin.flush()
    assert p.stdout.readline().startswith("{")
p.stdin.close()
assert p.wait() == 0' "$SONDE" tokenize "$TOKENIZER" --jsonl

run render --jsonl <<'E2E'
{"messages": [{"role": "user", "content": "Hi"}]}
{"messages": [{"role": "user", "content": "Hi"}], "thinking_mode": "thinking"}
E2E
is 'render gives the prompt' json 'lines[0] == {"prompt": "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>"}'
is 'render opens the thinking' json 'lines[1]["prompt"].endswith("<｜Assistant｜><think>")'
mkdir "$dir/v41" "$dir/other"
echo '{"model_type": "deepseek_v41", "text_config": {"hidden_size": 96}}' >"$dir/v41/config.json"
echo '{"model_type": "llama"}' >"$dir/other/config.json"
run render --jsonl "$dir/v41" <<'E2E'
{"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}]}
{"messages": [{"role": "user", "content": "Hi"}], "thinking_mode": "thinking", "reasoning_effort": 42}
E2E
is 'render takes the format from a model' json 'lines[0]["prompt"] == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜System｜>Be brief.<｜Assistant｜></think>"'
is 'with its efforts' json '"<｜System｜>Reasoning Effort: 42 (range 1-100," in lines[1]["prompt"]'
run render --jsonl "$dir/v41" <<<'{"messages": [], "reasoning_effort": 101}'
is 'and refuses others' failed 'an integer from 1 to 100'
run render --jsonl "$dir/other" <<<'{"messages": []}'
is 'render refuses a model whose format it does not know' failed 'model_type'
run render --jsonl "$dir/nowhere" <<<'{"messages": []}'
is 'render refuses a model that is not there' failed 'nowhere/config.json'
run render --jsonl <<<'{"messages": [{"role": "nobody", "content": "Hi"}]}'
is 'render refuses a role it does not know' failed 'line 1'
run render --jsonl <<<'{"thinking_mode": "chat"}'
is 'render refuses what has no messages' failed 'messages'

run parse --jsonl <<'E2E'
{"text": "Hello.", "thinking_mode": "chat"}
{"text": "hm</think>Hello.", "thinking_mode": "thinking"}
{"text": "half a <｜DSML｜tool_calls>\n<｜DSML｜invoke name=", "thinking_mode": "chat"}
E2E
is 'parse gives the message' json 'lines[0]["message"]["content"] == "Hello."'
is 'parse divides reasoning from text' json 'lines[1]["message"]["reasoning_content"] == "hm"'
is 'parse never fails on what a model wrote' json 'lines[2]["message"]["role"] == "assistant"'
run parse --jsonl "$dir/v41" <<'E2E'
{"text": "a\n\n<｜DSML｜ calls>\n<｜DSML｜ invoke name=\"n::f\">\n\n</｜DSML｜ invoke>\n</｜DSML｜ calls>"}
E2E
is 'parse divides namespaces where a model has them' json 'lines[0]["message"]["tool_calls"] == [{"type": "function", "namespace": "n", "function": {"name": "f", "arguments": "{}"}}]'
run parse --jsonl <<<'{"text": "x", "thinking_mode": "deep"}'
is 'parse refuses a mode it does not know' failed 'thinking_mode'
finish
