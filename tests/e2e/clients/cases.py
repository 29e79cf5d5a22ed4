"""cases.py - the cases of a client's script, each told as a line of TAP without a number; test_clients.sh adds these.

A script is called with the address of a server of models/nano, a key, a key that may ask once a minute, and names of
cases (all, if there are none)."""
import json
import sys
import time
import traceback
import urllib.request
from typing import Literal

from pydantic import BaseModel

ADDRESS, KEY, ONCE = sys.argv[1:4]
ONLY = sys.argv[4:]
MODEL = "nano"
STORY = [{"role": "user", "content": "Tell me a story about a dog."}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Rome", "Nairobi"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
# 1 by 1, as PNG
PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
         "gg==")

cases = []


class Weather(BaseModel):
    city: Literal["Oslo", "Rome", "Nairobi"]
    warm: bool


def case(function):
    """A function is a case; its name says what it shows."""
    cases.append(function)
    return function


def same(got, wanted):
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def holds(condition, about=None):
    assert condition, f"does not hold of {about!r}"


def is_weather_call(name, arguments):
    """A call of the tool `weather`, its arguments parsed, follows WEATHER."""
    same(name, "weather")
    same(sorted(arguments), ["city", "days"])
    holds(arguments["city"] in WEATHER["properties"]["city"]["enum"], arguments)
    holds(type(arguments["days"]) is int and 1 <= arguments["days"] <= 9, arguments)


def raises(kind, function, *args, **kwargs):
    """The exception of exactly this kind that the function ends with."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        holds(type(error) is kind, error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def is_soon(condition, seconds=10):
    """Asks again and again, as long as it may take."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds} seconds"
        time.sleep(0.02)


def active():
    """Answers that are read for, written or waiting, as the server says."""
    request = urllib.request.Request(ADDRESS + "/status", headers={"Authorization": "Bearer " + KEY})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        requests = json.load(answer)["requests"]
    return requests["active"] + requests["waiting"]


def run():
    """Every case, then the plan. A case that fails does not keep the others from running."""
    chosen = [f for f in cases if not ONLY or f.__name__ in ONLY]
    for function in chosen:
        try:
            function()
        except Exception:
            print(f"not ok - {function.__name__}")
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), end="")
        else:
            print(f"ok - {function.__name__}")
        sys.stdout.flush()
    print(f"1..{len(chosen)}")
