// store.js - conversations, kept in this browser.
//
// A conversation is {id, title, created, updated, messages}; a message is what the interface calls a message (role,
// content, reasoning_content, tool_calls, tool_call_id), and `meta` for what only the page knows of it:
//
//   ended      how an answer ended: stop, length, tool_calls, stopped, interrupted, error; absent while it is written
//   error      the sentence shown, if it ended in one
//   thought, first, took     milliseconds of thinking, to the first token, in all
//   usage      counts of the server
//
// IndexedDB holds them in two stores of the same keys: `titles` for the list, and `bodies` with the messages, which are
// read when a conversation is opened. Both are written in one transaction, so that neither is without the other. Where
// there is no IndexedDB conversations live as long as the page, and the user is told.

import { notice } from './dom.js';

const NAME = 'sonde', VERSION = 1, FORMAT = 'sonde-conversations';
const FULL = 'This browser’s storage is full: what is written now is not kept. Export what you need, then delete some.';

const promised = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
});

const titleOf = ({ id, title, created, updated }) => ({ id, title, created, updated });

function openDatabase() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
        for (const store of ['titles', 'bodies'])
            request.result.createObjectStore(store, { keyPath: 'id' });
    };
    return promised(request);
}

export class Store {
    // `changed(id)` is called when another window tells of a conversation.
    static async open(changed) {
        const store = new Store();
        store.memory = new Map();
        store.database = await openDatabase().catch(() => null);
        if (!store.database)
            notice('This browser keeps nothing for this page: conversations are lost when it is closed.');
        store.channel = new BroadcastChannel(NAME);
        store.channel.onmessage = (event) => changed(event.data);
        return store;
    }

    // [{id, title, created, updated}], the latest first.
    async titles() {
        const titles = this.database
            ? await promised(this.database.transaction('titles').objectStore('titles').getAll())
            : [...this.memory.values()].map(titleOf);
        return titles.sort((a, b) => b.updated - a.updated);
    }

    // A copy, or undefined.
    load(id) {
        if (!this.database)
            return Promise.resolve(structuredClone(this.memory.get(id)));
        return promised(this.database.transaction('bodies').objectStore('bodies').get(id));
    }

    async all() {
        return this.database
            ? promised(this.database.transaction('bodies').objectStore('bodies').getAll())
            : [...this.memory.values()];
    }

    // Writes a conversation as it is now. Says so, once, if it could not be kept; resolves to whether it was.
    async save(conversation) {
        if (!this.database) {
            this.memory.set(conversation.id, structuredClone(conversation));
            return false;
        }
        return this.write((titles, bodies) => {
            titles.put(titleOf(conversation));
            bodies.put(conversation);
        });
    }

    async remove(id) {
        this.memory.delete(id);
        if (this.database)
            await this.write((titles, bodies) => { titles.delete(id); bodies.delete(id); });
    }

    // Tells other windows that a conversation is another, or gone; without an id, that the list is.
    tell(id) {
        this.channel.postMessage(id);
    }

    async write(change) {
        try {
            const transaction = this.database.transaction(['titles', 'bodies'], 'readwrite', { durability: 'relaxed' });
            const over = new Promise((resolve, reject) => {
                transaction.oncomplete = resolve;
                transaction.onabort = () => reject(transaction.error);
            });
            change(transaction.objectStore('titles'), transaction.objectStore('bodies'));
            await over;
            this.complain(null);
            return true;
        } catch (error) {
            this.complain(error?.name === 'QuotaExceededError' ? FULL
                : `This browser could not keep the conversation: ${error?.message || 'no reason given'}.`);
            return false;
        }
    }

    complain(text) {
        if (text !== null || this.complained)
            notice(text);
        this.complained = text !== null;
    }
}

// ------------------------------------------------------------------------------------------------ files

export const exported = (conversations) =>
    JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);

// The conversations of an exported file, or an Error that names what is wrong. Fields that are not known are left out.
export function imported(text) {
    let file;
    try {
        file = JSON.parse(text);
    } catch {
        throw new Error('this is not JSON');
    }
    if (file?.format !== FORMAT || !Array.isArray(file.conversations))
        throw new Error('this is not a file that was exported here');
    return file.conversations.map((c, i) => importedConversation(c, `conversations[${i}]`));
}

const isText = (value) => typeof value === 'string';
const dateOf = (value) => (Number.isFinite(value) ? value : Date.now());

function importedConversation(from, where) {
    if (!isText(from?.id) || from.id === '' || !isText(from.title) || !Array.isArray(from.messages))
        throw new Error(`${where} needs an id, a title and messages`);
    return {
        id: from.id, title: from.title, created: dateOf(from.created), updated: dateOf(from.updated),
        messages: from.messages.map((m, i) => importedMessage(m, `${where}.messages[${i}]`)),
    };
}

function importedMessage(from, where) {
    if (!['user', 'assistant', 'tool'].includes(from?.role))
        throw new Error(`${where}.role is not user, assistant or tool`);
    if (!isText(from.content) || !isText(from.reasoning_content ?? '') || !isText(from.tool_call_id ?? ''))
        throw new Error(`${where} has a content that is not text`);
    const message = { role: from.role, content: from.content };
    if (from.reasoning_content)
        message.reasoning_content = from.reasoning_content;
    if (from.role === 'tool')
        message.tool_call_id = from.tool_call_id ?? '';
    if (from.role === 'assistant') {
        message.meta = importedMeta(from.meta ?? {});
        if (from.tool_calls)
            message.tool_calls = importedCalls(from.tool_calls, `${where}.tool_calls`);
    }
    return message;
}

function importedMeta(from) {
    const meta = { ended: isText(from.ended) ? from.ended : 'stop' };
    if (isText(from.error))
        meta.error = from.error;
    for (const name of ['thought', 'first', 'took']) {
        if (Number.isFinite(from[name]))
            meta[name] = from[name];
    }
    return meta;
}

function importedCalls(from, where) {
    const right = (call) => isText(call?.id) && isText(call.function?.name) && isText(call.function.arguments);
    if (!Array.isArray(from) || !from.every(right))
        throw new Error(`${where} is not a list of calls`);
    return from.map(({ id, function: f }) =>
        ({ id, type: 'function', function: { name: f.name, arguments: f.arguments } }));
}
