// api.js - the server's interface, as the page needs it: models, status, and an answer as it is written.
//
// Whatever goes wrong comes as an ApiError whose message can be shown as it is.

export class ApiError extends Error {
    // status: of HTTP, 0 if there was none. wait: milliseconds that the server asks for, or null.
    constructor(message, status = 0, wait = null) {
        super(message);
        this.status = status;
        this.wait = wait;
    }
}

const UNREACHABLE = 'The server does not answer. Is sonde serve still running?';
const CUT_OFF = 'The connection ended before the answer did.';

const withDot = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);

// The sentence of an error object of the interface, or null.
const sentenceOf = (body) => (typeof body?.error?.message === 'string' ? withDot(body.error.message) : null);

function waitOf(response) {
    const value = Number(response.headers.get('Retry-After') ?? NaN);
    return Number.isFinite(value) && value >= 0 ? Math.min(value, 600) * 1000 : null;
}

async function errorOf(response) {
    const said = sentenceOf(await response.json().catch(() => null));
    const { status } = response;
    if (status === 401)
        return new ApiError(said ?? 'The server asks for an API key.', status);
    if (status === 429)
        return new ApiError(said ?? 'The server has too many requests.', status, waitOf(response));
    return new ApiError(said ?? `The server answered with status ${status}.`, status, waitOf(response));
}

// fetch, with the key; anything but success is an ApiError, an abort stays an AbortError.
async function request(path, key, options = {}) {
    const headers = { ...options.headers };
    if (key)
        headers.Authorization = `Bearer ${key}`;
    let response;
    try {
        response = await fetch(path, { ...options, headers, cache: 'no-store' });
    } catch (error) {
        throw error.name === 'AbortError' ? error : new ApiError(UNREACHABLE);
    }
    if (!response.ok)
        throw await errorOf(response);
    return response;
}

async function requestJson(path, key) {
    const response = await request(path, key);
    return response.json().catch(() => { throw new ApiError('The server answered with something that is not JSON.'); });
}

// [{id, context_length}]
export async function fetchModels(key) {
    const { data } = await requestJson('/v1/models', key);
    return Array.isArray(data) ? data : [];
}

export const fetchStatus = (key) => requestJson('/status', key);

// The data of each event of a stream of server-sent events. Comments are let pass; a line may arrive in pieces.
async function* readEvents(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
        const { done, value } = await reader.read();
        const lines = (rest + (value ?? '')).split('\n');
        rest = done ? '' : lines.pop();
        for (const line of lines) {
            if (line.startsWith('data:'))
                yield line.slice(5).trim();
        }
        if (done)
            return;
    }
}

// The chunks of a completion. Ends with the stream's end mark and throws without it.
export async function* streamCompletion(body, key, signal) {
    const response = await request('/v1/chat/completions', key, {
        method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' }, signal,
    });
    try {
        for await (const data of readEvents(response.body)) {
            if (data === '[DONE]')
                return;
            const chunk = JSON.parse(data);
            if (chunk.error)
                throw new ApiError(sentenceOf(chunk) ?? 'The server could not go on.', 200);
            yield chunk;
        }
    } catch (error) {
        throw error instanceof ApiError || error.name === 'AbortError' ? error : new ApiError(CUT_OFF);
    }
    throw new ApiError(CUT_OFF);
}

// What a request for the next answer says. `settings` are those of settings.js.
export function completionRequest(settings, model, messages) {
    const body = { model, stream: true, stream_options: { include_usage: true } };
    body.messages = messages.filter((m) => m.role !== 'assistant' || m.content || m.tool_calls).map(plainMessage);
    if (settings.system.trim())
        body.messages.unshift({ role: 'system', content: settings.system });
    body.thinking = { type: settings.thinking === 'off' ? 'disabled' : 'enabled' };
    if (settings.thinking !== 'off')
        body.reasoning_effort = settings.thinking;
    for (const name of ['temperature', 'top_p', 'max_tokens']) {
        if (settings[name] !== null)
            body[name] = settings[name];
    }
    if (settings.tools.trim())
        body.tools = JSON.parse(settings.tools);
    return body;
}

function plainMessage({ meta, ...message }) {
    return message;
}

// Adds the delta of a chunk to a message. Returns what it added to: 'thinking', 'content', 'call' or null.
export function addChunk(message, chunk) {
    if (chunk.usage)
        message.meta.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice)
        return null;
    if (choice.finish_reason)
        message.meta.ended = choice.finish_reason;
    const { delta = {} } = choice;
    if (delta.reasoning_content)
        message.reasoning_content = (message.reasoning_content ?? '') + delta.reasoning_content;
    if (delta.content)
        message.content += delta.content;
    for (const part of delta.tool_calls ?? [])
        addCall(message, part);
    return delta.tool_calls?.length ? 'call' : delta.content ? 'content' : delta.reasoning_content ? 'thinking' : null;
}

function addCall(message, part) {
    message.tool_calls ??= [];
    const index = part.index ?? message.tool_calls.length;
    const call = message.tool_calls[index] ??= { id: '', type: 'function', function: { name: '', arguments: '' } };
    call.id ||= part.id ?? '';
    call.function.name += part.function?.name ?? '';
    call.function.arguments += part.function?.arguments ?? '';
}
