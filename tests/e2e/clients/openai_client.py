"""openai_client.py ADDRESS KEY ONCE [CASE...] - OpenAI's client for Python against `sonde serve`; cases.py says how."""
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import openai
from pydantic import BaseModel

from cases import (ADDRESS, KEY, MODEL, ONCE, PIXEL, STORY, WEATHER, Weather, active, case, holds, is_soon,
                   is_weather_call, raises, run, same)

SETTINGS = {"base_url": ADDRESS + "/v1", "max_retries": 0, "timeout": 120}
client = openai.OpenAI(api_key=KEY, **SETTINGS)
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
WEATHER_ONLY = {"type": "function", "function": {"name": "weather"}}
TOOLS_OF_RESPONSES = [{"type": "function", "strict": False, **tool["function"]} for tool in TOOLS]
QUESTION = [{"role": "system", "content": "You know the weather."}, {"role": "user", "content": "How is Oslo?"}]


def chat(messages=STORY, **more):
    return client.chat.completions.create(model=MODEL, messages=messages, **{"max_tokens": 24, "seed": 1, **more})


def id_of(text):
    return str(client.post("/tokenize", body={"content": text}, cast_to=object)["tokens"][0])


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# ------------------------------------------------------------------------------------------------ chat

@case
def chat_answers():
    answer = chat()
    same(answer.object, "chat.completion")
    same(answer.model, MODEL)
    same(answer.choices[0].message.role, "assistant")
    holds(len(answer.choices[0].message.content) > 10, answer)
    same(answer.choices[0].message.tool_calls, None)
    usage = answer.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    same(usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, usage.prompt_tokens)
    same(usage.prompt_tokens_details.cached_tokens, usage.prompt_cache_hit_tokens)


@case
def chat_streams_the_same():
    whole = chat(max_tokens=40)
    chunks = list(chat(max_tokens=40, stream=True, stream_options={"include_usage": True}))
    holds(len(chunks) > 4, chunks)
    same(text_of(chunks), whole.choices[0].message.content)
    same(chunks[0].choices[0].delta.role, "assistant")
    same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
         [whole.choices[0].finish_reason])
    same(chunks[-1].choices, [])
    same([c.usage for c in chunks[:-1] if c.usage], [])
    same(chunks[-1].usage.prompt_tokens, whole.usage.prompt_tokens)
    same(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
    same({c.id for c in chunks}, {chunks[0].id})


@case
def chat_streams_without_usage():
    chunks = list(chat(stream=True))
    holds(chunks[-1].choices[0].finish_reason in ("stop", "length"), chunks[-1])
    same([c.usage for c in chunks if c.usage], [])


@case
def chat_stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=STORY, max_tokens=400, seed=1) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    same(final.choices[0].finish_reason, "stop")
    same("".join(deltas), final.choices[0].message.content)


@case
def chat_seed():
    texts = {chat(seed=seed, temperature=1).choices[0].message.content for seed in (7, 7, 8, 9)}
    same(len(texts), 3)


@case
def chat_max_tokens():
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model=MODEL, messages=STORY, seed=1, **{name: 5})
        same(answer.choices[0].finish_reason, "length")
        same(answer.usage.completion_tokens, 5)


@case
def chat_stop():
    text = chat(max_tokens=40).choices[0].message.content
    stop = text.split()[3]
    for stops in (stop, ["never said", stop]):
        answer = chat(max_tokens=40, stop=stops)
        same(answer.choices[0].message.content, text[:text.index(stop)])
        same(answer.choices[0].finish_reason, "stop")
    same(text_of(chat(max_tokens=40, stop=stop, stream=True)), text[:text.index(stop)])


@case
def chat_n():
    answer = chat(n=3, temperature=1)
    same([c.index for c in answer.choices], [0, 1, 2])
    texts = [c.message.content for c in answer.choices]
    same(len(set(texts)), 3)
    streamed = ["", "", ""]
    for chunk in chat(n=3, temperature=1, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    same(streamed, texts)


@case
def chat_logprobs():
    whole = chat(temperature=0, logprobs=True, top_logprobs=3).choices[0]
    rows = whole.logprobs.content
    same(b"".join(bytes(row.bytes) for row in rows).decode(), whole.message.content)
    for row in rows:
        same(len(row.top_logprobs), 3)
        same(row.top_logprobs[0].token, row.token)
        holds(0 >= row.logprob == row.top_logprobs[0].logprob >= row.top_logprobs[1].logprob, row)
    streamed = []
    for chunk in chat(temperature=0, logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    same([row.token for row in streamed], [row.token for row in rows])
    same(chat().choices[0].logprobs, None)


@case
def chat_content_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": STORY[0]["content"]}]}]
    same(chat(parts).choices[0].message.content, chat().choices[0].message.content)


@case
def chat_remembers_the_conversation():
    first = chat()
    message = first.choices[0].message
    second = chat(STORY + [message, {"role": "user", "content": "More."}])
    holds(second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens, second.usage)


@case
def chat_prefix():
    whole = chat(STORY + [{"role": "assistant", "content": "Once upon", "prefix": True}], max_tokens=8)
    same(whole.usage.prompt_tokens, chat(max_tokens=1).usage.prompt_tokens + 2)


# ------------------------------------------------------------------------------------------------ tools

NAMED = {"tools": TOOLS, "tool_choice": WEATHER_ONLY, "parallel_tool_calls": False, "max_tokens": 400}


@cache
def named_call():
    return chat(QUESTION, **NAMED)


def comes_back(first, tools=TOOLS, **more):
    """What was called is told its result; nothing that was read or written is read again."""
    message = first.choices[0].message
    same(first.choices[0].finish_reason, "tool_calls")
    results = [{"role": "tool", "tool_call_id": c.id, "content": "It rains."} for c in message.tool_calls]
    second = chat(QUESTION + [message] + results, tools=tools, tool_choice="none", **more)
    same(second.choices[0].message.tool_calls, None)
    cached = second.usage.prompt_tokens_details.cached_tokens
    # but for the last token, which was not fed
    holds(cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 1, (first.usage, second.usage))
    same(cached, second.usage.prompt_cache_hit_tokens)


@case
def tools_required():
    first = chat(QUESTION, tools=TOOLS, tool_choice="required", max_tokens=400)
    for call in first.choices[0].message.tool_calls:
        holds(call.function.name in ("weather", "now"), call)
        holds(isinstance(json.loads(call.function.arguments), dict), call)
    comes_back(first)


@case
def tools_named():
    calls = named_call().choices[0].message.tool_calls
    same(len(calls), 1)
    is_weather_call(calls[0].function.name, json.loads(calls[0].function.arguments))
    comes_back(named_call())


@case
def tools_auto_and_none():
    for choice in ("auto", "none"):
        answer = chat(QUESTION, tools=TOOLS, tool_choice=choice)
        holds(answer.choices[0].finish_reason in ("stop", "length"), answer)


@case
def tools_streamed():
    whole = named_call().choices[0].message.tool_calls[0].function
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, seed=1, **NAMED,
                                        stream_options={"include_usage": True}) as stream:
        pieces = [e.arguments_delta for e in stream if e.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0].function
    same((call.name, call.arguments), (whole.name, whole.arguments))
    same("".join(pieces), whole.arguments)
    holds(len(pieces) > 1, pieces)
    comes_back(final)


@case
def tools_parsed_by_pydantic():
    answer = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, seed=1, max_tokens=400, tools=[openai.pydantic_function_tool(Weather)],
        tool_choice="required", parallel_tool_calls=False)
    for call in answer.choices[0].message.tool_calls:
        holds(isinstance(call.function.parsed_arguments, Weather), call)


# ------------------------------------------------------------------------------------- structured output

@case
def structured_by_schema():
    answer = chat(QUESTION, max_tokens=400, response_format={
        "type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": WEATHER}})
    same(answer.choices[0].finish_reason, "stop")
    is_weather_call("weather", json.loads(answer.choices[0].message.content))


@case
def structured_by_pydantic():
    asked = {"model": MODEL, "messages": QUESTION, "seed": 1, "max_tokens": 400, "response_format": Weather}
    whole = client.chat.completions.parse(**asked).choices[0].message.parsed
    holds(isinstance(whole, Weather), whole)
    with client.chat.completions.stream(**asked) as stream:
        same(stream.get_final_completion().choices[0].message.parsed, whole)


@case
def structured_by_nested_pydantic():
    class Trip(BaseModel):
        stops: list[Weather]
        back: bool | None

    messages = [{"role": "user", "content": "Plan a trip."}]
    answer = client.chat.completions.parse(model=MODEL, messages=messages, seed=1, max_tokens=800,
                                           response_format=Trip)
    holds(isinstance(answer.choices[0].message.parsed, Trip), answer)


@case
def json_object():
    # the small model would go on for long: an object begins and ends where it can
    bias = {id_of("{"): 30, id_of("}"): 30}
    answer = chat([{"role": "user", "content": "Say it in JSON."}], max_tokens=400, logit_bias=bias,
                  response_format={"type": "json_object"})
    same(answer.choices[0].finish_reason, "stop")
    holds(isinstance(json.loads(answer.choices[0].message.content), dict), answer)


# --------------------------------------------------------------------------------------------- thinking

# The small model does not know how to think, nor when to stop: its thoughts are cut off, and it may not end at once.
THINK = {"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 8}}, "max_tokens": 30,
         "logit_bias": {id_of("<｜end▁of▁sentence｜>"): -100}}


def reasoning_of(message):
    return getattr(message, "reasoning_content", None)


@case
def thinking():
    whole = chat(**THINK)
    message = whole.choices[0].message
    holds(reasoning_of(message) and message.content, message)
    same(whole.usage.completion_tokens_details.reasoning_tokens, 8)
    deltas = [chunk.choices[0].delta for chunk in chat(**THINK, stream=True)]
    same("".join(reasoning_of(delta) or "" for delta in deltas), reasoning_of(message))
    same("".join(delta.content or "" for delta in deltas), message.content)
    thoughts = [i for i, delta in enumerate(deltas) if reasoning_of(delta)]
    contents = [i for i, delta in enumerate(deltas) if delta.content]
    holds(max(thoughts) < min(contents), deltas)
    same(reasoning_of(chat().choices[0].message), None)


@case
def thinking_comes_back():
    """With its reasoning and without it: the answer is the ids it was."""
    first = chat(QUESTION, **{**NAMED, "extra_body": THINK["extra_body"]})
    message = first.choices[0].message
    holds(reasoning_of(message), message)
    comes_back(first, extra_body=THINK["extra_body"])
    message.__pydantic_extra__.pop("reasoning_content")
    same(reasoning_of(message), None)
    comes_back(first, extra_body=THINK["extra_body"])


@case
def thinking_comes_to_an_answer():
    """What is asked of an answer holds behind the reasoning, which must end."""
    answer = client.chat.completions.parse(model=MODEL, messages=QUESTION, seed=1, max_tokens=400,
                                           response_format=Weather, extra_body=THINK["extra_body"])
    holds(reasoning_of(answer.choices[0].message), answer)
    holds(isinstance(answer.choices[0].message.parsed, Weather), answer)


@case
def thinking_by_effort():
    same(reasoning_of(chat(reasoning_effort="none").choices[0].message), None)
    answer = chat(reasoning_effort="high", extra_body={"thinking_budget": 4})
    same(answer.usage.completion_tokens_details.reasoning_tokens, 4)


# -------------------------------------------------------------------------------------------- responses

def respond(given=STORY[0]["content"], **more):
    return client.responses.create(model=MODEL, input=given, **{"max_output_tokens": 24, "temperature": 0, **more})


@case
def responses_answer():
    answer = respond(max_output_tokens=6, instructions="Be kind.")
    same(answer.status, "incomplete")
    same(answer.incomplete_details.reason, "max_output_tokens")
    same(answer.usage.output_tokens, 6)
    same(answer.usage.total_tokens, answer.usage.input_tokens + 6)
    same(answer.instructions, "Be kind.")
    same([item.type for item in answer.output], ["message"])
    holds(answer.output_text, answer)


def in_order(events, wanted):
    """Types of the events, those that repeat told once, and their numbers from 0."""
    same([e.sequence_number for e in events], list(range(len(events))))
    types = [e.type.removeprefix("response.") for e in events]
    same([t for i, t in enumerate(types) if not i or t != types[i - 1]], wanted)


@case
def responses_stream():
    whole = respond(max_output_tokens=6)
    events = list(respond(max_output_tokens=6, stream=True))
    in_order(events, ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
                      "output_text.done", "content_part.done", "output_item.done", "incomplete"])
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    same(text, whole.output_text)
    same(events[-1].response.output_text, text)
    same(events[-1].response.usage.output_tokens, 6)
    same(len({e.response.id for e in events if hasattr(e, "response")}), 1)


@case
def responses_stream_helper():
    with client.responses.stream(model=MODEL, input="Tell me a story.", max_output_tokens=600, temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    same(final.status, "completed")
    same(final.output_text, text)


@case
def responses_function_round_trip():
    asked = {"tools": TOOLS_OF_RESPONSES, "instructions": "You know the weather."}
    choice = {"tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": False,
              "max_output_tokens": 400}
    question = [{"role": "user", "content": "How is Oslo?"}]
    first = respond(question, **asked, **choice)
    same([item.type for item in first.output], ["function_call"])
    call = first.output[0]
    is_weather_call(call.name, json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    second = respond(question + first.output + [result], **asked, tool_choice="none")
    holds(second.output_text, second)
    holds(second.usage.input_tokens_details.cached_tokens >=
          first.usage.input_tokens + first.usage.output_tokens - 1, (first.usage, second.usage))
    with client.responses.stream(model=MODEL, input=question, temperature=0, **asked, **choice) as stream:
        in_order(list(stream), ["created", "in_progress", "output_item.added", "function_call_arguments.delta",
                                "function_call_arguments.done", "output_item.done", "completed"])
        same(stream.get_final_response().output[0].arguments, call.arguments)


@case
def responses_custom_tool():
    custom = [{"type": "custom", "name": "note", "description": "Writes a note."}]
    events = list(respond("Note that it rains.", tools=custom, tool_choice="required", parallel_tool_calls=False,
                          max_output_tokens=120, stream=True))
    same([e.sequence_number for e in events], list(range(len(events))))
    call = events[-1].response.output[0]
    same((call.type, call.name), ("custom_tool_call", "note"))
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
    second = respond([STORY[0], call, result], tools=custom, tool_choice="none")
    holds(second.usage.output_tokens > 0, second)


@case
def responses_structured():
    whole = client.responses.parse(model=MODEL, input="How is Oslo?", text_format=Weather, max_output_tokens=400)
    holds(isinstance(whole.output_parsed, Weather), whole)


@case
def responses_think():
    asked = {"reasoning": {"effort": "high"}, "max_output_tokens": 40, "extra_body": {"thinking_budget": 8}}
    whole = respond(**asked)
    same([item.type for item in whole.output], ["reasoning", "message"])
    same(whole.usage.output_tokens_details.reasoning_tokens, 8)
    events = list(respond(stream=True, **asked))
    same("".join(e.delta for e in events if e.type == "response.reasoning_text.delta"),
         whole.output[0].content[0].text)
    same([item.type for item in events[-1].response.output], ["reasoning", "message"])
    again = respond([STORY[0]] + whole.output + [{"role": "user", "content": "More."}], **asked)
    holds(again.usage.input_tokens_details.cached_tokens > 0, again.usage)


# ------------------------------------------------------------------------------------------ completions

def complete(prompt="Once upon a time", **more):
    return client.completions.create(model=MODEL, prompt=prompt, **{"max_tokens": 12, "seed": 1, **more})


@case
def completions_answer():
    whole = complete().choices[0].text
    same("".join(c.choices[0].text for c in complete(stream=True)), whole)
    same(complete(echo=True).choices[0].text, "Once upon a time" + whole)
    last = list(complete(stream=True, stream_options={"include_usage": True}))[-1]
    same((last.choices, last.usage.completion_tokens), ([], 12))


@case
def completions_n_and_stop():
    choices = complete(n=2, temperature=1).choices
    same(len({c.text for c in choices}), 2)
    same([c.index for c in choices], [0, 1])
    text = complete(max_tokens=30).choices[0].text
    stop = text.split()[3]
    answer = complete(max_tokens=30, stop=[stop]).choices[0]
    same((answer.text, answer.finish_reason), (text[:text.index(stop)], "stop"))


@case
def completions_logprobs():
    whole = complete(logprobs=2).choices[0]
    same("".join(whole.logprobs.tokens), whole.text)
    same(len(whole.logprobs.token_logprobs), 12)
    holds(all(len(top) == 2 for top in whole.logprobs.top_logprobs), whole)
    scored = complete("Once upon a time there was a dog.", echo=True, logprobs=1, max_tokens=0).choices[0]
    same(scored.text, "Once upon a time there was a dog.")
    same(scored.logprobs.token_logprobs[0], None)
    holds(all(p <= 0 for p in scored.logprobs.token_logprobs[1:]), scored)
    for token, offset in list(zip(scored.logprobs.tokens, scored.logprobs.text_offset))[1:]:
        same(scored.text[offset:offset + len(token)], token)


@case
def completions_suffix():
    whole = complete(suffix="The end.")
    holds(whole.usage.prompt_tokens > complete().usage.prompt_tokens, whole.usage)
    error = raises(openai.BadRequestError, complete, suffix="The end.", echo=True)
    same(error.param, "echo")


# ----------------------------------------------------------------------------------------------- errors

@case
def errors_name_the_field():
    image = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {
        "type": "image_url", "image_url": {"url": "data:image/png;base64," + PIXEL}}]}]
    for field, said, asked in (
            ("colour", "colour", {"extra_body": {"colour": "red"}}),
            ("messages[0].content", "image_url", {"messages": image}),
            ("temperature", "number", {"temperature": "warm"}),
            ("max_tokens", "whole number", {"max_tokens": 1.5}),
            ("messages[0].role", "robot", {"messages": [{"role": "robot", "content": "x"}]}),
            ("messages", "at least one", {"messages": []}),
            ("tools[0].type", "function", {"tools": [{"type": "web_search"}]}),
            ("tool_choice", "rain", {"tools": TOOLS,
                                     "tool_choice": {"type": "function", "function": {"name": "rain"}}}),
            ("top_logprobs", "logprobs", {"top_logprobs": 2})):
        error = raises(openai.BadRequestError, chat, **asked)
        same(error.param, field)
        same(error.type, "invalid_request_error")
        holds(field in error.message and said in error.message, error.message)
    error = raises(openai.BadRequestError, respond, previous_response_id="resp_1")
    same(error.param, "previous_response_id")


@case
def errors_of_keys():
    stranger = openai.OpenAI(api_key="no such key", **SETTINGS)
    error = raises(openai.AuthenticationError, stranger.models.list)
    same(error.code, "invalid_api_key")
    once = openai.OpenAI(api_key=ONCE, **SETTINGS)
    once.chat.completions.create(model=MODEL, messages=STORY, max_tokens=1)
    error = raises(openai.RateLimitError, once.chat.completions.create, model=MODEL, messages=STORY, max_tokens=1)
    holds(0 < int(error.response.headers["retry-after"]) <= 60, error.response.headers)


@case
def errors_not_found():
    raises(openai.NotFoundError, client.models.retrieve, "gpt-4")
    raises(openai.NotFoundError, client.embeddings.create, model=MODEL, input="x")


@case
def errors_context_too_long():
    long = [{"role": "user", "content": "dog " * 6000}]
    for stream in (False, True):
        error = raises(openai.BadRequestError, chat, long, stream=stream)
        same(error.code, "context_length_exceeded")


# ------------------------------------------------------------------------------------------------ others

@case
def cancelled_streams_end():
    is_soon(lambda: active() == 0)
    stream = chat(max_tokens=3000, stream=True, logit_bias={"1": -100})
    for _, chunk in zip(range(3), stream):
        holds(chunk.choices, chunk)
    holds(active() > 0)
    stream.close()
    is_soon(lambda: active() == 0, 1)


@case
def models():
    listed = list(client.models.list())
    same([m.id for m in listed], [MODEL])
    same(client.models.retrieve(MODEL).id, MODEL)


@case
def async_client():
    async def ask():
        async with openai.AsyncOpenAI(api_key=KEY, **SETTINGS) as other:
            asked = {"model": MODEL, "messages": STORY, "max_tokens": 24, "seed": 1}
            whole, stream = await asyncio.gather(other.chat.completions.create(**asked),
                                                 other.chat.completions.create(**asked, stream=True))
            return whole.choices[0].message.content, text_of([chunk async for chunk in stream])

    text = chat().choices[0].message.content
    same(asyncio.run(ask()), (text, text))


@case
def eight_at_once():
    def ask(i):
        return chat([{"role": "user", "content": f"Tell me of {i} dogs."}]).choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(8)))
    same([ask(i) for i in (0, 7)], [texts[0], texts[7]])


run()
