#!/usr/bin/env bash
# test_manual.sh - manual pages, shell completion and the service say what the program does: every option with its
# choices as --help prints them, no other, and examples that work.
#
# Options are compared as lines: "--switch", "--name=" for one with a value, "--name=a|b" for one with choices.
# shellcheck source=tests/e2e/tap.sh
. "$(dirname "$0")/tap.sh"

pages=docs/man
shells=tools/completion
mkdir "$dir/empty" "$dir/examples"
commands=$("$SONDE" help | sed -nE 's/^  ([a-z]+) .*/\1/p' | grep -vx help)

have() { command -v "$1" >/dev/null; }

# same NAME: a case that passes if $dir/found holds the lines of $dir/expected, in any order.
same() {
    LC_ALL=C sort -o "$dir/expected" "$dir/expected"
    LC_ALL=C sort -o "$dir/found" "$dir/found"
    rm -f "$err"
    diff "$dir/expected" "$dir/found" >"$out"
    status=$?
    is "$1" [ "$status" -eq 0 -a -s "$dir/found" ]
}

help_options() {
    "$SONDE" "$1" --help | awk '
        /^  (-[A-Za-z], |    )--/ {
            rest = substr($0, 9)
            split(rest, word, " ")
            form = rest ~ /^[^ ]+ [^ ]/ ? "=" (word[2] ~ /[|]/ ? word[2] : "") : ""
            print "--" word[1] form
            if ($1 ~ /^-.,$/)
                print substr($1, 1, 2) form
        }'
}

# The heads of the items of OPTIONS, such as ".It Fl n , Fl -max-tokens Ar n".
man_options() {
    awk '
        /^[.]Sh/ { inside = $2 == "OPTIONS" }
        inside && /^[.]It Fl/ {
            names = form = ""
            for (i = 2; i <= NF; i++)
                if ($i == "Fl")
                    names = names " -" $++i
                else if ($i == "Ar" || $i == "Cm") {
                    choices = $i == "Cm"
                    form = "="
                } else if (choices)
                    form = form $i
            choices = 0
            split(names, name, " ")
            for (i in name)
                print name[i] form
        }' "$pages/sonde-$1.1"
}

# in_bash SCRIPT ARGS...: with the completion for bash loaded, where there are no files.
in_bash() {
    (cd "$dir/empty" && bash --norc --noprofile -c ". '$OLDPWD/$shells/sonde.bash'; $1" bash "${@:2}")
}

# What bash offers for the last of these words.
# shellcheck disable=SC2016 # expanded by the inner shell
bash_offers() {
    in_bash 'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _sonde; printf "%s\n" "${COMPREPLY[@]}"' "$@"
}

# shellcheck disable=SC2016 # expanded by the inner shell
bash_options() {
    local name known
    known=$(in_bash 'echo $(_sonde_options "$1")' "$1")
    for name in $(bash_offers sonde "$1" -); do
        case " $known " in
        *" $name= "*) echo "$name=$(bash_offers sonde "$1" "$name" '' | paste -sd '|')" ;;
        *) echo "$name" ;;
        esac
    done
}

# The specifications are words of bash too: '(-n --max-tokens)--max-tokens=[explained]:tokens: '.
zsh_options() {
    local specs spec name choices
    # shellcheck source=/dev/null
    . "$shells/_sonde"
    _sonde_specs "$1"
    for spec in "${specs[@]}"; do
        name=${spec#\(*\)}
        name=${name#\*}
        name=${name%%[:\[]*}
        case $spec in
        *':('*')') choices=${spec##*:\(} choices=${choices%\)} ;;
        *) choices= ;;
        esac
        case $name in
        *[=+]) echo "${name%[=+]}=${choices// /|}" ;;
        -*) echo "$name" ;;
        esac
    done
}

# fish_says: runs the lines of the completion for fish; on_fish sees each as $condition, $letter, $name, $value, $words.
fish_says() {
    complete() {
        local condition='' letter='' name='' value='' words=''
        while [ $# -gt 0 ]; do
            case $1 in
            -n) condition=$2 ;;
            -s) letter=$2 ;;
            -l) name=$2 ;;
            -a) words=$2 ;;
            -x | -r) value='=' ;;
            esac
            case $1 in
            -[cnslad]) shift 2 ;;
            *) shift ;;
            esac
        done
        on_fish
    }
    eval "$(awk '/^complete/ || more { print; more = /\\$/ }' "$shells/sonde.fish")"
}

fish_options() {
    local command=$1
    on_fish() {
        case "$condition " in
        "not __sonde_is " | "__sonde_is "*" $command "* | "__sonde_is $command "*) ;;
        *) return ;;
        esac
        case $words in
        '('*) words= ;; # a command that finds them
        esac
        [ -z "$name" ] || echo "--$name$value${words// /|}"
        [ -z "$letter" ] || echo "-$letter$value${words// /|}"
    }
    (fish_says)
}

fish_commands() {
    on_fish() { [ "$condition" != __sonde_is ] || [ -z "$words" ] || echo "$words"; }
    (fish_says)
}

zsh_commands() {
    # shellcheck source=/dev/null
    . "$shells/_sonde"
    # shellcheck disable=SC2154 # it is set there
    printf '%s\n' "${_sonde_commands[@]%%:*}"
}

# ------------------------------------------------------------------------------------------- commands

for c in $commands; do
    echo "$pages/sonde-$c.1"
done >"$dir/expected"
ls "$pages"/sonde-*.1 >"$dir/found"
same 'every command has a page, and every page a command'
for c in $commands; do
    grep -q "^\.Nm sonde-$c\$" "$pages/sonde-$c.1" && grep -q "^\.Xr sonde-$c 1" "$pages/sonde.1" && echo "$c"
done >"$dir/found"
echo "$commands" >"$dir/expected"
same 'sonde(1) refers to every page, and pages name themselves'

printf '%s\n' "$commands" help >"$dir/commands"
cp "$dir/commands" "$dir/expected"
bash_offers sonde '' | grep -v '^-' >"$dir/found"
same 'bash offers the commands'
cp "$dir/commands" "$dir/expected"
(zsh_commands) >"$dir/found"
same 'zsh offers the commands'
cp "$dir/commands" "$dir/expected"
fish_commands >"$dir/found"
same 'fish offers the commands'

for c in $commands; do
    help_options "$c" >"$dir/options"
    for what in man bash zsh fish; do
        cp "$dir/options" "$dir/expected"
        (${what}_options "$c") >"$dir/found"
        same "$what: $c has the options that --help prints"
    done
done

run chat "$NANO" <<<'/help'
sed -nE 's|^(/[a-z]+).*|\1|p' "$err" >"$dir/expected"
sed -nE 's|^\.It Ic (/[a-z]+).*|\1|p' "$pages/sonde-chat.1" >"$dir/found"
same 'sonde-chat(1) has the commands that /help lists'

# ---------------------------------------------------------------------------------------- completion

mkdir "$dir/empty/directory"
touch "$dir/empty/file with spaces"
offers() { [ "$(bash_offers "${@:2}")" = "$1" ]; }
is 'bash completes a command' offers render sonde re
is 'bash completes an option' offers --max-tokens sonde run --max
is 'bash completes a choice' offers avx512 sonde run --level avx5
is 'bash completes a choice behind =' offers official sonde run --precision = off
is 'bash offers choices right behind =' offers $'off\non\nhigh\nmax' sonde chat --effort =
is 'bash completes directories for a model' offers directory sonde run -p hello d
is 'bash completes files where files are taken' offers 'file with spaces' sonde logits --ids f
is 'bash offers no files where a text is taken' offers '' sonde run --prompt d
is 'bash completes what help takes' offers inspect sonde help i
# shellcheck disable=SC2016 # expanded by the inner shell
is 'bash knows whose completion it is' [ "$(in_bash 'complete -p sonde')" = 'complete -F _sonde sonde' ]

if have zsh; then
    is 'the completion for zsh is zsh' zsh -f -n "$shells/_sonde"
else
    skip 'the completion for zsh is zsh' 'no zsh'
fi
if have fish; then
    is 'the completion for fish is fish' fish --no-execute "$shells/sonde.fish"
    # shellcheck disable=SC2016 # expanded by fish
    fish --no-config -c 'source $argv[1]; complete -C "sonde synth --shape p"' "$shells/sonde.fish" >"$out" 2>"$err"
    is 'fish completes a choice' grep -q '^pro' "$out"
else
    skip 'the completion for fish is fish' 'no fish'
    skip 'fish completes a choice' 'no fish'
fi

# ---------------------------------------------------------------------------------------------- pages

quiet() { "$@" >"$out" 2>&1 && [ ! -s "$out" ]; }
renders() { LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null | diff /dev/null - >"$out"; }
complete_page() {
    local section
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS FILES 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do
        grep -qx "\.Sh $section" "$1" || return 1
    done
}
for page in "$pages"/*.1; do
    name=$(basename "$page")
    is "$name has every section" complete_page "$page"
    if have mandoc; then
        is "$name is sound to mandoc" quiet mandoc -T lint -W warning "$page"
    else
        skip "$name is sound to mandoc" 'no mandoc'
    fi
    if have man; then
        is "$name is sound to man" renders "$page"
    else
        skip "$name is sound to man" 'no man'
    fi
done

# The lines of the EXAMPLES of a page that begin with a prompt, as they are typed.
examples() {
    awk '/^[.]Sh/ { inside = $2 == "EXAMPLES" } inside && /^[$] /' "$1" |
        sed -e 's/^[$] //' -e 's/\\-/-/g' -e "s/\\\\(aq/'/g" -e 's/\\(ti/~/g' -e 's/\\e/\\/g'
}

mkdir "$dir/bin"
ln -s "$SONDE" "$dir/bin/sonde"
ln -s "$PWD/models" "$dir/examples/models"
for ((i = 0; i < 100; i++)); do echo 'Tom had a red ball. He lost it in the park.'; done >"$dir/examples/story.txt"
for page in "$pages"/*.1; do
    [ "$page" != "$pages/sonde-serve.1" ] || continue # a server does not end
    while IFS= read -r line; do
        status=0
        (cd "$dir/examples" && SONDE_MODEL=$PWD/models/nano PATH=$dir/bin:$PATH bash -o pipefail -c "$line") \
            </dev/null >"$out" 2>"$err" || status=$?
        is "$(basename "$page"): $line" [ "$status" -eq 0 ]
    done < <(examples "$page")
done

# -------------------------------------------------------------------------------------------- service

unit=$dir/sonde.service
sed -E "s|^(ExecStart=)[^ ]*|\1$SONDE|" "$BUILD/tools/sonde.service" >"$unit"
help_options serve | sed 's/=.*//' >"$dir/options"
known() {
    local option
    [ -s "$unit" ] || return 1
    while read -r option; do
        grep -qx -- "$option" "$dir/options" || return 1
    done < <(grep -E '^ExecStart|^# {5}' "$unit" | grep -oE -- '--[a-z-]+')
}
is 'the service uses options that sonde serve has' known
exposed_below() { systemd-analyze security --offline=true --threshold="$1" "$2" >"$out" 2>&1; }
if have systemd-analyze; then
    is 'the service is sound to systemd' quiet systemd-analyze verify --man=no "$unit"
    is 'the service is well shut in' exposed_below 20 "$unit"
else
    skip 'the service is sound to systemd' 'no systemd-analyze'
    skip 'the service is well shut in' 'no systemd-analyze'
fi

installed() {
    meson introspect "$BUILD" --install-plan >"$out" && python3 - "$out" <<'PY'
import json, pathlib, sys
plan = json.load(open(sys.argv[1]))
places = {entry["destination"] for kind in plan.values() for entry in kind.values()}
wanted = ["{mandir}/man1/" + page.name for page in pathlib.Path("docs/man").glob("*.1")]
wanted += ["{datadir}/bash-completion/completions/sonde", "{datadir}/zsh/site-functions/_sonde",
           "{datadir}/fish/vendor_completions.d/sonde.fish", "lib/systemd/system/sonde.service"]
missing = [w for w in wanted if not any(place.endswith(w) for place in places)]
sys.exit(", ".join(missing) + ": not installed" if missing else 0)
PY
}
is 'all of it is installed' installed 2>"$err"
finish
