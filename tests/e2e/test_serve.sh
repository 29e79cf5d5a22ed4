#!/usr/bin/env bash
# test_serve.sh - `sonde serve` as its clients see it: test_serve.py, which starts servers of its own.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

PYTHONDONTWRITEBYTECODE=1 python3 tests/e2e/test_serve.py "$SONDE" "$NANO" "$dir"
