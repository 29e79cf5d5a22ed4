#!/usr/bin/env python3
"""evaluate.py SONDE MODEL TEXT [--chat CHAT.jsonl] [--stories FILE] - what a model is worth, asked through `sonde serve`.

    loss      of the documents in TEXT, parted by lines <|endoftext|>: nats a byte and a token. Each is read by itself
              behind a begin-of-sentence token; its end-of-sentence token is predicted too, bytes are those of the texts
    answers   with --chat: of the questions in CHAT.jsonl ({"q", "a"}), how many are answered word for word, greedily
    stories   with --stories: twenty of them to FILE (Markdown), seeds 1 to 20, none left out
"""
import argparse
import concurrent.futures
import json
import subprocess
import sys
import urllib.request

BEGIN, END = 0, 1  # of sentence, in the tokenizers that sonde trains
REQUESTS = ("Tell me a story.", "Tell me a story about a dog.", "Tell me a story about a girl and a kite.",
            "Write a short story about a frog.", "Can you tell me a story about a boat?")


class Server:
    def __init__(self, program, model):
        self.process = subprocess.Popen([program, "serve", model, "--port", "0", "--log", "none"],
                                        stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "serving" in line:
                self.base = line.split(" at ")[1].strip()
                return
        sys.exit("the server does not start")

    def post(self, path, **body):
        request = urllib.request.Request(self.base + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        self.process.wait()


def loss_of(server, text):
    ids = server.post("/tokenize", content=text)["tokens"]
    answer = server.post("/v1/completions", prompt=[BEGIN, *ids, END], echo=True, logprobs=1, max_tokens=0)
    logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
    assert len(logprobs) == len(ids) + 2, (len(logprobs), len(ids))
    return -sum(logprobs[1:]), len(ids) + 1, len(text.encode())


def measure_loss(server, path, pool):
    with open(path, encoding="utf-8") as f:
        texts = [t.strip("\n") for t in f.read().split("<|endoftext|>\n")]
    parts = list(pool.map(lambda t: loss_of(server, t), [t for t in texts if t]))
    nats, tokens, size = (sum(p[i] for p in parts) for i in range(3))
    return {"documents": len(parts), "tokens": tokens, "bytes": size, "nats_per_token": nats / tokens,
            "nats_per_byte": nats / size}


def measure_answers(server, path, pool):
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]

    def right(row):
        answer = server.post("/v1/chat/completions", messages=[{"role": "user", "content": row["q"]}], temperature=0,
                             max_tokens=200)
        return answer["choices"][0]["message"]["content"].strip() == row["a"].strip()

    known = {}
    for row in rows:  # a question that has several answers counts once, with any of them
        known.setdefault(row["q"], set()).add(row["a"].strip())
    done = list(pool.map(right, rows))
    return {"questions": len(rows), "different": len(known), "word_for_word": sum(done)}


def write_stories(server, path):
    with open(path, "w", encoding="utf-8") as f:
        for seed in range(1, 21):
            request = REQUESTS[(seed - 1) % len(REQUESTS)]
            answer = server.post("/v1/chat/completions", messages=[{"role": "user", "content": request}], seed=seed,
                                 temperature=0.6, top_p=0.95, max_tokens=500)
            f.write(f"\n## {seed}. {request}\n\n{answer['choices'][0]['message']['content'].strip()}\n")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("sonde")
    a.add_argument("model")
    a.add_argument("text")
    a.add_argument("--chat")
    a.add_argument("--stories")
    o = a.parse_args()
    server = Server(o.sonde, o.model)
    try:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            result = {"loss": measure_loss(server, o.text, pool)}
            if o.chat:
                result["answers"] = measure_answers(server, o.chat, pool)
        if o.stories:
            write_stories(server, o.stories)
        print(json.dumps(result, indent=2))
    finally:
        server.close()


if __name__ == "__main__":
    main()
