# sonde.fish - completion of sonde(1) for fish.
#
# Every "complete" is one option or operand; tests/e2e/test_manual.sh reads them, and holds them to what
# `sonde COMMAND --help` prints.

# The command is one of $argv; with none, there is no command yet.
function __sonde_is
    set -l words (commandline -opc)
    test (count $argv) -eq 0; and test (count $words) -eq 1; and return
    test (count $words) -gt 1; and contains -- $words[2] $argv
end

complete -c sonde -f
complete -c sonde -n '__sonde_is' -s h -l help -d 'List the commands'
complete -c sonde -n '__sonde_is' -l version -d 'Print the version'
complete -c sonde -n '__sonde_is' -a run -d 'One answer to one prompt'
complete -c sonde -n '__sonde_is' -a chat -d 'A conversation'
complete -c sonde -n '__sonde_is' -a inspect -d 'What a model holds and needs'
complete -c sonde -n '__sonde_is' -a logits -d 'Logits of every token of a text, to a file'
complete -c sonde -n '__sonde_is' -a tokenize -d 'Text to token ids and back'
complete -c sonde -n '__sonde_is' -a render -d 'Conversations to prompts'
complete -c sonde -n '__sonde_is' -a parse -d 'What a model wrote to a message with tool calls'
complete -c sonde -n '__sonde_is' -a synth -d 'A random checkpoint with real shapes'
complete -c sonde -n '__sonde_is' -a bench -d "Speed, and how much of the machine's it is"
complete -c sonde -n '__sonde_is' -a serve -d "Answer over HTTP, as OpenAI's and Anthropic's clients expect"
complete -c sonde -n '__sonde_is' -a train -d 'Train a model, from nothing or from a checkpoint'
complete -c sonde -n '__sonde_is' -a help -d 'Explain a command'
complete -c sonde -n '__sonde_is help' -a 'run chat inspect logits tokenize render parse synth bench serve train'

# what they work on
complete -c sonde -n '__sonde_is run chat inspect logits render parse synth bench serve' -a '(__fish_complete_directories)'
complete -c sonde -n '__sonde_is tokenize train' -F

# every command
complete -c sonde -n 'not __sonde_is' -s h -l help -d 'Explain the command'

# how it is computed
complete -c sonde -n '__sonde_is run chat logits bench serve' -l threads -x -d 'Threads that compute'
complete -c sonde -n '__sonde_is run chat logits bench serve' -l level -x -a 'best c avx2 avx512 amx neon bf16' \
    -d 'Instructions to use'
complete -c sonde -n '__sonde_is run chat logits bench serve' -l invariant -d 'The same bits in any company; slower'
complete -c sonde -n '__sonde_is run chat logits serve' -l released-decode \
    -d 'Decode DeepSeek-V4.1 as its released code does'
complete -c sonde -n '__sonde_is run chat logits bench serve' -l precision -x -a 'fast f32 kv official' \
    -d 'What is rounded on the way'
complete -c sonde -n '__sonde_is run chat logits bench serve' -l chunk -x -d 'Tokens computed at once'
complete -c sonde -n '__sonde_is run chat serve' -l context -x -d 'Most tokens in memory'
complete -c sonde -n '__sonde_is run chat serve' -l cache-memory -x -d 'Most memory for what is remembered'
complete -c sonde -n '__sonde_is run chat serve' -l cache-dir -x -a '(__fish_complete_directories)' \
    -d 'Keep what is remembered there'
complete -c sonde -n '__sonde_is run chat serve' -l cache-disk -x -d 'Most bytes there'

# run and chat
complete -c sonde -n '__sonde_is run chat' -s n -l max-tokens -x -d 'Stop after so many tokens'
complete -c sonde -n '__sonde_is run chat' -l system -x -d 'Instructions before the conversation'
complete -c sonde -n '__sonde_is run chat' -l think -d 'Let the model think first'
complete -c sonde -n '__sonde_is run chat' -l effort -x -a 'off on high max' -d 'How hard it thinks first'
complete -c sonde -n '__sonde_is run chat' -l temp -x -d 'Temperature; 0 is greedy'
complete -c sonde -n '__sonde_is run chat' -l top-k -x -d 'Keep the K most likely tokens'
complete -c sonde -n '__sonde_is run chat' -l top-p -x -d 'Keep the fewest tokens that reach a probability'
complete -c sonde -n '__sonde_is run chat' -l min-p -x -d 'Drop tokens less likely than this share of the best'
complete -c sonde -n '__sonde_is run chat' -l repetition-penalty -x -d 'Make seen tokens so much less likely'
complete -c sonde -n '__sonde_is run chat' -l presence-penalty -x -d 'Taken off once from generated tokens'
complete -c sonde -n '__sonde_is run chat' -l frequency-penalty -x -d 'Taken off for every time it was generated'
complete -c sonde -n '__sonde_is run chat' -l seed -x -d 'Same seed, same text'
complete -c sonde -n '__sonde_is run chat' -l greedy -d 'Always the most likely token'
complete -c sonde -n '__sonde_is run' -s p -l prompt -x -d 'The prompt; - for standard input'
complete -c sonde -n '__sonde_is run' -l raw -d 'Continue the text instead of chatting'
complete -c sonde -n '__sonde_is run' -l stop -x -d 'End before this text appears'
complete -c sonde -n '__sonde_is run' -l stats -d 'Speed and seed, on standard error'
complete -c sonde -n '__sonde_is chat' -l load -r -F -d 'Go on with a saved conversation'
complete -c sonde -n '__sonde_is chat' -l no-history -d 'Neither read nor keep lines typed before'

# inspect and logits
complete -c sonde -n '__sonde_is inspect' -l json -d 'One JSON object'
complete -c sonde -n '__sonde_is inspect' -l tensors -d 'List every tensor'
complete -c sonde -n '__sonde_is inspect' -l check -d 'Read every value'
complete -c sonde -n '__sonde_is inspect' -l context -x -d 'Tokens to state memory for'
complete -c sonde -n '__sonde_is logits' -l ids -r -F -d 'Token ids as text'
complete -c sonde -n '__sonde_is logits' -l out -r -F -d 'Safetensors file to write'
complete -c sonde -n '__sonde_is logits' -l decode-from -x -d 'Feed the tokens from there on one by one'
complete -c sonde -n '__sonde_is logits' -l mtp -d 'Multi-token prediction too'

# tokenize, render and parse
complete -c sonde -n '__sonde_is tokenize render parse' -l jsonl -d 'One JSON object a line, in and out'

# synth
complete -c sonde -n '__sonde_is synth' -l shape -x -a 'flash pro tiny' -d 'Whose widths'
complete -c sonde -n '__sonde_is synth' -l layers -x -d 'Without multi-token prediction'
complete -c sonde -n '__sonde_is synth' -l experts -x -d 'Routed ones a layer'
complete -c sonde -n '__sonde_is synth' -l vocab -x -d 'Tokens in the vocabulary'
complete -c sonde -n '__sonde_is synth' -l mtp -d 'With the block of multi-token prediction'
complete -c sonde -n '__sonde_is synth' -l seed -x -d 'Same seed, same bytes'
complete -c sonde -n '__sonde_is synth' -l tokenizer -r -F -d 'Copied to OUT/tokenizer.json'
complete -c sonde -n '__sonde_is synth' -l force -d 'Replace the checkpoint that is there'

# bench
complete -c sonde -n '__sonde_is bench' -l prompt -x -d 'Tokens to prefill'
complete -c sonde -n '__sonde_is bench' -l context -x -d 'Tokens before the first decoded'
complete -c sonde -n '__sonde_is bench' -l read -x -d 'Tokens of the context that are computed'
complete -c sonde -n '__sonde_is bench' -l generate -x -d 'Tokens to decode'
complete -c sonde -n '__sonde_is bench' -l batch -x -d 'Sequences decoded together'
complete -c sonde -n '__sonde_is bench' -l json -d 'One JSON object'

# serve
complete -c sonde -n '__sonde_is serve' -l host -x -a '(__fish_print_hostnames)' -d 'Address or name to listen on'
complete -c sonde -n '__sonde_is serve' -l port -x -d 'Port to listen on; 0 for any'
complete -c sonde -n '__sonde_is serve' -l name -x -d "The model's name in the API"
complete -c sonde -n '__sonde_is serve' -l api-key-file -r -F -d 'Keys that are let in, and their limits'
complete -c sonde -n '__sonde_is serve' -l tls-cert -r -F -d 'Certificate, PEM'
complete -c sonde -n '__sonde_is serve' -l tls-key -r -F -d 'Private key, PEM'
complete -c sonde -n '__sonde_is serve' -l cors -x -d 'Origin that browsers may call from'
complete -c sonde -n '__sonde_is serve' -l requests -x -d 'Requests answered at once'
complete -c sonde -n '__sonde_is serve' -l queue -x -d 'Requests that may wait'
complete -c sonde -n '__sonde_is serve' -l timeout -x -d 'Seconds a request may take'
complete -c sonde -n '__sonde_is serve' -l body -x -d 'Largest body of a request, in MiB'
complete -c sonde -n '__sonde_is serve' -l drain -x -d 'Seconds running answers get at the end'
complete -c sonde -n '__sonde_is serve' -l thinking -x -a 'model on off' -d 'Where a request does not say'
complete -c sonde -n '__sonde_is serve' -l loop-stop -d 'End answers that repeat themselves'
complete -c sonde -n '__sonde_is serve' -l log -r -F -d 'A line of JSON for each request'
complete -c sonde -n '__sonde_is serve' -l drafts -x -d 'Tokens guessed ahead'

# train
complete -c sonde -n '__sonde_is train' -l resume -d "Go on from the run's last state"
