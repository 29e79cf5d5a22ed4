#!/usr/bin/env bash
# test_install.sh - installs into an empty root, and builds and runs the example against what is there.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

if [ "${SANITIZE:-none}" != none ]; then
    skip 'installation' 'a program cannot be linked to a sanitized library without the sanitizers'
    finish
fi

root=$dir/root
status=0
meson install -C "$BUILD" --no-rebuild --quiet --destdir "$root" >"$out" 2>"$err" || status=$?
is 'meson install succeeds' [ "$status" -eq 0 ]
prefix=$root$(meson introspect "$BUILD" --buildoptions |
    python3 -c 'import json, sys; print(next(o["value"] for o in json.load(sys.stdin) if o["name"] == "prefix"))')
pc=$(find "$prefix" -name sonde.pc)
is 'sonde.pc is installed' [ -n "$pc" ]
is 'the header is installed' [ -e "$prefix/include/sonde.h" ]
is 'the library is installed' [ -n "$(find "$prefix" -name libsonde.so)" ]
is 'the bundled model is installed' [ -e "$prefix/share/sonde/models/nano/model.safetensors" ]

export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR=$root
PKG_CONFIG_PATH=$(dirname "$pc")
library=$(dirname "$(find "$prefix" -name libsonde.so)")
status=0
# shellcheck disable=SC2046 # several flags
cc -Wall -Wextra -Werror -std=c11 examples/complete.c $(pkg-config --cflags --libs sonde) -o "$dir/complete" \
    >"$out" 2>"$err" || status=$?
is 'the example compiles against the installation' [ "$status" -eq 0 ]
status=0
LD_LIBRARY_PATH=$library "$dir/complete" "$prefix/share/sonde/models/nano" 'Once upon a time' 40 \
    >"$out" 2>"$err" || status=$?
is 'the example runs' [ "$status" -eq 0 ]
is 'the example writes a text' [ "$(wc -w <"$out")" -ge 10 ]
status=0
LD_LIBRARY_PATH=$library "$dir/complete" "$dir/none" x >"$out" 2>"$err" || status=$?
is 'the example says what is missing' grep -q "$dir/none" "$err"

# the program finds its model beside itself
status=0
(cd / && LD_LIBRARY_PATH=$library "$prefix/bin/sonde" run -p Hi -n 4 --seed 1) >"$out" 2>"$err" </dev/null || status=$?
is 'the installed program finds the bundled model' [ "$status" -eq 0 -a -s "$out" ]
finish
