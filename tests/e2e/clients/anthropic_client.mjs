// anthropic_client.mjs ADDRESS KEY ONCE [CASE...] - Anthropic's client for Node against `sonde serve`; cases.mjs says
// how.
import Anthropic from '@anthropic-ai/sdk';
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';

import {
    Weather, active, address, holds, isSoon, isWeatherCall, join, key, list, model, once, pixel, question, raises, run,
    same, story, weatherSchema,
} from './cases.mjs';

const settings = { baseURL: address, maxRetries: 0, timeout: 120000 };
const client = new Anthropic({ apiKey: key, ...settings });
const system = 'You know the weather.';
const tools = [
    { name: 'weather', description: 'The weather.', input_schema: weatherSchema },
    { name: 'now', input_schema: { type: 'object', properties: {} } },
];
const called = {
    model, system, messages: question, tools, temperature: 0, max_tokens: 400,
    tool_choice: { type: 'tool', name: 'weather', disable_parallel_tool_use: true },
};
const thinking = { type: 'enabled', budget_tokens: 8 };

const asked = (more) => ({ model, messages: story, max_tokens: 24, temperature: 0, ...more });
const ask = (more = {}) => client.messages.create(asked(more));
const textOf = (message) => join(message.content.filter((b) => b.type === 'text').map((b) => b.text));
const kinds = (message) => message.content.map((block) => block.type);
// Tokens of the prompt, from the cache or not.
const read = (usage) => usage.input_tokens + usage.cache_read_input_tokens;

let call;
const namedCall = () => (call ??= client.messages.create(called));

// What was called is told its result; nothing that was read or written is read again.
async function comesBack(first, more = {}) {
    same(first.stop_reason, 'tool_use');
    const results = first.content.filter((block) => block.type === 'tool_use')
        .map(({ id }) => ({ type: 'tool_result', tool_use_id: id, content: 'It rains.' }));
    const second = await ask({
        system, tools, tool_choice: { type: 'none' }, ...more,
        messages: [...question, { role: 'assistant', content: first.content }, { role: 'user', content: results }] });
    holds(!kinds(second).includes('tool_use'), second);
    // but for the last token, which was not fed
    holds(second.usage.cache_read_input_tokens >= read(first.usage) + first.usage.output_tokens - 1,
        [first.usage, second.usage]);
}

await run({
    async messages_answer() {
        const answer = await ask({ max_tokens: 5 });
        same([answer.type, answer.role, answer.model], ['message', 'assistant', model]);
        same([kinds(answer), answer.stop_reason, answer.usage.output_tokens], [['text'], 'max_tokens', 5]);
        same((await ask({ max_tokens: 400 })).stop_reason, 'end_turn');
    },

    async messages_stream() {
        const whole = await ask();
        const pieces = [];
        const final = await client.messages.stream(asked()).on('text', (text) => pieces.push(text)).finalMessage();
        holds(pieces.length > 4, pieces);
        same([join(pieces), textOf(final)], [textOf(whole), textOf(whole)]);
        same([read(final.usage), final.usage.output_tokens], [read(whole.usage), 24]);
        const events = await list(await ask({ stream: true }));
        same(events.filter((e) => e.type !== 'content_block_delta' && e.type !== 'ping').map((e) => e.type),
            ['message_start', 'content_block_start', 'content_block_stop', 'message_delta', 'message_stop']);
    },

    async messages_stop_sequences() {
        const text = textOf(await ask({ max_tokens: 40 }));
        const stop = text.split(/\s+/)[3];
        const answer = await ask({ max_tokens: 40, stop_sequences: ['never said', stop] });
        same([answer.stop_reason, answer.stop_sequence], ['stop_sequence', stop]);
        same(textOf(answer), text.slice(0, text.indexOf(stop)));
    },

    async messages_remember_the_conversation() {
        const first = await ask({ system: [{ type: 'text', text: system, cache_control: { type: 'ephemeral' } }] });
        const second = await ask({ system, messages: [
            ...story, { role: 'assistant', content: first.content }, { role: 'user', content: 'More.' }] });
        holds(second.usage.cache_read_input_tokens > read(first.usage), [first.usage, second.usage]);
    },

    async messages_count_tokens() {
        for (const of of [{ messages: story }, { messages: question, system, tools }])
            same((await client.messages.countTokens({ model, ...of })).input_tokens,
                read((await ask({ max_tokens: 1, ...of })).usage));
    },

    async tools_named() {
        const first = await namedCall();
        same(kinds(first), ['tool_use']);
        isWeatherCall(first.content[0].name, first.content[0].input);
        await comesBack(first);
    },

    async tools_any() {
        const first = await client.messages.create({ ...called, tool_choice: { type: 'any' } });
        for (const block of first.content)
            holds(['weather', 'now'].includes(block.name), block);
        await comesBack(first);
    },

    async tools_streamed() {
        const pieces = [];
        const final = await client.messages.stream(called).on('inputJson', (piece) => pieces.push(piece))
            .finalMessage();
        holds(pieces.length > 1, pieces);
        same(final.content[0].input, (await namedCall()).content[0].input);
        await comesBack(final);
    },

    async tools_run_by_the_client() {
        const given = [];
        const weather = betaTool({
            name: 'weather', description: 'The weather.', inputSchema: weatherSchema,
            run: (input) => { given.push(input); return 'It rains.'; } });
        const runner = client.beta.messages.toolRunner({ ...called, tools: [weather], max_iterations: 2 });
        const answers = await list(runner);
        same(answers.map((answer) => answer.stop_reason), ['tool_use', 'tool_use']);
        isWeatherCall('weather', given[0]);
        holds(answers[1].usage.cache_read_input_tokens >=
            read(answers[0].usage) + answers[0].usage.output_tokens - 1, answers);
    },

    async structured_by_zod() {
        const config = { messages: question, max_tokens: 400, output_config: { format: zodOutputFormat(Weather) } };
        const { parsed_output: parsed } = await client.messages.parse(asked(config));
        holds(Weather.safeParse(parsed).success, parsed);
        same((await client.messages.stream(asked(config)).finalMessage()).parsed_output, parsed);
    },

    async thinking() {
        const config = { messages: question, max_tokens: 400, thinking,
            output_config: { format: zodOutputFormat(Weather) } };
        const whole = await client.messages.parse(asked(config));
        same(kinds(whole), ['thinking', 'text']);
        holds(Weather.safeParse(whole.parsed_output).success, whole);
        const pieces = [];
        const final = await client.messages.stream(asked(config)).on('thinking', (piece) => pieces.push(piece))
            .finalMessage();
        same([kinds(final), join(pieces)], [['thinking', 'text'], whole.content[0].thinking]);
    },

    async thinking_comes_back() {
        const first = await client.messages.create({ ...called, thinking });
        same(kinds(first), ['thinking', 'tool_use']);
        await comesBack(first, { thinking });
    },

    async errors_name_the_field() {
        const image = [{ role: 'user', content: [{
            type: 'image', source: { type: 'base64', media_type: 'image/png', data: pixel } }] }];
        for (const [field, said, more] of [
            ['colour', 'not supported', { colour: 'red' }],
            ['messages[0].content[0].type', 'image', { messages: image }],
            ['temperature', 'number', { temperature: 'warm' }],
            ['max_tokens', 'whole number', { max_tokens: 0 }],
            ['messages', 'at least one', { messages: [] }],
            ['tools[0].type', 'client', { tools: [{ type: 'web_search_20250305', name: 'web_search' }] }]]) {
            const error = await raises(Anthropic.BadRequestError, ask(more));
            same(error.error.error.type, 'invalid_request_error');
            holds(error.message.includes(field) && error.message.includes(said), error.message);
        }
    },

    async errors_of_keys() {
        const stranger = new Anthropic({ apiKey: 'no such key', ...settings });
        const unknown = await raises(Anthropic.AuthenticationError, stranger.models.list());
        same(unknown.error.error.type, 'authentication_error');
        const other = new Anthropic({ apiKey: once, ...settings });
        await other.messages.create(asked({ max_tokens: 1 }));
        const error = await raises(Anthropic.RateLimitError, other.messages.create(asked({ max_tokens: 1 })));
        const wait = Number(error.headers.get('retry-after'));
        holds(wait > 0 && wait <= 60, wait);
    },

    async errors_not_found() {
        const error = await raises(Anthropic.NotFoundError, client.models.retrieve('no-such-model'));
        same(error.error.error.type, 'not_found_error');
    },

    async errors_context_too_long() {
        const messages = [{ role: 'user', content: 'dog '.repeat(6000) }];
        for (const stream of [false, true])
            holds((await raises(Anthropic.BadRequestError, ask({ messages, stream }))).message.includes('context'));
    },

    async cancelled_streams_end() {
        await isSoon(async () => await active() === 0);
        const schema = { type: 'array', minItems: 900, items: { type: 'boolean' } };
        const stream = client.messages.stream(asked({
            max_tokens: 3000, output_config: { format: { type: 'json_schema', schema } } }));
        let pieces = 0;
        const aborted = new Promise((go) => stream.on('abort', go));
        stream.on('text', () => { if (++pieces === 3) stream.abort(); });
        await aborted;
        await isSoon(async () => await active() === 0, 1);
    },

    async models() {
        same((await list(client.models.list())).map(({ id, type }) => [id, type]), [[model, 'model']]);
        same((await client.models.retrieve(model)).display_name, model);
    },

    async eight_at_once() {
        const tell = async (i) => textOf(await ask({ messages: [{ role: 'user', content: `Tell me of ${i} cows.` }] }));
        const texts = await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(tell));
        same([await tell(0), await tell(7)], [texts[0], texts[7]]);
    },
});
