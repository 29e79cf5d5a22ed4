#!/usr/bin/env bash
# test_aarch64.sh - the kernels of 64-bit Arm, built by a cross compiler and run under emulation: on a processor that
# has everything, where every level must run, and on one without BF16, where that level must stay away.
#
# What the programs say as TAP is passed on under one numbering. $BUILD is where the cross build goes; the working
# directory is the source root.
set -u

build=${BUILD:-build}/aarch64
said=$(mktemp)
trap 'rm -f "$said"' EXIT

skip_all() {
    echo "1..1"
    echo "ok 1 - kernels of 64-bit Arm # SKIP $1"
    exit 0
}

# The cross build, configured once; its words are shown only if it fails.
build_all() {
    {
        [ -e "$build/build.ninja" ] ||
            meson setup "$build" --cross-file tests/cross/aarch64.ini -Dkernels_only=true
    } >"$said" 2>&1 && ninja -C "$build" >>"$said" 2>&1
}

# emulate PROCESSOR ROUNDS PROGRAM [ARGUMENTS]: its cases, each with the processor's name; one more that fails if the
# program ends badly without saying of which.
emulate() {
    local processor=$1 rounds=$2 program=$3 out status=0
    shift 3
    out=$(SONDE_TEST_ROUNDS=$rounds qemu-aarch64-static -L /usr/aarch64-linux-gnu -cpu "$processor" \
        "$build/tests/$program" "$@" 2>&1) || status=$?
    sed -n "s/^\(not \)\?ok [0-9]* - /\1ok - $processor: /p; s/^#/#/p" <<<"$out"
    if [ "$status" -ne 0 ] && ! grep -q '^not ok' <<<"$out"; then
        echo "not ok - $processor: ${program##*/} ends with status $status"
        tail -n 5 <<<"$out" | sed 's/^/# /'
    fi
}

processor_with_everything() {
    emulate max 100 cross/test_levels c neon bf16
    emulate max 100 kernel/test_kernel
    emulate max 100 kernel/test_kernel_nan
    emulate max 100 cross/test_number
}

processor_without_bf16() {
    emulate cortex-a72 25 cross/test_levels c neon
    emulate cortex-a72 25 kernel/test_kernel
    emulate cortex-a72 25 kernel/test_kernel_nan
}

[ "$(uname -m)" != aarch64 ] || skip_all "this is such a machine, and test_kernel tests them"
[ "${SANITIZE:-none}" = none ] || skip_all "there are no sanitizers under emulation"
for program in aarch64-linux-gnu-gcc qemu-aarch64-static; do
    command -v "$program" >/dev/null || skip_all "there is no $program"
done
[ -e /usr/aarch64-linux-gnu/include/stdio.h ] || skip_all "there is no C library for it"

if ! build_all; then
    echo "1..1"
    echo "not ok 1 - kernels of 64-bit Arm can be built"
    sed 's/^/# /' "$said"
    exit 1
fi
processor_without_bf16 >"$said" &
first=$(processor_with_everything)
wait
first+=$'\n'$(cat "$said")
awk '/^(not )?ok - / { n++; sub(/ok - /, "ok " n " - ") } { print } END { print "1.." n }' <<<"$first"
! grep -q '^not ok' <<<"$first"
