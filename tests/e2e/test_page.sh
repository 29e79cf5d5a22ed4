#!/usr/bin/env bash
# test_page.sh - the page of `sonde serve` in a browser: test_page.py against two servers, one of which wants a key.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

# Debian's Python, to which python3-selenium belongs.
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null ||
    ! /usr/bin/python3 -c 'import selenium' 2>/dev/null; then
    skip 'the page in a browser' 'needs chromium, chromium-driver and python3-selenium'
    finish
fi

servers=()
trap 'kill "${servers[@]}" 2>/dev/null; wait; rm -rf "$dir"' EXIT

# serve NAME ARGS...: a server on a free port, whose address is left in $address.
serve() {
    local name=$1
    shift
    "$SONDE" serve "$NANO" --port 0 "$@" >"$dir/$name" 2>&1 &
    servers+=($!)
    for _ in $(seq 200); do
        address=$(grep -o 'http://[^ /"]*' "$dir/$name" | head -n 1)
        [ -z "$address" ] || return 0
        sleep 0.1
    done
    echo "Bail out! sonde serve said no address: $(head -c 500 "$dir/$name")"
    exit 1
}

echo 'a-key-of-the-test name=test' >"$dir/keys"
serve open
open=$address
serve keyed --api-key-file "$dir/keys"

PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/e2e/test_page.py "$open" "$address" a-key-of-the-test "$dir"
