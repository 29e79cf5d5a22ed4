#!/usr/bin/env bash
# test_schema_suite.sh - grammars against the JSON Schema Test Suite, as the sources of Python's jsonschema bring it.
#
# They are fetched once into the build directory; where that cannot be done the test is skipped. Left out are the
# files about formats being annotations, as some are enforced here (those have files of their own).
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

PACKAGE=jsonschema
VERSION=4.17.3
suite=$BUILD/schema_suite/$PACKAGE-$VERSION/json/tests

fetch() {
    [ -d "$suite" ] && return 0
    timeout 240 python3 -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: \
        -d "$BUILD/schema_suite" "$PACKAGE==$VERSION" >/dev/null 2>&1 &&
        tar -xzf "$BUILD/schema_suite/$PACKAGE-$VERSION.tar.gz" -C "$BUILD/schema_suite" && [ -d "$suite" ]
}

run_suite() {
    status=0
    "$DRIVER" "$NANO/tokenizer.json" "$@" >"$out" 2>"$err" || status=$?
    tail -n 1 "$out"
}

nothing_wrong() { [ "$status" -eq 0 ] && grep -q ' 0 wrong$' "$out" && silent; }
compiled() { [ "$(sed -n 's/.*: \([0-9]*\) compiled.*/\1/p' "$out")" -ge "$1" ]; }

check_drafts() {
    local new=$suite/draft2020-12 old=$suite/draft7 files
    mapfile -t files < <(find "$new" -maxdepth 1 -name '*.json' ! -name format.json | sort)
    run_suite "${files[@]}" "$new"/optional/format/{date,duration,uuid,ipv4,ipv6}.json \
        "$new"/optional/{ecmascript-regex,non-bmp-regex}.json
    is 'schemas mean what the suite says' nothing_wrong
    is 'and not too few of them are taken' compiled 180
    # The old spellings that are read; there, what stands beside $ref does not count.
    run_suite "$old"/{items,additionalItems,definitions,enum,const,properties,exclusiveMaximum,exclusiveMinimum}.json
    is 'so do those of draft 7' nothing_wrong
    is 'and not too few of those' compiled 20
}

if fetch; then
    check_drafts
else
    skip 'schemas mean what the suite says' "$PACKAGE $VERSION cannot be had"
fi
finish
