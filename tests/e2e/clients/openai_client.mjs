// openai_client.mjs ADDRESS KEY ONCE [CASE...] - OpenAI's client for Node against `sonde serve`; cases.mjs says how.
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';

import {
    Weather, active, address, holds, isSoon, isWeatherCall, join, key, list, model, once, pixel, question, raises, run,
    same, story, weatherSchema,
} from './cases.mjs';

const settings = { baseURL: address + '/v1', maxRetries: 0, timeout: 120000 };
const client = new OpenAI({ apiKey: key, ...settings });
const tools = [
    { type: 'function', function: { name: 'weather', description: 'The weather.', parameters: weatherSchema } },
    { type: 'function', function: { name: 'now', parameters: { type: 'object', properties: {} } } },
];
const toolsOfResponses = tools.map((tool) => ({ type: 'function', strict: false, ...tool.function }));
const named = {
    tools, tool_choice: { type: 'function', function: { name: 'weather' } }, parallel_tool_calls: false,
    max_tokens: 400, seed: 1,
};
// The small model does not know how to think: its thoughts are cut off.
const thinking = { type: 'enabled', budget_tokens: 8 };

const chat = (more = {}) =>
    client.chat.completions.create({ model, messages: story, max_tokens: 24, seed: 1, ...more });
const respond = (more = {}) =>
    client.responses.create({ model, input: story[0].content, max_output_tokens: 24, temperature: 0, ...more });
const complete = (more = {}) =>
    client.completions.create({ model, prompt: 'Once upon a time', max_tokens: 12, seed: 1, ...more });
const textOf = (chunks) => join(chunks.map((chunk) => chunk.choices[0]?.delta.content));

let call;
const namedCall = () => (call ??= chat({ messages: question, ...named }));

// What was called is told its result; nothing that was read or written is read again.
async function comesBack(first, more = {}) {
    const { message, finish_reason } = first.choices[0];
    same(finish_reason, 'tool_calls');
    const results = message.tool_calls.map(({ id }) => ({ role: 'tool', tool_call_id: id, content: 'It rains.' }));
    const second = await chat({ messages: [...question, message, ...results], tools, tool_choice: 'none', ...more });
    same(second.choices[0].message.tool_calls, undefined);
    // but for the last token, which was not fed
    holds(second.usage.prompt_tokens_details.cached_tokens >=
        first.usage.prompt_tokens + first.usage.completion_tokens - 1, [first.usage, second.usage]);
}

// Types of the events, those that repeat told once, and their numbers from 0.
function inOrder(events, wanted) {
    same(events.map((event) => event.sequence_number), events.map((_, i) => i));
    const types = events.map((event) => event.type.replace(/^response\./, ''));
    same(types.filter((type, i) => type !== types[i - 1]), wanted);
}

await run({
    async chat_answers() {
        const { choices, usage } = await chat({ max_tokens: 5 });
        same(choices[0].message.role, 'assistant');
        same(choices[0].finish_reason, 'length');
        holds(choices[0].message.content, choices);
        same([usage.completion_tokens, usage.total_tokens], [5, usage.prompt_tokens + 5]);
    },

    async chat_streams_the_same() {
        const whole = await chat();
        const chunks = await list(await chat({ stream: true, stream_options: { include_usage: true } }));
        same(textOf(chunks), whole.choices[0].message.content);
        same(chunks.at(-1).choices, []);
        same(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
    },

    async chat_stream_helper() {
        let text = '';
        const stream = client.chat.completions.stream({ model, messages: story, max_tokens: 24, seed: 1 });
        stream.on('content', (delta) => { text += delta; });
        const final = await stream.finalChatCompletion();
        same(final.choices[0].message.content, text);
        same(text, (await chat()).choices[0].message.content);
    },

    async chat_seed_and_n() {
        const texts = async (more) => (await chat({ temperature: 1, ...more })).choices.map((c) => c.message.content);
        same(await texts({ seed: 7 }), await texts({ seed: 7 }));
        same(new Set(await texts({ n: 3 })).size, 3);
    },

    async chat_stop() {
        const text = (await chat({ max_tokens: 40 })).choices[0].message.content;
        const stop = text.split(/\s+/)[3];
        const [choice] = (await chat({ max_tokens: 40, stop: ['never said', stop] })).choices;
        same([choice.message.content, choice.finish_reason], [text.slice(0, text.indexOf(stop)), 'stop']);
    },

    async chat_logprobs() {
        const [choice] = (await chat({ temperature: 0, logprobs: true, top_logprobs: 2 })).choices;
        same(Buffer.from(choice.logprobs.content.flatMap((row) => row.bytes)).toString(), choice.message.content);
        for (const row of choice.logprobs.content)
            same([row.top_logprobs.length, row.top_logprobs[0].token], [2, row.token]);
    },

    async tools_required() {
        const first = await chat({ messages: question, tools, tool_choice: 'required', max_tokens: 400 });
        for (const { function: f } of first.choices[0].message.tool_calls)
            holds(['weather', 'now'].includes(f.name) && JSON.parse(f.arguments), f);
        await comesBack(first);
    },

    async tools_named() {
        const [{ function: f }] = (await namedCall()).choices[0].message.tool_calls;
        isWeatherCall(f.name, JSON.parse(f.arguments));
        await comesBack(await namedCall());
    },

    async tools_streamed() {
        const pieces = [];
        const stream = client.chat.completions.stream({
            model, messages: question, ...named, stream_options: { include_usage: true } });
        stream.on('tool_calls.function.arguments.delta', (event) => pieces.push(event.arguments_delta));
        const final = await stream.finalChatCompletion();
        const [{ function: whole }] = (await namedCall()).choices[0].message.tool_calls;
        const [{ function: f }] = final.choices[0].message.tool_calls;
        same([f.name, f.arguments, join(pieces)], [whole.name, whole.arguments, whole.arguments]);
        holds(pieces.length > 1, pieces);
        await comesBack(final);
    },

    async tools_run_by_the_client() {
        const asked = [];
        const runner = client.chat.completions.runTools({
            model, messages: question, ...named,
            tools: [{ type: 'function', function: {
                name: 'weather', parameters: weatherSchema, parse: JSON.parse,
                function: (given) => { asked.push(given); return 'It rains.'; } } }],
        });
        await runner.done();
        same(asked.length, 1);
        isWeatherCall('weather', asked[0]);
    },

    async tools_parsed_by_zod() {
        const { choices } = await client.chat.completions.parse({
            model, messages: question, ...named, tool_choice: 'required',
            tools: [zodFunction({ name: 'Weather', parameters: Weather })] });
        for (const { function: f } of choices[0].message.tool_calls)
            holds(Weather.safeParse(f.parsed_arguments).success, f);
    },

    async structured_by_zod() {
        const asked = { model, messages: question, max_tokens: 400, seed: 1,
            response_format: zodResponseFormat(Weather, 'weather') };
        const { parsed } = (await client.chat.completions.parse(asked)).choices[0].message;
        holds(Weather.safeParse(parsed).success, parsed);
        same((await client.chat.completions.stream(asked).finalChatCompletion()).choices[0].message.parsed, parsed);
    },

    async json_object() {
        // the small model would go on for long: an object begins and ends where it can
        const idOf = async (text) => (await client.post('/tokenize', { body: { content: text } })).tokens[0];
        const [choice] = (await chat({
            messages: [{ role: 'user', content: 'Say it in JSON.' }], response_format: { type: 'json_object' },
            logit_bias: { [await idOf('{')]: 30, [await idOf('}')]: 30 } })).choices;
        same([choice.finish_reason, typeof JSON.parse(choice.message.content)], ['stop', 'object']);
    },

    async thinking() {
        const whole = await chat({ messages: question, ...named, thinking });
        holds(whole.choices[0].message.reasoning_content, whole);
        holds(whole.usage.completion_tokens_details.reasoning_tokens <= 8, whole);
        const chunks = await list(await chat({ messages: question, ...named, thinking, stream: true }));
        same(join(chunks.map((chunk) => chunk.choices[0].delta.reasoning_content)),
            whole.choices[0].message.reasoning_content);
        await comesBack(whole, { thinking });
        delete whole.choices[0].message.reasoning_content;
        await comesBack(whole, { thinking });
    },

    async responses_answer_and_stream() {
        const whole = await respond({ max_output_tokens: 6 });
        same([whole.status, whole.incomplete_details.reason], ['incomplete', 'max_output_tokens']);
        same(whole.usage.output_tokens, 6);
        const events = await list(await respond({ max_output_tokens: 6, stream: true }));
        inOrder(events, ['created', 'in_progress', 'output_item.added', 'content_part.added', 'output_text.delta',
            'output_text.done', 'content_part.done', 'output_item.done', 'incomplete']);
        same(join(events.filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta)),
            whole.output_text);
    },

    async responses_stream_helper() {
        const deltas = [];
        const stream = client.responses.stream({
            model, input: 'Tell me a story.', max_output_tokens: 600, temperature: 0 });
        stream.on('response.output_text.delta', (event) => deltas.push(event.delta));
        const final = await stream.finalResponse();
        same([final.status, final.output_text], ['completed', join(deltas)]);
    },

    async responses_function_round_trip() {
        const asked = { tools: toolsOfResponses, instructions: 'You know the weather.' };
        const choice = { tool_choice: { type: 'function', name: 'weather' }, parallel_tool_calls: false,
            max_output_tokens: 400 };
        const first = await respond({ input: question, ...asked, ...choice });
        same(first.output.map((item) => item.type), ['function_call']);
        const [item] = first.output;
        isWeatherCall(item.name, JSON.parse(item.arguments));
        const result = { type: 'function_call_output', call_id: item.call_id, output: 'It rains.' };
        const second = await respond({ input: [...question, item, result], ...asked, tool_choice: 'none' });
        holds(second.usage.input_tokens_details.cached_tokens >=
            first.usage.input_tokens + first.usage.output_tokens - 1, [first.usage, second.usage]);
        const stream = client.responses.stream({ model, input: question, temperature: 0, ...asked, ...choice });
        inOrder(await list(stream), ['created', 'in_progress', 'output_item.added', 'function_call_arguments.delta',
            'function_call_arguments.done', 'output_item.done', 'completed']);
        same((await stream.finalResponse()).output[0].arguments, item.arguments);
    },

    async responses_structured() {
        const { output_parsed: parsed } = await client.responses.parse({
            model, input: 'How is Oslo?', max_output_tokens: 400,
            text: { format: zodTextFormat(Weather, 'weather') } });
        holds(Weather.safeParse(parsed).success, parsed);
    },

    async responses_think() {
        const asked = { reasoning: { effort: 'high' }, thinking_budget: 8, max_output_tokens: 40 };
        const whole = await respond(asked);
        same(whole.output[0].type, 'reasoning');
        const events = await list(await respond({ ...asked, stream: true }));
        same(join(events.filter((e) => e.type === 'response.reasoning_text.delta').map((e) => e.delta)),
            whole.output[0].content[0].text);
    },

    async completions() {
        const whole = (await complete()).choices[0].text;
        same(join((await list(await complete({ stream: true }))).map((c) => c.choices[0].text)), whole);
        same((await complete({ echo: true })).choices[0].text, 'Once upon a time' + whole);
        same((await complete({ n: 2, temperature: 1 })).choices.map((c) => c.index), [0, 1]);
        const stop = whole.trim().split(/\s+/)[1];
        same((await complete({ stop })).choices[0].text, whole.slice(0, whole.indexOf(stop)));
        const { logprobs } = (await complete({ logprobs: 2 })).choices[0];
        same([join(logprobs.tokens), logprobs.token_logprobs.length], [whole, 12]);
        const plain = await complete();
        holds((await complete({ suffix: 'The end.' })).usage.prompt_tokens > plain.usage.prompt_tokens, plain);
    },

    async errors_name_the_field() {
        const image = [{ role: 'user', content: [{
            type: 'image_url', image_url: { url: 'data:image/png;base64,' + pixel } }] }];
        for (const [field, said, asked] of [
            ['colour', 'not supported', { colour: 'red' }],
            ['messages[0].content', 'image_url', { messages: image }],
            ['temperature', 'number', { temperature: 'warm' }],
            ['max_tokens', 'whole number', { max_tokens: 1.5 }],
            ['messages', 'at least one', { messages: [] }],
            ['tools[0].type', 'function', { tools: [{ type: 'web_search' }] }]]) {
            const error = await raises(OpenAI.BadRequestError, chat(asked));
            same([error.param, error.type], [field, 'invalid_request_error']);
            holds(error.message.includes(field) && error.message.includes(said), error.message);
        }
    },

    async errors_of_keys() {
        const stranger = new OpenAI({ apiKey: 'no such key', ...settings });
        same((await raises(OpenAI.AuthenticationError, stranger.models.list())).code, 'invalid_api_key');
        const other = new OpenAI({ apiKey: once, ...settings });
        const ask = () => other.chat.completions.create({ model, messages: story, max_tokens: 1 });
        await ask();
        const error = await raises(OpenAI.RateLimitError, ask());
        const wait = Number(error.headers.get('retry-after'));
        holds(wait > 0 && wait <= 60, wait);
    },

    async errors_not_found() {
        same((await raises(OpenAI.NotFoundError, client.models.retrieve('gpt-4'))).code, 'model_not_found');
    },

    async errors_context_too_long() {
        const messages = [{ role: 'user', content: 'dog '.repeat(6000) }];
        for (const stream of [false, true]) {
            const error = await raises(OpenAI.BadRequestError, chat({ messages, stream }));
            same(error.code, 'context_length_exceeded');
        }
    },

    async cancelled_streams_end() {
        await isSoon(async () => await active() === 0);
        const stream = await chat({ max_tokens: 3000, stream: true, logit_bias: { 1: -100 } });
        let chunks = 0;
        for await (const chunk of stream) {
            holds(chunk.choices, chunk);
            if (++chunks === 3)
                break; /* closes the connection */
        }
        await isSoon(async () => await active() === 0, 1);
        same(chunks, 3);
    },

    async models() {
        same((await list(client.models.list())).map(({ id }) => id), [model]);
        same((await client.models.retrieve(model)).id, model);
    },

    async eight_at_once() {
        const tell = async (i) =>
            (await chat({ messages: [{ role: 'user', content: `Tell me of ${i} hens.` }] })).choices[0].message.content;
        const texts = await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(tell));
        same([await tell(0), await tell(7)], [texts[0], texts[7]]);
    },
});
