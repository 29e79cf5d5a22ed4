#!/bin/sh
# prepare.sh DATA OUT - what the bundled model learns besides stories.txt, made of DATA (stories.txt, chat.jsonl) into OUT:
#
#     requests.jsonl   stories as answers to requests (requests.awk)
#     chat.jsonl       short questions and answers, without those under a share-alike licence
set -eu
here=$(dirname "$0")
mkdir -p "$2"
awk -f "$here/requests.awk" "$1/stories.txt" >"$2/requests.jsonl"
grep -v '"src": "dolly' "$1/chat.jsonl" >"$2/chat.jsonl"
