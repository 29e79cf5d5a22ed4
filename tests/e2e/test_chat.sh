#!/usr/bin/env bash
# test_chat.sh - sonde chat, scripted through standard input and typed at a terminal.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

lines() { wc -l <"$out"; }

run chat --seed 1 -n 24 <<'E2E'
Hello.
What do cows eat?
E2E
is 'a scripted conversation succeeds' [ "$status" -eq 0 ]
is 'it answers every line' [ "$(lines)" -ge 2 ]
is 'it prints no prompt and nothing beside' silent
cp "$out" "$dir/first"
run chat --seed 1 -n 24 <<'E2E'
Hello.
What do cows eat?
E2E
is 'the same seed gives the same conversation' cmp -s "$out" "$dir/first"

run chat --greedy -n 24 <<E2E
/system Be kind.
Hello \\
there.
/stats
/save $dir/saved
/undo
/undo
/seed 5
/seed
/temp 0.5
/help
/exit
never reached
E2E
is 'commands are understood' says 'seed of the next answer: 5'
is '/save says how much' says '2 messages in'
is '/undo says when there is nothing' says 'nothing to take back'
is '/stats counts tokens' says 'tokens held'
is '/help lists the commands' says '/retry'
is '/exit ends it' [ "$(grep -c 'never' "$err")" -eq 0 ]
is 'only the answer is on standard output' [ "$(grep -c '^sonde:' "$out")" -eq 0 ]
is 'the saved file is a request of render' python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
assert [m["role"] for m in d["messages"]] == ["system", "user", "assistant"]
assert d["messages"][1]["content"] == "Hello \nthere."' "$dir/saved"
run render --jsonl <"$dir/saved"
is 'render reads the saved file' [ "$status" -eq 0 ]

run chat --greedy -n 24 --load "$dir/saved" <<E2E
What next?
/save $dir/again
E2E
is 'a loaded conversation goes on' python3 -c '
import json, sys
a, b = (json.load(open(p))["messages"] for p in sys.argv[1:])
assert b[:3] == a and [m["role"] for m in b[3:]] == ["user", "assistant"]' "$dir/saved" "$dir/again"

run chat --greedy -n 24 <<<'Hello '
cp "$out" "$dir/whole"
same() { [ "$status" -eq 0 ] && [ -s "$out" ] && cmp -s "$out" "$dir/whole"; }
run chat --greedy -n 24 < <(printf '%s' "Hello \\")
is 'a message that the end of input cuts off is answered' same
run chat --greedy -n 24 < <(printf '%s\n' "Hello \\")
is 'one that ends in a backslash and a newline too' same
run chat </
is 'an input that cannot be read is an error' failed 'standard input: Is a directory'

run chat <<E2E
/think high$(printf ' \t')
/temp 1$(printf ' ')
/save $dir/blanks$(printf ' ')
E2E
is 'blanks behind an argument do not count' [ "$status" -eq 0 -a -s "$dir/blanks" ]
is 'and the argument is understood' says 'thinking: high'

echo '{"messages": [{"role": "assistant", "content": "Hi."}]}' >"$dir/unasked"
run chat --load "$dir/unasked" <<E2E
/retry
/undo
/save $dir/still
E2E
is '/retry without a question says so' says 'nothing to answer again'
is '/undo without a question says so' says 'nothing to take back'
is 'neither drops what is there' grep -q '"Hi\."' "$dir/still"

# a growing conversation feeds the session only what is new, and that changes nothing
run chat --greedy -n 24 <<E2E
Hello.
What do cows eat?
E2E
tail -n 1 "$out" >"$dir/grown"
run chat --greedy -n 24 <<E2E
Hello.
/save $dir/one
E2E
run chat --greedy -n 24 --load "$dir/one" <<<'What do cows eat?'
tail -n 1 "$out" >"$dir/fresh"
is 'a session that was extended answers as a new one does' cmp -s "$dir/grown" "$dir/fresh"

run chat <<<'/bogus'
is 'an unknown command is named' says '/bogus'
run chat <<<'/hlep'
is 'an unknown command gets a suggestion' says '/help'
run chat <<<"/load $dir/none"
is '/load of nothing fails' says "$dir/none"
echo '{"messages": [{"role": "robot", "content": "x"}]}' >"$dir/bad"
run chat <<<"/load $dir/bad"
is '/load refuses a role it does not know' says 'message 0'
echo '{"messages": [{"role": "user", "content": "x", "tools": []}]}' >"$dir/bad"
run chat <<<"/load $dir/bad"
is '/load refuses what it would lose' says 'message 0: field tools'
run chat --context 16 -n 4 <<<"$(printf 'a cat %.0s' {1..40})"
is 'a message too long says how to make room' says '/reset'
"$SONDE" chat -n 8 >/dev/full 2>"$err" <<<'Hi'
status=$?
is 'a full disk ends it with status 1' [ "$status" -eq 1 ]

# ----------------------------------------------------------------------------------- at a terminal

if command -v tmux >/dev/null; then
    server="sonde-e2e-$$"
    pane() { tmux -L "$server" -f /dev/null "$@"; }
    trap 'pane kill-server 2>/dev/null; rm -rf "$dir"' EXIT
    shows() {
        local i
        for ((i = 0; i < 150; i++)); do
            pane capture-pane -p -J >"$out"
            grep -qF -- "$1" "$out" && return 0
            sleep 0.1
        done
        return 1
    }
    pane new-session -d -x 38 -y 40 "XDG_STATE_HOME=$dir/state '$SONDE' chat --seed 1 -n 30 2>&1; echo left \$?; sleep 60"
    is 'a terminal gets a prompt' shows '> '
    pane send-keys 'half a line' C-c
    sleep 0.3
    pane send-keys 'Hello there.' Enter
    is 'what is typed is shown' shows 'Hello there.'
    pane send-keys '/stats' Enter
    is 'the answer is followed by a prompt' shows 'wrote'
    is 'Ctrl-C gave up the line before' grep -q '2 messages' "$out"
    pane send-keys Up Up Enter
    sleep 0.5
    pane send-keys '/stats' Enter
    is 'the history brings a message back' shows '4 messages'
    pane send-keys '/temp 3' Enter '/system x' Enter
    pane send-keys 'caf' 'é' ' 你好' Enter
    is 'characters beyond ASCII can be typed' shows 'café 你好'
    pane send-keys '/stats' Enter
    is 'a hot and commanded model answers too' shows '6 messages'
    pane send-keys C-d
    is 'Ctrl-D leaves with status 0' shows 'left 0'
    is 'the history is kept, and private' [ "$(stat -c %a "$dir/state/sonde/history")" = 600 ]
else
    skip 'a terminal gets a prompt' 'no tmux'
fi
printf '/think high\nhi\n' | "$SONDE" chat -n 5 >"$out" 2>"$err"
is 'thinking that never ends is said' says 'still thinking'

# Killed at its prompt, it leaves the terminal as it was
if python3 -c 'import pty; pty.openpty()' 2>/dev/null; then
    is 'a kill at the prompt leaves the terminal as it was' python3 - "$SONDE" <<'EOF'
import os, pty, signal, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "chat"])
before = termios.tcgetattr(terminal)[3]
for _ in range(200):  # until libedit has changed the modes
    time.sleep(0.05)
    if termios.tcgetattr(terminal)[3] != before:
        break
else:
    sys.exit("the prompt never came")
os.kill(pid, signal.SIGTERM)
for _ in range(200):
    time.sleep(0.05)
    if termios.tcgetattr(terminal)[3] == before:
        sys.exit(0 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM else "not killed")
sys.exit("the modes stayed changed")
EOF
else
    skip 'a kill at the prompt leaves the terminal as it was' 'no python3, or no pseudo-terminals'
fi

finish
