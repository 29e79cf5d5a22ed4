#!/usr/bin/env bash
# test_memory.sh - a model larger than memory: in a control group whose limit is below the checkpoint's size the answers
# are those of a run with memory for all of it. Needs a group of its own under the one it runs in; else it is skipped.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

limit=$((160 << 20))
[ -z "${SANITIZE:-}" ] || [ "$SANITIZE" = none ] || limit=$((200 << 20)) # shadow memory counts too
group=

# own CONTROLLER: the control group this runs in; the empty name is version 2.
own() { sed -n "s/^[0-9]*:$1://p" /proc/self/cgroup 2>/dev/null; }

# try FOLDER FILE: a group with the limit below FOLDER, into $group.
try() {
    mkdir "$1/sonde-e2e-$$" 2>/dev/null || return 1
    group=$1/sonde-e2e-$$
    [ -e "$group/$2" ] && echo "$limit" 2>/dev/null >"$group/$2" && return 0
    rmdir "$group"
    return 1
}

# capped ARGS...: run, with the limit.
capped() {
    status=0
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec "$SONDE" "$@"
    ) >"$out" 2>"$err" </dev/null || status=$?
}

# What the group was refused for want of memory, and had to make room for.
refusals() {
    if [ -e "$group/memory.failcnt" ]; then
        cat "$group/memory.failcnt"
    else
        sed -n 's/^max //p' "$group/memory.events"
    fi
}

try "/sys/fs/cgroup/memory$(own memory)" memory.limit_in_bytes || try "/sys/fs/cgroup$(own '')" memory.max ||
    { skip 'a run with less memory than weights' 'no control group of its own' && finish; }
trap 'rmdir "$group"; rm -rf "$dir"' EXIT
[ "$(stat -f -c %T "$dir")" != tmpfs ] || { skip 'a run with less memory than weights' "$dir is memory" && finish; }

model=$dir/model
run_quietly synth "$model" --shape flash --layers 1 --experts 10 --vocab 512
is 'a checkpoint of a quarter of a gigabyte is made' [ "$status" -eq 0 ]
bytes=$(cat "$model"/*.safetensors | wc -c)
is 'it is larger than the limit' [ "$bytes" -gt $((limit * 5 / 4)) -a "$bytes" -lt 300000000 ]
for ((i = 0; i < 24; i++)); do echo $((i * 37 % 512)); done >"$dir/ids"
run_quietly logits "$model" --ids "$dir/ids" --out "$dir/all" --decode-from 20
is 'there is memory for all of it' [ "$status" -eq 0 ]

for file in "$model"/*.safetensors; do # out of memory again, else its pages are there at no cost to the group
    dd of="$file" oflag=nocache conv=notrunc,fdatasync count=0 2>/dev/null
done
capped logits "$model" --ids "$dir/ids" --out "$dir/less" --decode-from 20
is 'below the limit it works too' [ "$status" -eq 0 -a ! -s "$err" ]
is 'the limit was reached' [ "$(refusals)" -gt 0 ]
is 'and the logits are the same, bit for bit' cmp "$dir/all" "$dir/less"
finish
