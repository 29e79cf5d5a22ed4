#!/usr/bin/env bash
# test_clients.sh - `sonde serve` as OpenAI's and Anthropic's own clients for Python and Node find it.
#
# The clients are those of clients/requirements.txt and clients/package.json, installed under $BUILD/clients once for
# each state of these files. Where they cannot be had, their cases are skipped. The scripts write TAP without numbers,
# as one count goes through all of them.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

sources=tests/e2e/clients
installed=$(readlink -m "${BUILD:-build}/clients")
server=
trap 'kill $server 2>/dev/null; wait; rm -rf "$dir"' EXIT

# ready LIST: what the list names is installed in $place.
ready() { cmp -s "$sources/$1" "$place/installed"; }

# made COMMAND...: false, and in $why what it said, if the command fails.
made() {
    "$@" >"$dir/log" 2>&1 && return
    why=$(grep -m 1 -E '^(npm )?(error|ERROR)' "$dir/log" || tail -n 1 "$dir/log")
    why="the clients cannot be installed: ${why//#/}"
    return 1
}

install_python() {
    place=$installed/python
    ready requirements.txt && return
    command -v python3 >/dev/null || { why='needs python3' && return 1; }
    python3 -c 'import ensurepip, venv' 2>/dev/null || { why='needs python3-venv' && return 1; }
    rm -rf "$place"
    made python3 -m venv "$place" &&
        made "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
            -r "$sources/requirements.txt" &&
        cp "$sources/requirements.txt" "$place/installed"
}

install_node() {
    place=$installed/node
    # they ask for what those for Python ask for, and all of it takes ten minutes there
    [ "${SANITIZE:-none}" = none ] || { why='not under the sanitizers' && return 1; }
    if ! ready package.json; then
        command -v node >/dev/null || { why='needs nodejs' && return 1; }
        command -v npm >/dev/null || { why='needs npm' && return 1; }
        rm -rf "$place"
        mkdir -p "$place"
        cp "$sources/package.json" "$place"
        made npm install --prefix "$place" --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel=error \
            --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=20000 || return
        cp "$sources/package.json" "$place/installed"
    fi
    cp "$sources"/*.mjs "$place" # modules are looked for beside the script
}

# serve: the server's address is left in $address. Every script has a key, and another that may ask once a minute.
serve() {
    echo 'a-key-of-the-test' >"$dir/keys"
    printf 'once-%s rpm=1\n' openai_client.py anthropic_client.py openai_client.mjs anthropic_client.mjs >>"$dir/keys"
    # --invariant: a text is the same alone and in company, read at once or from the cache
    "$SONDE" serve "$NANO" --port 0 --invariant --api-key-file "$dir/keys" >"$dir/server" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        address=$(grep -o 'http://[^ /"]*' "$dir/server" | head -n 1)
        [ -z "$address" ] || return 0
        sleep 0.1
    done
    echo "Bail out! sonde serve said no address: $(head -c 500 "$dir/server")"
    exit 1
}

# The cases of a script, by name.
names_of() {
    case $1 in
    *.py) sed -n '/^@case$/{n;s/^def \(.*\)():$/\1/p}' "$sources/$1" ;;
    *.mjs) sed -n 's/^    async \([a-z_]*\)() {$/\1/p' "$sources/$1" ;;
    esac
}

skip_all() {
    local name
    for name in $(names_of "$1"); do
        skip "$1: $name" "$why"
    done
}

# tell SCRIPT: runs it and numbers its cases.
tell() {
    local script=$1 line told=0 plan='' call=("$place/bin/python" "$sources/$1")
    local given=("$address" a-key-of-the-test "once-$1")
    [[ $script != *.mjs ]] || call=(node "$place/$script")
    while IFS= read -r line; do
        case $line in
        'ok - '* | 'not ok - '*)
            cases=$((cases + 1))
            told=$((told + 1))
            echo "${line%% - *} $cases - $script: ${line#* - }"
            ;;
        '1..'*) plan=${line#1..} ;;
        *) echo "#   ${line#\# }" ;;
        esac
        [[ $line != 'not ok'* ]] || failures=$((failures + 1))
    done < <(NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 timeout 400 "${call[@]}" "${given[@]}" 2>&1)
    is "$script: every case was told" [ "$plan" = "$told" ]
}

# tell_all INSTALL SCRIPT...: or skips them all.
tell_all() {
    local script
    if ! "$1"; then
        for script in "${@:2}"; do
            skip_all "$script"
        done
        return
    fi
    for script in "${@:2}"; do
        tell "$script"
    done
}

# Nothing of the caller's may lead the clients elsewhere.
unset "${!OPENAI_@}" "${!ANTHROPIC_@}" NODE_OPTIONS PYTHONPATH PYTHONHOME
export PYTHONDONTWRITEBYTECODE=1

serve
tell_all install_python openai_client.py anthropic_client.py
tell_all install_node openai_client.mjs anthropic_client.mjs
is 'the server is still there' kill -0 "$server"
finish
