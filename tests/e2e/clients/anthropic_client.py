"""anthropic_client.py ADDRESS KEY ONCE [CASE...] - Anthropic's client for Python against `sonde serve`; cases.py says
how."""
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import anthropic

from cases import (ADDRESS, KEY, MODEL, ONCE, PIXEL, STORY, WEATHER, Weather, active, case, holds, is_soon,
                   is_weather_call, raises, run, same)

SETTINGS = {"base_url": ADDRESS, "max_retries": 0, "timeout": 120}
client = anthropic.Anthropic(api_key=KEY, **SETTINGS)
SYSTEM = "You know the weather."
QUESTION = [{"role": "user", "content": "How is Oslo?"}]
TOOLS = [{"name": "weather", "description": "The weather.", "input_schema": WEATHER},
         {"name": "now", "input_schema": {"type": "object", "properties": {}}}]
# the client has no parameter for it any more
GREEDY = {"temperature": 0}
CALL = {"model": MODEL, "system": SYSTEM, "messages": QUESTION, "tools": TOOLS, "max_tokens": 400,
        "extra_body": GREEDY,
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}}
THINK = {"type": "enabled", "budget_tokens": 8}


def ask(messages=STORY, **more):
    return client.messages.create(model=MODEL, messages=messages, **{"max_tokens": 24, "extra_body": GREEDY, **more})


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def read(usage):
    """Tokens of the prompt, from the cache or not."""
    return usage.input_tokens + usage.cache_read_input_tokens


# -------------------------------------------------------------------------------------------- messages

@case
def messages_answer():
    answer = ask(max_tokens=5)
    same((answer.type, answer.role, answer.model), ("message", "assistant", MODEL))
    same([block.type for block in answer.content], ["text"])
    same((answer.stop_reason, answer.stop_sequence), ("max_tokens", None))
    same(answer.usage.output_tokens, 5)
    same(ask(max_tokens=400).stop_reason, "end_turn")


@case
def messages_stream():
    whole = ask(max_tokens=40)
    with client.messages.stream(model=MODEL, messages=STORY, max_tokens=40, extra_body=GREEDY) as stream:
        events = list(stream)
        final = stream.get_final_message()
    pieces = [event.text for event in events if event.type == "text"]
    holds(len(pieces) > 4, pieces)
    same("".join(pieces), text_of(whole))
    same((text_of(final), final.stop_reason), (text_of(whole), whole.stop_reason))
    same((read(final.usage), final.usage.output_tokens), (read(whole.usage), whole.usage.output_tokens))
    types = [event.type for event in events]
    same(types[:2], ["message_start", "content_block_start"])
    same(types[-3:], ["content_block_stop", "message_delta", "message_stop"])


@case
def messages_raw_stream():
    whole = ask()
    events = list(ask(stream=True))
    same("".join(e.delta.text for e in events if e.type == "content_block_delta"), text_of(whole))
    delta = [e for e in events if e.type == "message_delta"]
    same([(d.delta.stop_reason, d.usage.output_tokens) for d in delta], [("max_tokens", 24)])


@case
def messages_stop_sequences():
    text = text_of(ask(max_tokens=40))
    stop = text.split()[3]
    answer = ask(max_tokens=40, stop_sequences=["never said", stop])
    same((answer.stop_reason, answer.stop_sequence), ("stop_sequence", stop))
    same(text_of(answer), text[:text.index(stop)])
    with client.messages.stream(model=MODEL, messages=STORY, max_tokens=40, extra_body=GREEDY,
                                stop_sequences=[stop]) as stream:
        final = stream.get_final_message()
    same((final.stop_reason, final.stop_sequence, text_of(final)), ("stop_sequence", stop, text_of(answer)))


@case
def messages_blocks():
    blocks = [{"role": "user", "content": [{"type": "text", "text": STORY[0]["content"],
                                            "cache_control": {"type": "ephemeral"}}]}]
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    same(text_of(ask(blocks, system=system)), text_of(ask(system=SYSTEM)))


@case
def messages_prefill():
    answer = ask(STORY + [{"role": "assistant", "content": "Once upon"}], max_tokens=8)
    same(read(answer.usage), read(ask(max_tokens=1).usage) + 2)


@case
def messages_remember_the_conversation():
    first = ask()
    more = [{"role": "assistant", "content": first.content}, {"role": "user", "content": "More."}]
    second = ask(STORY + more)
    holds(second.usage.cache_read_input_tokens > read(first.usage), (first.usage, second.usage))


@case
def messages_count_tokens():
    for asked in ({"messages": STORY}, {"messages": QUESTION, "system": SYSTEM, "tools": TOOLS},
                  {"messages": STORY, "thinking": THINK}):
        same(client.messages.count_tokens(model=MODEL, **asked).input_tokens,
             read(client.messages.create(model=MODEL, max_tokens=1, **asked).usage))


# ------------------------------------------------------------------------------------------------ tools

@cache
def call():
    return client.messages.create(**CALL)


def comes_back(first, **more):
    """What was called is told its result; nothing that was read or written is read again."""
    same(first.stop_reason, "tool_use")
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "It rains."}]}
               for block in first.content if block.type == "tool_use"]
    messages = QUESTION + [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = ask(messages, system=SYSTEM, tools=TOOLS, tool_choice={"type": "none"}, **more)
    same([block.type for block in second.content if block.type == "tool_use"], [])
    # but for the last token, which was not fed
    holds(second.usage.cache_read_input_tokens >= read(first.usage) + first.usage.output_tokens - 1,
          (first.usage, second.usage))


@case
def tools_named():
    same([block.type for block in call().content], ["tool_use"])
    holds(call().content[0].id.startswith("toolu_"), call())
    is_weather_call(call().content[0].name, call().content[0].input)
    comes_back(call())


@case
def tools_any():
    first = client.messages.create(**{**CALL, "tool_choice": {"type": "any"}})
    for block in first.content:
        holds(block.name in ("weather", "now") and isinstance(block.input, dict), block)
    comes_back(first)


@case
def tools_streamed():
    with client.messages.stream(**CALL) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    holds(len(pieces) > 1, pieces)
    same([(block.name, block.input) for block in final.content],
         [(block.name, block.input) for block in call().content])
    comes_back(final)


@case
def tools_run_by_the_client():
    """The client's own loop: it calls the function and asks again."""
    asked = []

    @anthropic.beta_tool
    def weather(city: str, days: int) -> str:
        """The weather."""
        asked.append((city, days))
        return "It rains."

    weather.input_schema = WEATHER
    runner = client.beta.messages.tool_runner(**{**CALL, "tools": [weather], "messages": list(QUESTION)},
                                              max_iterations=2)
    answers = list(runner)
    same([a.stop_reason for a in answers], ["tool_use", "tool_use"])
    same(len(asked) >= 1, True)
    holds(answers[1].usage.cache_read_input_tokens >= read(answers[0].usage) + answers[0].usage.output_tokens - 1,
          answers)


# ------------------------------------------------------------------------------------- structured output

@case
def structured_by_schema():
    answer = ask(QUESTION, max_tokens=400, output_config={"format": {"type": "json_schema", "schema": WEATHER}})
    same(answer.stop_reason, "end_turn")
    is_weather_call("weather", json.loads(text_of(answer)))


@case
def structured_by_pydantic():
    asked = {"model": MODEL, "messages": QUESTION, "max_tokens": 400, "extra_body": GREEDY, "output_format": Weather}
    whole = client.messages.parse(**asked).parsed_output
    holds(isinstance(whole, Weather), whole)
    with client.messages.stream(**asked) as stream:
        same(stream.get_final_message().parsed_output, whole)


# --------------------------------------------------------------------------------------------- thinking

@case
def thinking():
    asked = {"model": MODEL, "messages": QUESTION, "max_tokens": 400, "extra_body": GREEDY, "thinking": THINK,
             "output_format": Weather}
    whole = client.messages.parse(**asked)
    same([block.type for block in whole.content], ["thinking", "text"])
    holds(whole.content[0].thinking and isinstance(whole.parsed_output, Weather), whole)
    with client.messages.stream(**asked) as stream:
        pieces = [event.thinking for event in stream if event.type == "thinking"]
        final = stream.get_final_message()
    same("".join(pieces), whole.content[0].thinking)
    same([block.type for block in final.content], ["thinking", "text"])
    same((final.content[0].thinking, final.parsed_output), (whole.content[0].thinking, whole.parsed_output))
    same("thinking" in [block.type for block in ask(thinking={"type": "disabled"}).content], False)


@case
def thinking_comes_back():
    first = client.messages.create(**CALL, thinking=THINK)
    same([block.type for block in first.content], ["thinking", "tool_use"])
    comes_back(first, thinking=THINK)


# ----------------------------------------------------------------------------------------------- errors

@case
def errors_name_the_field():
    image = [{"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": PIXEL}}]}]
    for field, said, asked in (
            ("colour", "not supported", {"extra_body": {"colour": "red"}}),
            ("messages[0].content[0].type", "image", {"messages": image}),
            ("temperature", "number", {"extra_body": {"temperature": "warm"}}),
            ("max_tokens", "whole number", {"max_tokens": 0}),
            ("messages[0].role", "robot", {"messages": [{"role": "robot", "content": "x"}]}),
            ("messages", "at least one", {"messages": []}),
            ("tools[0].type", "client", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            ("tool_choice", "rain", {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "rain"}})):
        error = raises(anthropic.BadRequestError, ask, **asked)
        same(error.body["error"]["type"], "invalid_request_error")
        holds(field in str(error) and said in str(error), error)


@case
def errors_of_keys():
    stranger = anthropic.Anthropic(api_key="no such key", **SETTINGS)
    error = raises(anthropic.AuthenticationError, stranger.messages.create, model=MODEL, messages=STORY, max_tokens=1)
    same(error.body["error"]["type"], "authentication_error")
    once = anthropic.Anthropic(api_key=ONCE, **SETTINGS)
    once.messages.create(model=MODEL, messages=STORY, max_tokens=1)
    error = raises(anthropic.RateLimitError, once.messages.create, model=MODEL, messages=STORY, max_tokens=1)
    holds(0 < int(error.response.headers["retry-after"]) <= 60, error.response.headers)
    same(error.body["error"]["type"], "rate_limit_error")


@case
def errors_not_found():
    error = raises(anthropic.NotFoundError, client.models.retrieve, "no-such-model")
    same(error.body["error"]["type"], "not_found_error")


@case
def errors_context_too_long():
    long = [{"role": "user", "content": "dog " * 6000}]
    for stream in (False, True):
        error = raises(anthropic.BadRequestError, ask, long, stream=stream)
        holds("context" in str(error), error)


# ------------------------------------------------------------------------------------------------ others

@case
def cancelled_streams_end():
    is_soon(lambda: active() == 0)
    schema = {"type": "array", "minItems": 900, "items": {"type": "boolean"}}
    stream = ask(QUESTION, max_tokens=3000, stream=True,
                 output_config={"format": {"type": "json_schema", "schema": schema}})
    for _, event in zip(range(5), stream):
        holds(event.type, event)
    holds(active() > 0)
    stream.close()
    is_soon(lambda: active() == 0, 1)


@case
def models():
    same([(m.id, m.type) for m in client.models.list()], [(MODEL, "model")])
    same(client.models.retrieve(MODEL).display_name, MODEL)


@case
def bearer_token():
    with anthropic.Anthropic(auth_token=KEY, **SETTINGS) as other:
        same([m.id for m in other.models.list()], [MODEL])


@case
def async_client():
    async def both():
        async with anthropic.AsyncAnthropic(api_key=KEY, **SETTINGS) as other:
            asked = {"model": MODEL, "messages": STORY, "max_tokens": 24, "extra_body": GREEDY}

            async def streamed():
                async with other.messages.stream(**asked) as stream:
                    return "".join([text async for text in stream.text_stream])

            whole, text = await asyncio.gather(other.messages.create(**asked), streamed())
            return text_of(whole), text

    text = text_of(ask())
    same(asyncio.run(both()), (text, text))


@case
def eight_at_once():
    def tell(i):
        return text_of(ask([{"role": "user", "content": f"Tell me of {i} cats."}]))

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(tell, range(8)))
    same([tell(i) for i in (0, 7)], [texts[0], texts[7]])


run()
