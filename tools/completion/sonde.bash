# shellcheck shell=bash
# sonde.bash - completion of sonde(1) for bash.
#
# _sonde_options says which options a command has, _sonde_value what may follow one; tests/e2e/test_manual.sh holds both
# to what `sonde COMMAND --help` prints. Needs nothing but bash: bash-completion only finds the file.

_sonde_commands='run chat inspect logits tokenize render parse synth bench serve train help'

# _sonde_options COMMAND: its options, those that take a value with a "=" behind them.
_sonde_options() {
    local device='--threads= --level= --invariant'
    local model="--precision= --context= --chunk= --cache-memory= --cache-dir= --cache-disk= --released-decode
        $device"
    local sampling='--temp= --top-k= --top-p= --min-p= --repetition-penalty= --presence-penalty= --frequency-penalty=
        --seed= --greedy'
    case $1 in
    run) echo "-p= --prompt= -n= --max-tokens= --system= --raw --think --effort= --stop= $sampling $model --stats" ;;
    chat) echo "--system= --think --effort= --load= -n= --max-tokens= $sampling $model --no-history" ;;
    inspect) echo '--json --tensors --check --context=' ;;
    logits) echo "--ids= --out= --precision= --chunk= --decode-from= --mtp --released-decode $device" ;;
    tokenize | render | parse) echo '--jsonl' ;;
    synth) echo '--shape= --layers= --experts= --vocab= --mtp --seed= --tokenizer= --force' ;;
    bench) echo "$device --precision= --prompt= --chunk= --context= --read= --generate= --batch= --json" ;;
    serve)
        echo "--host= --port= --name= --api-key-file= --tls-cert= --tls-key= --cors= --requests= --queue= --timeout=
            --drain= --body= --thinking= --drafts= --loop-stop --log= $model"
        ;;
    train) echo '--resume' ;;
    esac
    echo '-h --help'
}

# _sonde_files ARGS...: names of files that begin with $current, taken whole however they are spelled.
_sonde_files() {
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "$@" -- "$current")
}

_sonde_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current"); }

# _sonde_value OPTION: what may follow it; nothing where that is anybody's guess.
_sonde_value() {
    case $1 in
    --level) _sonde_words 'best c avx2 avx512 amx neon bf16' ;;
    --precision) _sonde_words 'fast f32 kv official' ;;
    --effort) _sonde_words 'off on high max' ;;
    --thinking) _sonde_words 'model on off' ;;
    --shape) _sonde_words 'flash pro tiny' ;;
    --cache-dir) _sonde_files -d ;;
    --load | --ids | --out | --tokenizer | --api-key-file | --tls-cert | --tls-key | --log) _sonde_files -f ;;
    esac
}

# _sonde_operand COMMAND: what it works on.
_sonde_operand() {
    case $1 in
    help) _sonde_words "${_sonde_commands% help}" ;;
    run | chat | inspect | logits | render | parse | synth | bench | serve) _sonde_files -d ;;
    tokenize | train) _sonde_files -f ;;
    esac
}

_sonde() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} options
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _sonde_words "$_sonde_commands --help --version"
        return
    fi
    # "--name=value" comes as three words, of which the last may be missing
    if [ "$current" = = ]; then
        current=
    elif [ "$before" = = ]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    options=$(_sonde_options "$command")
    options=" ${options//$'\n'/ } "
    if [[ $options == *" $before= "* ]]; then
        _sonde_value "$before"
    elif [[ $current == -* ]]; then
        _sonde_words "${options//=/}"
    else
        _sonde_operand "$command"
    fi
}

complete -F _sonde sonde
