#!/usr/bin/env python3
"""test_serve.py SONDE MODEL DIRECTORY [CASE...] - `sonde serve` as its clients see it. Speaks TAP.

Starts servers of its own on free ports of the loopback address; what they write goes below DIRECTORY. With names of
cases only these run. The model must be able to talk, however badly, and hold 4096 tokens: models/nano.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback

SONDE, MODEL, DIRECTORY = sys.argv[1:4]
ONLY = sys.argv[4:]
CHAT, TEXT, ANSWER, MESSAGE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
USER = [{"role": "user", "content": "Tell me a story."}]
ENDLESS = {"logit_bias": {"1": -100}}  # the token that ends an answer never comes
CASES = []


class Skip(Exception):
    """A case cannot run here."""


def case(name):
    def keep(run):
        CASES.append((name, run))
        return run
    return keep


def same(got, wanted):
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def holds(text, part):
    assert part in text, f"{part!r} is not in {text!r}"


def until(holds_now, what, seconds=60):
    end = time.monotonic() + seconds
    while not (value := holds_now()):
        assert time.monotonic() < end, f"in {seconds} seconds not: {what}"
        time.sleep(0.02)
    return value


# ---------------------------------------------------------------------------------------------- servers


class Server:
    """A server on a free port. Leaving the `with` block ends it, and looks at how it ended."""

    running = []

    def __init__(self, *flags, host="127.0.0.1", log="none"):
        self.host, self.said = host, []
        self.process = subprocess.Popen([SONDE, "serve", MODEL, "--host", host, "--port", "0", "--log", log, *flags],
                                        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        Server.running.append(self.process)
        threading.Thread(target=self._listen, daemon=True).start()
        self.port = int(until(self._address, f"it says where it serves, but {self.said}").group(1))

    def _listen(self):
        for line in self.process.stderr:
            self.said.append(line)

    def _address(self):
        assert self.process.poll() is None, f"it ended: {''.join(self.said)}"
        return re.search(r"^sonde: serving .* at https?://.*:(\d+)$", "".join(self.said), re.M)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.send_signal(signal.SIGINT)
            status = self.process.wait(60)
        finally:
            self.process.kill()
        if kind is None:
            assert status in (0, -signal.SIGKILL), f"it ended with {status}: {''.join(self.said)}"
            assert not re.search("Sanitizer|runtime error", "".join(self.said)), "".join(self.said)

    def connect(self):
        return socket.create_connection((self.host, self.port), timeout=120)

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of a request on a connection of its own; a body that is no text is sent as JSON."""
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def post(self, path, **fields):
        status, _, text = self.ask("POST", path, fields)
        assert status == 200, text
        return json.loads(text)

    def refused(self, path, body, status=400):
        """The error object."""
        got, _, text = self.ask("POST", path, body)
        assert got == status, f"{json.dumps(body)[:300]}: {got} {text[:300]}"
        return json.loads(text)["error"]

    def stream(self, path, **fields):
        """The socket, after a request whose answer is streamed; nothing of it has been read."""
        return self.send(path, {**fields, "stream": True})

    def send(self, path, body):
        client = self.connect()
        client.sendall(post(path, body))
        return client

    def status(self):
        return json.loads(self.ask("GET", "/status")[2])

    def busy(self):
        """How many answers are being written or waited for."""
        requests = self.status()["requests"]
        return requests["active"] + requests["waiting"]

    def idle(self):
        return self.busy() == 0

    def memory(self):
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number=signal.SIGTERM, seconds=60):
        self.process.send_signal(number)
        return self.process.wait(seconds)


SHARED = []


def shared():
    """One server for all cases that leave nothing behind."""
    if not SHARED or SHARED[0].process.poll() is not None:
        SHARED[:] = [Server("--body", "1")]
    return SHARED[0]


def read_all(client):
    """What comes until the other side closes, or stops for the socket's time."""
    parts = []
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_until(client, mark):
    data = b""
    while mark not in data:
        part = client.recv(1 << 16)
        assert part, f"it ended before {mark!r}: {data[-500:]!r}"
        data += part
    return data


def post(path, body, head=""):
    """A request, as bytes; head: more lines of its head."""
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{head}\r\n".encode() + data


def raw(server, request):
    with server.connect() as client:
        client.sendall(request)
        return read_all(client)


def events(data):
    """The JSON events of a stream as it came, chunked; those that are no JSON are left out."""
    lines = re.findall(rb"^data: (.*)$", data, re.M)
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


# ------------------------------------------------------------------------------------------------- HTTP


@case("a connection serves one request after the other, pipelined too")
def keep_alive():
    server = shared()
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("GET", "/health")
    connection.getresponse().read()
    own = connection.sock.getsockname()
    for path, body in (("/v1/models", None), (CHAT, json.dumps({"messages": USER, "max_tokens": 2})), ("/none", None)):
        connection.request("POST" if body else "GET", path, body)
        connection.getresponse().read()
        same(connection.sock and connection.sock.getsockname(), own)
    connection.close()
    first = post(TEXT, {"prompt": "Once", "max_tokens": 2})
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = raw(server, first + first + last)
    same(answers.count(b"HTTP/1.1 200"), 3)
    same([answers.count(b'"text_completion"'), answers.count(b'"status":"ok"')], [2, 1])
    assert answers.rindex(b'"text_completion"') < answers.index(b'"status":"ok"'), "the order is kept"


@case("HTTP/1.0 is answered, and the connection ends with the answer")
def http_one_zero():
    answer = raw(shared(), b"GET /health HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.") and b" 200 " in answer[:20], answer
    assert answer.endswith(b'{"status":"ok"}\n'), answer
    body = json.dumps({"prompt": "Once", "max_tokens": 4, "stream": True}).encode()
    answer = raw(shared(), b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.endswith(b"data: [DONE]\n\n"), answer[-100:]


@case("a body may come in chunks")
def chunked():
    text = json.dumps({"messages": USER, "max_tokens": 2}).encode()
    pieces = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in text) + b"0\r\n\r\n"
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = raw(shared(), head % CHAT.encode() + pieces)
    assert answer.startswith(b"HTTP/1.1 200"), answer


@case("HEAD has the head of GET")
def head():
    status, headers, text = shared().ask("HEAD", "/v1/models")
    wanted = len(shared().ask("GET", "/v1/models")[2])
    same([status, headers["Content-Length"], text], [200, str(wanted), ""])


@case("paths and methods that there are not")
def nowhere():
    server = shared()
    for path in ("/nothing", "/v1", "/v1/chat", "/v1/chat/completions/", "/../etc/passwd", "/v1/modelsx"):
        status, _, text = server.ask("GET", path)
        same(status, 404)
        holds(json.loads(text)["error"]["message"], path)
    for method, path, allow in (("GET", CHAT, "POST"), ("DELETE", MESSAGE, "POST"), ("PUT", "/v1/models", "GET"),
                                ("POST", "/", "GET"), ("POST", "/metrics", "GET")):
        status, headers, text = server.ask(method, path)
        same([status, headers["Allow"]], [405, allow])
    same(server.ask("GET", "/v1/models/other")[0], 404)


@case("a body that is too large is refused, whether its length is told or not")
def too_large():
    server = shared()
    answer = raw(server, b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n" % CHAT.encode())
    assert answer.startswith(b"HTTP/1.1 413"), answer
    holds(answer, b"larger than 1048576 bytes")
    with server.connect() as client:
        client.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode())
        for _ in range(17):
            client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        holds(client.recv(4096), b"HTTP/1.1 413")
    with server.connect() as client:  # without end
        client.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode())
        try:
            for _ in range(10000):
                client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            raise AssertionError("it is read for ever")
        except (BrokenPipeError, ConnectionResetError):
            pass
    same(server.ask("GET", "/health")[0], 200)


@case("heads that are no HTTP end the connection, and nothing more")
def no_http():
    server = shared()
    for request in (b"GET\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100,
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100000 + b"\r\n\r\n",
                    b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n{}" % CHAT.encode(),
                    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
                    b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" % CHAT.encode()):
        with server.connect() as client:
            client.sendall(request)
            try:
                client.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # it was faster, and has closed the connection
            answer = read_all(client)
            assert not answer or re.match(rb"HTTP/1\.[01] (4|5)\d\d", answer), (request[:60], answer[:200])
    same(server.ask("GET", "/health")[0], 200)


# --------------------------------------------------------------------------------------------- refusals


@case("bodies that are not JSON are refused with the place")
def not_json():
    server = shared()
    deep = '{"messages":' + "[" * 100000 + "]" * 100000 + "}"
    for body in ("", "{", "nonsense", "[]", "null", "5", '"text"', '{"messages":[}', '{"a":1,}', "{'a':1}", deep,
                 b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', b'{"\xc3":1}', '{"a":"\\ud800"}',
                 '{"a":NaN}', '{"a":01}', '{"messages":[]} {}', b'{"a":"\x00"}', '{"a":tru}', '{"a"'):
        for path in (CHAT, TEXT, ANSWER, MESSAGE, "/v1/messages/count_tokens", "/tokenize", "/detokenize"):
            status, _, text = server.ask("POST", path, body)
            assert status == 400 and "the request" in text, (path, body[:60], status, text[:300])


@case("huge numbers are refused, not cut")
def huge_numbers():
    server = shared()
    for path, (rest, fields) in FIELDS.items():
        field = "max_output_tokens" if "max_output_tokens" in fields else "max_tokens"
        body = json.dumps({**rest, field: 1234567})
        for number in ("1e999", "-1e999", "4294967296", "18446744073709551617", "1.5", "-1", "1e-9", "9" * 400):
            error = server.refused(path, body.replace("1234567", number))
            holds(error["message"], field)
    same(server.refused("/detokenize", '{"tokens":[1e99]}')["param"], "tokens")


WRONG = {"null": None, "boolean": True, "number": 5.5, "string": "text", "list": [5], "object": {"a": 5}}

# Field: the kinds it may be. All other kinds are refused by a sentence that begins with the field's name.
COMMON = {"temperature": "number", "top_p": "", "stream": "boolean"}
SAMPLING = {**COMMON, "top_k": "", "min_p": "", "repetition_penalty": "number", "presence_penalty": "number",
            "frequency_penalty": "number", "seed": "", "logit_bias": ""}
FIELDS = {
    CHAT: ({"messages": USER},
           {**SAMPLING, "messages": "", "thinking": "", "thinking_budget": "", "reasoning_effort": "",
            "max_tokens": "", "max_completion_tokens": "", "response_format": "", "stop": "string",
            "stream_options": "", "logprobs": "boolean", "top_logprobs": "", "n": "", "tools": "", "tool_choice": "",
            "parallel_tool_calls": "boolean", "chat_template_kwargs": "", "modalities": "",
            "verbosity": "string"}),
    TEXT: ({"prompt": "Once"},
           {**SAMPLING, "prompt": "string list", "suffix": "string", "echo": "boolean", "max_tokens": "", "n": "",
            "best_of": "", "stop": "string", "stream_options": "", "logprobs": ""}),
    ANSWER: ({"input": "Hello."},
             {**COMMON, "input": "string", "instructions": "string", "max_output_tokens": "", "reasoning": "",
              "text": "", "tools": "", "tool_choice": "", "parallel_tool_calls": "boolean", "top_logprobs": "",
              "previous_response_id": "", "truncation": "", "background": "", "conversation": "", "prompt": ""}),
    MESSAGE: ({"messages": USER, "max_tokens": 2},
              {**COMMON, "temperature": "", "messages": "", "max_tokens": "", "system": "string", "top_k": "",
               "stop_sequences": "string", "tools": "", "tool_choice": "", "thinking": "", "output_config": "",
               "output_format": "", "context_management": ""}),
}


@case("every field refuses values of the wrong kind, and the sentence names it")
def wrong_kinds():
    server = shared()
    for path, (body, fields) in FIELDS.items():
        limit = {} if "max_tokens" in body else {"max_output_tokens" if path == ANSWER else "max_tokens": 2}
        for field, right in fields.items():
            for kind, value in WRONG.items():
                if kind == "null" or kind in right.split() or (field == "background" and kind == "boolean"):
                    continue
                error = server.refused(path, {**limit, **body, field: value})
                holds(error["message"], "output_config" if field == "output_format" else field)
    for field in ("messages", "prompt", "input"):
        for path, (body, _) in FIELDS.items():
            if field in body:
                error = server.refused(path, {**body, field: None})
                holds(error["message"], field)


@case("what stands inside messages is looked at as closely")
def wrong_messages():
    server = shared()
    chat = ([5], [{}], [{"role": "king", "content": "a"}], [{"role": "user", "content": 5}],
            [{"role": "user", "content": [5]}], [{"role": "user", "content": [{"type": "text"}]}],
            [{"role": "user", "content": "a", "mood": "good"}], [*USER, {"role": "assistant", "content": "a"}],
            [{"role": "assistant", "content": "a", "tool_calls": 5}, *USER],
            [{"role": "assistant", "tool_calls": [{"type": "function", "id": "a"}]}, *USER],
            [{"role": "assistant", "tool_calls": [5]}, *USER])
    for messages in chat:
        error = server.refused(CHAT, {"messages": messages, "max_tokens": 2})
        holds(error["message"], "messages[")
    message = ([5], [{"role": "king", "content": "a"}], [{"role": "user", "content": 5}],
               [{"role": "user", "content": [5]}], [{"role": "assistant", "content": [5]}, *USER],
               [{"role": "assistant", "content": [{"text": "a"}]}, *USER],
               [{"role": "assistant", "content": [{"type": "tool_use", "id": 5}]}, *USER],
               [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 5}]}])
    for messages in message:
        error = server.refused(MESSAGE, {"messages": messages, "max_tokens": 2})
        holds(error["message"], "messages[")
    for items in ([5], [{"type": "king"}], [{"role": "user", "content": 5}], [{"type": "function_call", "name": "a"}],
                  [{"type": "function_call_output", "output": "a"}], [{"role": "king", "content": "a"}]):
        holds(server.refused(ANSWER, {"input": items, "max_output_tokens": 2})["message"], "input[")


@case("a field that nobody knows is refused; those that change no answer are not")
def unknown_fields():
    server = shared()
    for path, (body, _) in FIELDS.items():
        error = server.refused(path, {**body, "no_such_field": 1})
        holds(error["message"], "no_such_field")
        server.post(path, **{**body, "max_output_tokens" if path == ANSWER else "max_tokens": 2}, metadata={"a": "b"})
    holds(server.refused("/tokenize", {"content": "a", "other": 1})["message"], "other")


@case("an echoed prompt comes back whole, zero bytes too")
def echo_of_bytes():
    choice = shared().post(TEXT, prompt=[0, 3, 4, 40], echo=True, logprobs=1, max_tokens=0)["choices"][0]
    same(choice["text"], "\0\1%")
    same([choice["logprobs"]["token_logprobs"][0], len(choice["logprobs"]["tokens"])], [None, 4])


@case("of fields that ask for more than is done here, only the values that ask for nothing are taken")
def idle_fields():
    server = shared()
    short = {"messages": USER, "max_tokens": 2}
    server.post(CHAT, **short, verbosity="medium")
    holds(server.refused(CHAT, {**short, "verbosity": "low"})["message"], "verbosity")
    server.post(ANSWER, input="Hello.", max_output_tokens=2, text={"verbosity": "medium"})
    answer = {"input": "Hello.", "max_output_tokens": 2, "text": {"verbosity": "high"}}
    holds(server.refused(ANSWER, answer)["message"], "text.verbosity")
    edit = {"type": "clear_thinking_20251015", "keep": "all"}
    server.post(MESSAGE, **short, context_management={"edits": [edit]})
    for wrong in ({**edit, "keep": 1}, {"type": "clear_tool_uses_20250919"}):
        error = server.refused(MESSAGE, {**short, "context_management": {"edits": [wrong]}})
        holds(error["message"], "context_management.edits[0]")


@case("images are refused by all interfaces, in words")
def images():
    server = shared()
    picture = "data:image/png;base64,AAAA"
    for path, field, block in (
            (CHAT, "messages", {"type": "image_url", "image_url": {"url": picture}}),
            (MESSAGE, "messages", {"type": "image", "source": {"type": "base64", "data": "AAAA"}}),
            (ANSWER, "input", {"type": "input_image", "image_url": picture})):
        error = server.refused(path, {**FIELDS[path][0], field: [{"role": "user", "content": [block]}]})
        holds(error["message"], "this model reads text")
        holds(error["message"], block["type"])


# ----------------------------------------------------------------------------------- who may ask from where


@case("pages of other sites may not ask, unless they are allowed")
def origins():
    server = shared()
    own = f"http://127.0.0.1:{server.port}"
    for origin, status in ((own, 200), ("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403)):
        for method, path, body in (("GET", "/v1/models", None), ("POST", "/tokenize", {"content": "a"})):
            same([origin, server.ask(method, path, body, {"Origin": origin})[0]], [origin, status])
    status, headers, _ = server.ask("OPTIONS", CHAT, None, {"Origin": "https://evil.example"})
    same([status, headers["Access-Control-Allow-Origin"]], [403, None])
    for allowed, others in (("https://good.example", 403), ("*", 200)):
        with Server("--cors", allowed) as other:
            preflight = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
            status, headers, _ = other.ask("OPTIONS", CHAT, None, preflight)
            same([status, headers["Access-Control-Allow-Origin"]], [204, allowed])
            holds(headers["Access-Control-Allow-Headers"], "Authorization")
            status, headers, _ = other.ask("GET", "/v1/models", None, {"Origin": "https://good.example"})
            same([status, headers["Access-Control-Allow-Origin"]], [200, allowed])
            same(other.ask("GET", "/v1/models", None, {"Origin": "https://evil.example"})[0], others)


@case("on the loopback address only its own names are answered, so that no other name can be turned to it")
def rebinding():
    server = shared()
    for host, status in (("localhost", 200), (f"localhost:{server.port}", 200), ("127.0.0.1", 200), ("127.1.2.3", 200),
                         ("[::1]:80", 200), ("LOCALHOST", 200), ("evil.example", 403), ("127.evil.example", 403),
                         ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("", 403)):
        same([host, server.ask("GET", "/v1/models", None, {"Host": host})[0]], [host, status])
        same([host, server.ask("GET", "/", None, {"Host": host})[0]], [host, status])


@case("keys: none, wrong and right ones, and one that is added while it runs")
def keys():
    path = os.path.join(DIRECTORY, "keys")
    with open(path, "w", encoding="ascii") as file:
        file.write("# who may ask\n\nfirst-key-123 name=first\n")
    with Server("--api-key-file", path) as server:
        def ask(**headers):
            return server.ask("GET", "/v1/models", None, {k.replace("_", "-"): v for k, v in headers.items()})[0]
        status, headers, text = server.ask("POST", CHAT, {"messages": USER})
        same([status, headers["WWW-Authenticate"]], [401, "Bearer"])
        same(json.loads(text)["error"]["type"], "authentication_error")
        same(json.loads(server.ask("POST", MESSAGE, {})[2])["error"]["type"], "authentication_error")
        same([ask(Authorization="Bearer wrong-key-123"), ask(Authorization="Bearer "), ask(x_api_key="")], [401] * 3)
        same([ask(Authorization="Bearer first-key-123"), ask(x_api_key="first-key-123")], [200, 200])
        same([ask(Authorization="Bearer first-key-12"), ask(Authorization="Bearer first-key-1234")], [401, 401])
        same([server.ask("GET", open_path)[0] for open_path in ("/health", "/")], [200, 200])
        same([server.ask("GET", closed)[0] for closed in ("/metrics", "/status")], [401, 401])
        with open(path, "a", encoding="ascii") as file:
            file.write("second-key-123 name=second\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: ask(x_api_key="second-key-123") == 200, "the second key is known", 10)
        same(ask(x_api_key="first-key-123"), 200)
        with open(path, "w", encoding="ascii") as file:
            file.write("short\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the keys stay as they were" in "".join(server.said), "a file that is wrong is told", 10)
        same(ask(x_api_key="second-key-123"), 200)


@case("limits of a key answer 429 and say when to come again")
def limits():
    path = os.path.join(DIRECTORY, "limits")
    with open(path, "w", encoding="ascii") as file:
        file.write("at-once-123 requests=1\nby-minute-123 rpm=2\nby-token-123 tpm=20\n")
    with Server("--api-key-file", path) as server:
        def ask(key):
            status, headers, text = server.ask("POST", TEXT, {"prompt": "Once upon", "max_tokens": 30, **ENDLESS},
                                               {"x-api-key": key})
            return status, headers["Retry-After"], text
        with server.connect() as client:
            client.sendall(post(TEXT, {"prompt": "Once", "max_tokens": 4000, "stream": True, **ENDLESS},
                                "x-api-key: at-once-123\r\n"))
            read_until(client, b"data: ")
            status, retry, text = ask("at-once-123")
            same([status, retry], [429, "1"])
            holds(text, "requests at once")
        until(lambda: ask("at-once-123")[0] == 200, "it may ask again", 10)
        same([ask("by-minute-123")[0] for _ in range(3)], [200, 200, 429])
        status, retry, text = ask("by-minute-123")
        assert status == 429 and 20 <= int(retry) <= 30, (status, retry)
        holds(text, "requests a minute")
        same([ask("by-token-123")[0] for _ in range(2)], [200, 429])
        status, retry, text = ask("by-token-123")
        assert status == 429 and 10 <= int(retry) <= 60, (status, retry)
        holds(text, "tokens a minute")


@case("HTTPS, with a certificate of one's own")
def tls():
    if not shutil.which("openssl"):
        raise Skip("there is no openssl to make a certificate")
    certificate, key = os.path.join(DIRECTORY, "cert.pem"), os.path.join(DIRECTORY, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=certificate)
    with Server("--tls-cert", certificate, "--tls-key", key) as server:
        holds("".join(server.said), "https://")
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=60, context=context)
        connection.request("POST", CHAT, json.dumps({"messages": USER, "max_tokens": 8, "stream": True}))
        holds(connection.getresponse().read(), b"data: [DONE]")
        connection.request("GET", "/health")
        same(connection.getresponse().status, 200)
        connection.close()
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in answer, answer
        client = context.wrap_socket(server.connect(), server_hostname="localhost")
        client.sendall(post(TEXT, {"prompt": "Once", "max_tokens": 4000, "stream": True, **ENDLESS}))
        read_until(client, b"data: ")
        client.close()
        until(lambda: metric(context, server, "sonde_requests_active") == 0, "the client's leaving is noticed", 20)
    with open(key, "w", encoding="ascii") as file:
        file.write("no key\n")
    fails(["--tls-cert", certificate, "--tls-key", key], 1, "certificate")


def metric(context, server, name):
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=60, context=context)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))


@case("IPv6")
def ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        raise Skip(f"there is no ::1: {error}") from error
    with Server(host="::1") as server:
        holds("".join(server.said), "http://[::1]:")
        same(server.ask("GET", "/health")[0], 200)
        same(server.ask("GET", "/health", None, {"Host": "evil.example"})[0], 403)


# ----------------------------------------------------------------------------------------- start and end


def fails(flags, status, sentence):
    """It does not begin to serve: one line, which has the sentence."""
    done = subprocess.run([SONDE, "serve", MODEL, *flags], capture_output=True, text=True, timeout=60, check=False)
    same([done.returncode, done.stdout, done.stderr.count("\n")], [status, "", 1])
    assert done.stderr.startswith("sonde: ") and sentence in done.stderr, done.stderr


@case("what is wrong with flags, files and addresses is told in one sentence")
def wrong_flags():
    server = shared()
    fails(["--port", str(server.port)], 1, f"port {server.port}")
    fails(["--host", "192.0.2.1", "--port", "0"], 1, "192.0.2.1")
    fails(["--host", "no such name", "--port", "0"], 1, "no such name")
    for flags in (["--port", "65536"], ["--port", "x"], ["--nonsense"], ["--requests", "0"], ["--body", "0"],
                  ["--thinking", "maybe"], ["--tls-cert", "a"], ["--tls-key", "a"], ["a", "b"], ["--drafts", "9"]):
        fails(flags, 2, "try: sonde")
    missing = os.path.join(DIRECTORY, "missing")
    for flags in (["--api-key-file", missing], ["--tls-cert", missing, "--tls-key", missing],
                  ["--log", os.path.join(missing, "log")]):
        fails([*flags, "--port", "0"], 1, missing)
    path = os.path.join(DIRECTORY, "no-keys")
    for text, sentence in (("", "no key"), ("short\n", "line 1"), ("long-enough-1\nlong-enough-2 rpm=x\n", "line 2"),
                           ("long-enough-1 speed=5\n", "speed=5")):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        fails(["--api-key-file", path, "--port", "0"], 1, sentence)


@case("SIGTERM lets an answer come to its end, and takes no new work")
def drain():
    with Server("--drain", "300") as server:
        idle = server.connect()
        client = server.stream(TEXT, prompt="Once", max_tokens=200, **ENDLESS)
        data = read_until(client, b"data: ")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "ending when running answers have" in "".join(server.said), "it says so", 10)
        try:
            idle.sendall(post(TEXT, {"prompt": "Once"}))
            answer = idle.recv(4096)
            assert not answer or answer.startswith(b"HTTP/1.1 503"), answer
        except (ConnectionResetError, BrokenPipeError):
            pass
        try:
            server.connect().close()
            raise AssertionError("it takes new connections")
        except ConnectionRefusedError:
            pass
        data += read_all(client)
        holds(data, b"data: [DONE]")
        same([e["choices"][0]["finish_reason"] for e in events(data)][-1], "length")
        same(server.process.wait(60), 0)


@case("a second SIGTERM ends at once, and what there is of an answer is given")
def drain_twice():
    with Server() as server:
        client = server.stream(TEXT, prompt="Once", max_tokens=4000, **ENDLESS)
        data = read_until(client, b"data: ")
        waits = server.send(TEXT, {"prompt": "Once", "max_tokens": 4000, **ENDLESS})
        until(lambda: server.status()["requests"]["active"] == 2, "both run", 20)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "ending when running answers have" in "".join(server.said), "it says so", 10)
        began = time.monotonic()
        same(server.end(), 0)
        assert time.monotonic() - began < 10, "it took too long"
        data += read_all(client)
        holds(data, b"data: [DONE]")
        same(events(data)[-1]["choices"][0]["finish_reason"], "insufficient_system_resource")
        holds(read_all(waits), b"insufficient_system_resource")


@case("--drain 0 gives running answers no time; an idle server ends at once")
def drain_none():
    with Server("--drain", "0") as server:
        client = server.stream(TEXT, prompt="Once", max_tokens=4000, **ENDLESS)
        read_until(client, b"data: ")
        same(server.end(), 0)
    with Server() as server:
        began = time.monotonic()
        same(server.end(signal.SIGINT), 0)
        assert time.monotonic() - began < 5, "it took too long"


@case("--timeout ends a request that takes longer")
def timeout():
    with Server("--timeout", "1") as server:
        began = time.monotonic()
        answer = server.post(TEXT, prompt="Once", max_tokens=4000, n=2, **ENDLESS)
        assert time.monotonic() - began < 10, "it took too long"
        same([c["finish_reason"] for c in answer["choices"]], ["insufficient_system_resource"] * 2)


@case("when too many wait, the next is refused with 429 and the time to come again")
def queue():
    for waiting in (0, 1):
        with Server("--requests", "1", "--queue", str(waiting)) as server:
            clients = []
            for i in range(1 + waiting):
                clients.append(server.stream(TEXT, prompt="Once", max_tokens=4000, **ENDLESS))
                until(lambda: server.busy() == i + 1, "it runs", 20)
            status, headers, text = server.ask("POST", CHAT, {"messages": USER})
            same([status, headers["Retry-After"]], [429, "2"])
            holds(text, "waiting already")
            for client in clients:
                client.close()
            until(server.idle, "they are gone", 20)
            server.post(CHAT, messages=USER, max_tokens=2)


# ------------------------------------------------------------------------------------ records and metrics


@case("the log has a line of JSON for each request, nothing of what was said, and is opened again by SIGHUP")
def log():
    path = os.path.join(DIRECTORY, "log")
    with Server("--log", path) as server:
        secret = "xylophone"
        server.post(CHAT, messages=[{"role": "user", "content": f"Is a {secret} big?"}], max_tokens=8)
        server.ask("POST", CHAT, {"messages": [{"role": "user", "content": secret}], "temperature": "hot"})
        server.ask("POST", CHAT, '{"messages": "' + secret)
        server.ask("GET", "/nothing")
        server.ask("OPTIONS", CHAT)
        client = server.stream(TEXT, prompt=secret, max_tokens=4000, **ENDLESS)
        read_until(client, b"data: ")
        client.close()
        until(lambda: len(open(path, encoding="utf-8").readlines()) == 6, "there is a line for each", 20)
        text = open(path, encoding="utf-8").read()
        lines = sorted(map(json.loads, text.splitlines()), key=lambda line: int(line["id"].split("-")[1]))
        assert secret not in text, text
        same([[line["status"], line["method"], line["path"]] for line in lines],
             [[200, "POST", CHAT], [400, "POST", CHAT], [400, "POST", CHAT], [404, "GET", "/nothing"],
              [403, "OPTIONS", CHAT], [499, "POST", TEXT]])
        done = lines[0]
        same([done["peer"], done["reused_tokens"]], ["127.0.0.1", 0])
        assert done["finish"] in ("stop", "length") and done["generated_tokens"] > 0 and done["bytes"] > 100, done
        assert done["prompt_tokens"] > 5 and 0 < done["first_token_seconds"] <= done["seconds"], done
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", done["time"]), done["time"]
        same(len({line["id"] for line in lines}), 6)
        holds(lines[1]["error"], "temperature")
        same(lines[5]["finish"], "gone")
        os.rename(path, path + ".1")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: os.path.exists(path), "the log is opened again", 10)
        server.ask("GET", "/nothing")
        until(lambda: os.path.getsize(path) > 0, "and written to", 10)
        same(len(open(path + ".1", encoding="utf-8").readlines()), 6)


def metrics(server):
    """Every sample by name with labels; the format is checked on the way."""
    status, headers, text = server.ask("GET", "/metrics")
    same([status, headers["Content-Type"]], [200, "text/plain; version=0.0.4; charset=utf-8"])
    samples, types, name = {}, {}, r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    label = rf'{name}="(?:[^"\\\n]|\\["\\n])*"'
    assert text.endswith("\n"), "the last line ends"
    for line in text[:-1].split("\n"):
        comment = re.fullmatch(rf"# (HELP|TYPE) ({name}) (.+)", line)
        sample = re.fullmatch(rf"({name})(\{{{label}(?:,{label})*\}})? (\S+)", line)
        assert comment or sample, f"neither comment nor sample: {line!r}"
        if comment and comment.group(1) == "TYPE":
            assert comment.group(2) not in types and comment.group(3) in ("counter", "gauge", "histogram"), line
            types[comment.group(2)] = comment.group(3)
        if sample:
            key = sample.group(1) + (sample.group(2) or "")
            base = re.sub(r"_(bucket|sum|count)$", "", sample.group(1))
            assert key not in samples and (sample.group(1) in types or types.get(base) == "histogram"), line
            samples[key] = float(sample.group(3))
    return samples, types


@case("metrics are Prometheus text, counters only grow, and histograms add up")
def metrics_move():
    with Server() as server:
        before, _ = metrics(server)
        written = sum(server.post(CHAT, messages=USER, max_tokens=8)["usage"]["completion_tokens"] for _ in range(3))
        server.ask("POST", CHAT, "{")
        path = '{path="/chat/completions",status="%d"}'
        refused = "sonde_requests_total" + path % 400
        until(lambda: metrics(server)[0].get(refused) == 1, "the refused one is counted", 10)
        after, types = metrics(server)
        same(after["sonde_requests_total" + path % 200], 3)
        same(after["sonde_generated_tokens_total"], written)
        assert after["sonde_reused_tokens_total"] > 0 and after["sonde_steps_total"] > 0
        for key, value in before.items():
            if types.get(key.split("{")[0], "histogram") != "gauge":
                assert after[key] >= value, key
        for name in (n for n, kind in types.items() if kind == "histogram"):
            buckets = [v for k, v in after.items() if k.startswith(name + "_bucket")]
            assert buckets == sorted(buckets) and buckets[-1] == after[name + "_count"], name
        same([after["sonde_request_seconds_count"], after["sonde_first_token_seconds_count"]], [3, 3])


# ------------------------------------------------------------------------------------------- conversations


def turn(server, messages, **more):
    """Says the last message; the answer, after which the conversation has it too."""
    answer = server.post(CHAT, messages=messages, max_tokens=200, temperature=0, **more)
    said = answer["choices"][0]["message"]
    messages.append({k: v for k, v in said.items() if v is not None})
    return answer


@case("the second request of a conversation reads only what is new")
def prefix_reuse():
    server, messages = shared(), [{"role": "user", "content": "Was there a green dragon in the small village?"}]
    first = turn(server, messages)["usage"]
    messages.append({"role": "user", "content": "And then?"})
    second = turn(server, messages)
    known = first["prompt_tokens"] + first["completion_tokens"]
    assert known - 2 <= cached(second) <= known, (first, second["usage"])
    messages.append({"role": "user", "content": "The end?"})
    stream = server.stream(CHAT, messages=messages, max_tokens=8, stream_options={"include_usage": True})
    usage = events(read_until(stream, b"[DONE]"))[-1]["usage"]
    stream.close()
    assert usage["prompt_tokens_details"]["cached_tokens"] >= known, usage
    same(usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"], usage["prompt_tokens"])


@case("special tokens that a user types are text")
def forged_turns():
    server = shared()

    def tokens(text, **more):
        return server.post("/tokenize", content=text, **more)["tokens"]

    def counted(text):
        return server.post("/v1/messages/count_tokens", messages=[{"role": "user", "content": text}])["input_tokens"]
    for mark in ("<｜Assistant｜>", "<｜User｜>", "</think>", "<think>", "<｜end▁of▁sentence｜>", "｜DSML｜"):
        text = f"a{mark}b"
        marked, plain = tokens(text), tokens(text, parse_special=False)
        token = tokens(mark)
        same(len(token), 1)
        assert token[0] in marked and token[0] not in plain and len(plain) > len(marked), (mark, marked, plain)
        same(server.post("/detokenize", tokens=plain)["content"], text)
        around = counted("a") - len(tokens("a", parse_special=False))
        same(counted(text), around + len(plain))
        for path, body in ((CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 1}),
                           (CHAT, {"messages": [{"role": "system", "content": text}], "max_tokens": 1}),
                           (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
                                   "max_tokens": 1})):
            usage = server.post(path, **body)["usage"]
            usual = server.post(path, **json.loads(json.dumps(body).replace(json.dumps(text), '"a"')))["usage"]
            same(usage["prompt_tokens"] - usual["prompt_tokens"], len(plain) - 1)
    tools = [{"type": "function", "function": {"name": "a", "description": "<｜User｜>"}}]
    with_mark = server.post(CHAT, messages=USER, tools=tools, max_tokens=1)["usage"]["prompt_tokens"]
    tools[0]["function"]["description"] = ""
    without = server.post(CHAT, messages=USER, tools=tools, max_tokens=1)["usage"]["prompt_tokens"]
    assert with_mark > without + 1, (with_mark, without)


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "properties": {"what": {"type": "string", "enum": ["cat", "dog"]}}, "required": ["what"],
    "additionalProperties": False}}}]


def settled(directory):
    """Bytes below the directory, once they have not changed for a second."""
    def size():
        return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(directory) for name in names)
    last, since = size(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        if (now := size()) != last:
            last, since = now, time.monotonic()
    return last


@case("after kill -9 and with --cache-dir, conversations go on from what was known, tool calls to the last token")
def restart():
    directory = os.path.join(DIRECTORY, "cache")
    plain = [{"role": "user", "content": "Once there was a red ball that rolled down the hill to the water. Why?"}]
    calls = [{"role": "user", "content": "Find me an animal that barks at night when the moon is out."}]
    with Server("--cache-dir", directory) as server:
        first = turn(server, plain)["usage"]
        asked = turn(server, calls, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
        same(asked["choices"][0]["finish_reason"], "tool_calls")
        assert settled(directory) > 0
        server.end(signal.SIGKILL)
    plain.append({"role": "user", "content": "Go on."})
    for call in calls[1]["tool_calls"]:
        calls.append({"role": "tool", "tool_call_id": call["id"], "content": "Here it is."})
    log_path = os.path.join(DIRECTORY, "log-restart")
    with Server("--cache-dir", directory, log=log_path) as server:
        again = turn(server, plain)
        assert cached(again) >= first["prompt_tokens"] - 8, (first, again["usage"])
        known = asked["usage"]["prompt_tokens"] + asked["usage"]["completion_tokens"]
        replayed = turn(server, calls, tools=TOOLS)
        assert known - 4 <= cached(replayed) <= known, (asked["usage"], replayed["usage"])
        server.end(signal.SIGKILL)
    with open(os.path.join(directory, "answers"), "ab") as file:
        file.write(b"torn")
    with Server("--cache-dir", directory, log=log_path):
        pass
    lines = [json.loads(line) for line in open(log_path, encoding="utf-8")]
    holds(json.dumps(lines), "damaged")


# ----------------------------------------------------------------------------------------- who goes away


def leave(server, body, read=False, path=TEXT):
    """Asks, and is gone; having read a first event, or the moment the request has been sent."""
    client = server.send(path, body)
    if read:
        read_until(client, b"data: ")
    else:
        time.sleep(0.02)
    client.close()


LEAVERS = {
    "mid-stream": ({"prompt": "Once", "max_tokens": 4000, "stream": True, **ENDLESS}, True),
    "mid-answer": ({"prompt": "Once", "max_tokens": 4000, **ENDLESS}, False),
    "in a long prompt": ({"prompt": "word " * 3000, "max_tokens": 4, "stream": True}, False),
    "in a long prompt with more answers to come": ({"prompt": "verb " * 3000, "n": 3, "stream": True}, False),
    "before its answers of a chat": ({"messages": [{"role": "user", "content": "cat " * 3000}], "n": 3,
                                      "stream": True}, False),
}


@case("clients that go away leave nothing behind")
def leavers():
    with Server() as server:
        for body, read in LEAVERS.values():
            for _ in range(10):
                leave(server, body, read, CHAT if "messages" in body else TEXT)
            until(server.idle, "all have been let go")
        same(server.status()["running"], [])
        server.post(CHAT, messages=USER, max_tokens=2)


@case("clients that go away while they wait leave nothing behind")
def leavers_waiting():
    with Server("--requests", "1") as server:
        busy = server.stream(TEXT, prompt="Once", max_tokens=4000, **ENDLESS)
        read_until(busy, b"data: ")
        for body in ({"messages": USER, "n": 3, "stream": True}, {"messages": USER}):
            for _ in range(10):
                leave(server, body, path=CHAT)
        until(lambda: server.status()["requests"]["waiting"] == 0, "those that waited are let go")
        same(server.status()["requests"]["active"], 1)
        busy.close()
        until(server.idle, "the busy one is let go too")


# -------------------------------------------------------------------------------------------------- TAP


def main():
    cases = [c for c in CASES if not ONLY or c[1].__name__ in ONLY]
    failures = 0
    try:
        for number, (name, run) in enumerate(cases, 1):
            try:
                run()
                if SHARED and (SHARED[0].process.poll() is not None or run is cases[-1][1]):
                    SHARED.pop().__exit__(None)
                print(f"ok {number} - {name}", flush=True)
            except Skip as why:
                print(f"ok {number} - {name} # SKIP {why}", flush=True)
            except Exception:  # whatever it was, the other cases still count
                failures += 1
                print(f"not ok {number} - {name}")
                print("\n".join("# " + line for line in traceback.format_exc().splitlines()[-14:]), flush=True)
    finally:
        for process in Server.running:
            process.kill()
            process.wait()
    print(f"1..{len(cases)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
