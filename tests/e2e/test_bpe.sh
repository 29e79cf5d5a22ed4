#!/usr/bin/env bash
# test_bpe.sh - tokenizers that we train, beside the package `tokenizers` of Hugging Face: the same merges from the same
# texts, and the same ids from the same file.
#
# The package is that of bpe/requirements.txt, installed under $BUILD once for each state of that file. Where it cannot
# be had, all is skipped.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

sources=tests/e2e/bpe
place=$(readlink -m "${BUILD:-build}/bpe")
python=$place/bin/python
export PYTHONDONTWRITEBYTECODE=1

install_package() {
    cmp -s "$sources/requirements.txt" "$place/installed" && return
    rm -rf "$place"
    python3 -m venv "$place" >"$dir/log" 2>&1 &&
        "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
            -r "$sources/requirements.txt" >"$dir/log" 2>&1 &&
        cp "$sources/requirements.txt" "$place/installed"
}

# train SIZE SEED COUNT: a tokenizer from texts of that seed.
train() {
    "$python" "$sources/compare.py" texts "$2" "$3" >"$dir/texts"
    "$TOOL" "$1" "$dir/tokenizer.json" "$dir/texts" >"$out" 2>"$err"
}

same_merges() { "$python" "$sources/compare.py" merges "$dir/tokenizer.json" "$dir/texts" >"$out" 2>"$err"; }

# same_ids SEED: of other texts, and of a file of odd ones.
same_ids() {
    { "$python" "$sources/compare.py" texts "$1" 200 && grep '"ids"' tests/golden/text/nano-tokenizer.jsonl; } |
        "$SONDE" tokenize --jsonl "$dir/tokenizer.json" >"$dir/ids" 2>"$err" &&
        "$python" "$sources/compare.py" ids "$dir/tokenizer.json" "$dir/ids" >"$out" 2>"$err"
}

compare() {
    local seed
    for seed in 1 2 3; do
        is "texts $seed: a tokenizer is trained" train $((400 * seed)) "$seed" $((200 * seed))
        is "texts $seed: its merges are those of the reference" same_merges
        is "texts $seed: so are the ids that it gives" same_ids $((100 + seed))
    done
}

if install_package; then
    compare
else
    skip 'trained tokenizers are those of the reference' 'the package tokenizers cannot be had'
fi
finish
