// cases.mjs - cases.py for Node: the cases of a client's script, each told as a line of TAP without a number.
//
// A script is called with the address of a server of models/nano, a key, a key that may ask once a minute, and names
// of cases (all, if there are none).
import assert from 'node:assert/strict';
import { z } from 'zod';

const [address, key, once, ...only] = process.argv.slice(2);
export { address, key, once };
export const model = 'nano';
export const story = [{ role: 'user', content: 'Tell me a story about a dog.' }];
export const question = [{ role: 'user', content: 'How is Oslo?' }];
export const weatherSchema = {
    type: 'object',
    properties: {
        city: { type: 'string', enum: ['Oslo', 'Rome', 'Nairobi'] },
        days: { type: 'integer', minimum: 1, maximum: 9 },
    },
    required: ['city', 'days'],
    additionalProperties: false,
};
export const Weather = z.object({ city: z.enum(['Oslo', 'Rome', 'Nairobi']), warm: z.boolean() });
// 1 by 1, as PNG
export const pixel =
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

export const same = assert.deepStrictEqual;

export function holds(condition, about) {
    assert.ok(condition, `does not hold of ${JSON.stringify(about)}`);
}

// The arguments of a call of the tool `weather`, parsed, follow weatherSchema.
export function isWeatherCall(name, given) {
    same(name, 'weather');
    same(Object.keys(given).sort(), ['city', 'days']);
    holds(weatherSchema.properties.city.enum.includes(given.city), given);
    holds(Number.isInteger(given.days) && given.days >= 1 && given.days <= 9, given);
}

// The error of exactly this kind that the promise ends with.
export async function raises(kind, promise) {
    const error = await Promise.resolve(promise).then(() => null, (e) => e);
    assert.ok(error, `no ${kind.name}`);
    assert.equal(error.constructor, kind, String(error));
    return error;
}

// Answers that are read for, written or waiting, as the server says.
export async function active() {
    const answer = await fetch(address + '/status', { headers: { Authorization: 'Bearer ' + key } });
    const { requests } = await answer.json();
    return requests.active + requests.waiting;
}

// Asks again and again, as long as it may take.
export async function isSoon(condition, seconds = 10) {
    const end = Date.now() + seconds * 1000;
    while (!await condition()) {
        assert.ok(Date.now() < end, `not after ${seconds} seconds`);
        await new Promise((go) => setTimeout(go, 20));
    }
}

// Everything an asynchronous iterator gives.
export async function list(iterable) {
    const all = [];
    for await (const item of iterable)
        all.push(item);
    return all;
}

export const join = (pieces) => pieces.map((piece) => piece ?? '').join('');

// Every case of {name: function}, in turn, then the plan. One that fails does not keep the others from running.
export async function run(cases) {
    const chosen = Object.entries(cases).filter(([name]) => !only.length || only.includes(name));
    for (const [name, body] of chosen) {
        try {
            await body();
            console.log(`ok - ${name}`);
        } catch (error) {
            console.log(`not ok - ${name}`);
            console.log(String(error.stack ?? error).replace(/^/gm, '# '));
        }
    }
    console.log(`1..${chosen.length}`);
}
