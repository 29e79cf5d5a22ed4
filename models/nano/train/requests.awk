# requests.awk - stories to conversations, {"q": request, "a": story} a line:
#
#     awk -f requests.awk stories.txt > requests.jsonl
#
# Stories are parted by lines <|endoftext|>. A request names what the beginning of its story is about, if that is one of
# the words below and the story says it again; the ways of asking take turns.
BEGIN {
    split("dog cat bird fish frog bear bunny rabbit mouse horse cow pig duck lion monkey elephant fox turtle dragon " \
        "butterfly bee ant squirrel owl chicken sheep puppy kitten princess prince king queen wizard fairy witch robot " \
        "doctor farmer boy girl boat ship car truck train plane bike ball doll kite balloon box book toy hat shoe coat " \
        "cake cookie apple banana orange carrot pizza sandwich soup candy tree flower garden forest park beach lake " \
        "river sea mountain farm zoo house castle tower cave bridge rain snow wind sun moon star rainbow cloud storm " \
        "birthday party picnic school store market treasure map key door window bed lamp drum piano guitar song dance " \
        "game race swing slide sled pumpkin dinosaur monster ghost pirate clown baby grandma grandpa friend", list, " ")
    for (i in list)
        topic[list[i]] = 1
    asked = 0
}

function article(word) {
    if (word ~ /^(rain|snow|wind|soup|candy|treasure|grandma|grandpa)$/)
        return word
    if (word ~ /^(sun|moon|sea)$/)
        return "the " word
    return (word ~ /^[aeio]/ ? "an " : "a ") word
}

function quoted(text) {
    gsub(/\\/, "\\\\", text)
    gsub(/"/, "\\\"", text)
    gsub(/\t/, "\\t", text)
    gsub(/\n/, "\\n", text)
    return "\"" text "\""
}

# The first two topics of the beginning that come again: into found[1], found[2].
function find(story,    words, count, i, word, seen, times, n) {
    count = split(tolower(story), words, /[^a-z]+/)
    for (i = 1; i <= count; i++)
        times[words[i]]++
    n = 0
    for (i = 1; i <= count && i <= 45 && n < 2; i++) {
        word = words[i]
        if ((word in topic) && !(word in seen) && times[word] > 1) {
            seen[word] = 1
            found[++n] = word
        }
    }
    return n
}

function request(n,    way) {
    way = asked++ % 6
    if (n == 0)
        return way % 3 == 0 ? "Tell me a story." : way % 3 == 1 ? "Please tell me a short story." : "Write a story for me."
    if (n == 2 && way % 2)
        return "Tell me a story about " article(found[1]) " and " article(found[2]) "."
    if (way < 3)
        return "Tell me a story about " article(found[1]) "."
    return way < 5 ? "Write a short story about " article(found[1]) "." : "Can you tell me a story about " article(found[1]) "?"
}

function flush(    n) {
    sub(/^\n+/, "", story)
    sub(/\n+$/, "", story)
    if (length(story) >= 200 && length(story) <= 1400) {
        n = find(story)
        if (n || asked % 4 == 0)
            print "{\"q\": " quoted(request(n)) ", \"a\": " quoted(story) "}"
        else
            asked++
    }
    story = ""
}

/^<\|endoftext\|>$/ { flush(); next }
{ story = story "\n" $0 }
END { flush() }
