#!/usr/bin/env python3
"""serve_load.py SONDE MODEL [--clients N] [--seconds S] [-- FLAGS...] - `sonde serve` under load.

Starts a server with FLAGS on a free port and N clients, each of which asks again and again until S seconds are over:
every answer is streamed over the chat interface, by kept connections. In order, a client is one of

    short    a question, 64 tokens
    turns    a conversation of four questions, 32 tokens each
    long     a prompt of some 1,000 to 2,000 tokens that nobody has asked before, 16 tokens
    shared   a question behind some 500 tokens that all such clients share, 32 tokens

The first token is the first event with text; gaps are between two such events of an answer, as the client reads them
(a client that is held up itself counts against the server). Prints a table; status 1 if a request failed.
"""
import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time

NAMES = "Lily Tom Max Sue Ben Mia Sam Bob Tim Anna Jack Lucy".split()
THINGS = "ball dog cat tree house boat bird toy car cake flower river hill box hat fish".split()
DID = "found lost liked wanted saw made took gave broke hid".split()


class Figures:
    def __init__(self):
        self.requests, self.errors = {}, []
        self.tokens = self.prompt = self.reused = 0
        self.first, self.gaps = [], []


def sentences(chance, count):
    """Some 6 tokens each."""
    return " ".join(f"{chance.choice(NAMES)} {chance.choice(DID)} a {chance.choice(THINGS)}." for _ in range(count))


SHARED = sentences(random.Random(0), 80)


def conversations(kind, chance):
    """(messages, tokens of an answer, questions) without end."""
    while True:
        if kind == "short":
            yield [{"role": "user", "content": f"Tell me of {sentences(chance, 1)}"}], 64, 1
        elif kind == "turns":
            yield [{"role": "user", "content": f"Once {sentences(chance, 2)}"}], 32, 4
        elif kind == "long":
            yield [{"role": "user", "content": sentences(chance, chance.randrange(170, 330))}], 16, 1
        else:
            yield [{"role": "system", "content": SHARED}, {"role": "user", "content": sentences(chance, 1)}], 32, 1


class Client:
    def __init__(self, port, kind, seed, figures):
        self.port, self.kind, self.figures = port, kind, figures
        self.chance = random.Random(seed)
        self.reader = self.writer = None

    async def send(self, body):
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.split(b"\r\n")[0].decode())

    async def events(self):
        """JSON events of a chunked stream until its end."""
        text = b""
        while size := int(await self.reader.readline(), 16):
            text += (await self.reader.readexactly(size + 2))[:-2]
            *whole, text = text.split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: {"):
                    yield json.loads(event[6:])
        await self.reader.readline()

    async def ask(self, messages, tokens):
        """The answer's text."""
        asked = time.monotonic()
        last, said = None, ""
        await self.send({"messages": messages, "max_tokens": tokens, "stream": True,
                         "stream_options": {"include_usage": True}})
        async for event in self.events():
            now = time.monotonic()
            if "error" in event:
                raise ValueError(event["error"]["message"])
            if "usage" in event:
                self.count(event["usage"])
            text = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if text:
                (self.figures.first if last is None else self.figures.gaps).append(now - (last or asked))
                last, said = now, said + text
        return said

    def count(self, usage):
        f = self.figures
        f.tokens += usage["completion_tokens"]
        f.prompt += usage["prompt_tokens"]
        f.reused += usage["prompt_cache_hit_tokens"]

    async def run(self, until):
        for messages, tokens, turns in conversations(self.kind, self.chance):
            for _ in range(turns):
                if time.monotonic() > until:
                    return
                try:
                    said = await self.ask(messages, tokens)
                    self.figures.requests[self.kind] = self.figures.requests.get(self.kind, 0) + 1
                except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                    self.figures.errors.append(f"{self.kind}: {error!r}")
                    self.writer = None
                    break
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]


def start(sonde, model, flags):
    server = subprocess.Popen([sonde, "serve", model, "--port", "0", "--log", "none", *flags],
                              stderr=subprocess.PIPE, text=True)
    line = server.stderr.readline()
    address = re.search(r":(\d+)$", line)
    if not address:
        sys.exit(f"serve_load: the server says: {line}")
    return server, int(address.group(1))


def resident(pid):
    """MiB: all, and of these what is not mapped from files."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        pages = file.read().split()
    size = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return int(pages[1]) * size, (int(pages[1]) - int(pages[2])) * size


def shares(values, *wanted):
    values = sorted(values) or [float("nan")]
    return "  ".join(f"{values[min(len(values) - 1, int(len(values) * share))] * 1000:8.1f}" for share in wanted)


async def load(options, port, pid):
    figures, kinds = Figures(), ("short", "turns", "long", "shared")
    memory = [("start", resident(pid))]
    began = time.monotonic()

    async def watch():
        for at in sorted({min(30, options.seconds), options.seconds // 2, options.seconds}):
            await asyncio.sleep(max(0, began + at - time.monotonic()))
            memory.append((f"{at} s", resident(pid)))
    clients = [Client(port, kinds[i % 4], i, figures).run(began + options.seconds) for i in range(options.clients)]
    await asyncio.gather(watch(), *clients)
    memory.append(("end", resident(pid)))
    return figures, memory, time.monotonic() - began


def report(options, figures, memory, seconds):
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(figures.requests.items()))
    print(f"clients         {options.clients} for {seconds:.1f} s")
    print(f"requests        {sum(figures.requests.values())} ({counts})")
    print(f"errors          {len(figures.errors)}")
    print(f"tokens/s        {figures.tokens / seconds:.1f} written, {(figures.prompt - figures.reused) / seconds:.1f} "
          f"read, {figures.reused / seconds:.1f} reused")
    print("ms                     p50       p95       p99       max")
    print(f"first token     {shares(figures.first, 0.5, 0.95, 0.99, 1)}")
    print(f"gap             {shares(figures.gaps, 0.5, 0.95, 0.99, 1)}")
    print("resident MiB    " + ", ".join(f"{at}: {all_:.1f} ({own:.1f} own)" for at, (all_, own) in memory))
    for error in figures.errors[:10]:
        print(f"error           {error}")


def main():
    given = [*sys.argv[1:], "--"]
    own, flags = given[:given.index("--")], given[given.index("--") + 1:-1]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sonde")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=120)
    options = parser.parse_args(own)
    server, port = start(options.sonde, options.model, flags)
    try:
        figures, memory, seconds = asyncio.run(load(options, port, server.pid))
    finally:
        server.terminate()
        server.wait()
    report(options, figures, memory, seconds)
    return 1 if figures.errors else 0


if __name__ == "__main__":
    sys.exit(main())
