# shellcheck shell=bash
# tap.sh - what the end-to-end scripts share: running the program and saying what was found, as TAP.
#
# A script sources this, calls the functions below and ends with `finish`. $SONDE is the program; the working
# directory is the source root. After `run`, $status, $out and $err (files) hold what came of it.
set -u

SONDE=$(readlink -f "${SONDE:-build/sonde}")
export NANO=models/nano
dir=$(mktemp -d "${TMPDIR:-/tmp}/sonde-e2e-XXXXXX")
trap 'rm -rf "$dir"' EXIT
out=$dir/out
err=$dir/err
cases=0
failures=0

# The caller's own settings must not reach the program.
unset SONDE_MODEL NO_COLOR
export XDG_STATE_HOME=$dir/state

# is NAME COMMAND...: a case that passes if the command succeeds.
is() {
    local name=$1
    shift
    cases=$((cases + 1))
    if "$@"; then
        echo "ok $cases - $name"
    else
        failures=$((failures + 1))
        echo "not ok $cases - $name"
        [ ! -e "$out" ] || head -c 2000 "$out" | sed 's/^/#   out: /'
        [ ! -e "$err" ] || head -c 2000 "$err" | sed 's/^/#   err: /'
        echo "#   status: ${status:-none}"
    fi
}

skip() {
    cases=$((cases + 1))
    echo "ok $cases - $1 # SKIP $2"
}

# run ARGS...: the program, with standard input empty unless redirected by the caller.
run() {
    status=0
    "$SONDE" "$@" >"$out" 2>"$err" || status=$?
}

run_quietly() { run "$@" </dev/null; }

one_line_error() { [ "$(wc -l <"$err")" -eq 1 ] && grep -q '^sonde: ' "$err"; }
says() { grep -qF -- "$1" "$err"; }
silent() { [ ! -s "$err" ]; }

# The program was called wrongly: status 2, nothing on standard output, one line that names $1 and the help.
refused() {
    [ "$status" -eq 2 ] && [ ! -s "$out" ] && one_line_error && says "$1" && says 'try: sonde'
}

# The world was wrong: status 1, nothing on standard output, one line that names $1.
failed() {
    [ "$status" -eq 1 ] && [ ! -s "$out" ] && one_line_error && says "$1"
}

finish() {
    echo "1..$cases"
    [ "$failures" -eq 0 ]
    exit
}
