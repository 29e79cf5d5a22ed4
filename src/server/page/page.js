// page.js - the page of `sonde serve`: what is shown under which address, and how the parts know each other.
//
//   dom.js        elements, copying, words to the user
//   markdown.js   text of a model to elements
//   api.js        the server
//   store.js      conversations in this browser
//   settings.js   choices and the key
//   message.js    how a message looks
//   chat.js       the conversation on the screen, answers on their way
//   list.js       the list of conversations
//   status.js     the view of the server
//
// Addresses: # a new conversation, #c/ID one of the list, #server the server. No framework and no build step: the
// server sends these files as they lie here.

import { byId, element } from './dom.js';
import { Chat, focusQuestion } from './chat.js';
import { addressOf, ConversationList } from './list.js';
import { askForKey, Settings } from './settings.js';
import { StatusView } from './status.js';
import { Store } from './store.js';

const EXAMPLES = [
    'Tell me a story about a dog.',
    'Can you tell me a bedtime story about a little boat?',
    'Tell me a story about a bird and a big tree.',
];

const narrow = matchMedia('(max-width: 760px)');

// ------------------------------------------------------------------------------------------------ the side

function showSide(open) {
    document.body.classList.toggle('side-open', open);
    byId('side-open').setAttribute('aria-expanded', String(open));
    byId('page').inert = open && narrow.matches;
    if (open)
        byId('side-close').focus();
    else if (byId('side').contains(document.activeElement))
        byId('side-open').focus();
}

function listenSide() {
    byId('side-open').addEventListener('click', () => showSide(true));
    for (const id of ['side-close', 'shade'])
        byId(id).addEventListener('click', () => showSide(false));
    byId('side').addEventListener('click', (event) => { if (event.target.closest('a')) showSide(false); });
    document.addEventListener('keydown', (event) => { if (event.key === 'Escape') showSide(false); });
    narrow.addEventListener('change', () => showSide(false));
}

// ------------------------------------------------------------------------------------------------ the page

class Page {
    async start() {
        this.settings = new Settings();
        this.status = new StatusView(this.settings);
        this.store = await Store.open((id) => this.changedElsewhere(id));
        this.chat = new Chat(this.store, this.settings, (conversation) => this.changed(conversation));
        this.list = new ConversationList(this.store, this.chat, () => { location.hash = ''; });
        this.listen();
        await this.route();
        await this.greet();
    }

    listen() {
        listenSide();
        addEventListener('hashchange', () => this.route());
        // the address of a new conversation may be there already
        for (const link of [byId('new'), document.querySelector('.name')])
            link.addEventListener('click', () => { if (location.hash.length < 2) this.route(); });
        byId('examples').append(...EXAMPLES.map((text) =>
            element('button', { type: 'button', class: 'example', click: () => this.chat.send(text) }, text)));
    }

    async route() {
        const server = location.hash === '#server', id = decodeURIComponent(/^#c\/(.*)/.exec(location.hash)?.[1] ?? '');
        byId('chat').hidden = server;
        byId('server').hidden = !server;
        byId('to-server').toggleAttribute('aria-current', server);
        byId('to-chat').toggleAttribute('aria-current', !server);
        this.status.show(server);
        if (server)
            byId('title').textContent = 'Server';
        else
            await this.open(id);
        const title = server ? 'Server' : this.chat.conversation?.title;
        document.title = title ? `${title} – Sonde` : 'Sonde';
        await this.list.refresh();
    }

    async open(id) {
        if (id && this.chat.conversation?.id === id)
            this.chat.refresh();
        else if (!await this.chat.open(id) && id)
            history.replaceState(null, '', '#');
        byId('to-chat').href = id ? addressOf(id) : '#';
        focusQuestion();
    }

    // A conversation of this window has begun or grown.
    async changed(conversation) {
        const address = addressOf(conversation.id);
        if (this.chat.conversation === conversation) {
            byId('to-chat').href = address;
            if (location.hash !== '#server') {
                history.replaceState(null, '', address);
                document.title = `${conversation.title} – Sonde`;
            }
        }
        this.store.tell(conversation.id);
        await this.list.refresh();
    }

    async changedElsewhere(id) {
        if (this.chat.conversation?.id === id && !this.chat.runs.has(id))
            await this.chat.open(id);
        await this.list.refresh();
    }

    // Which model there is; without an answer the page can still be read.
    async greet() {
        try {
            await this.chat.findModels();
            byId('empty-model').textContent = `${this.settings.model?.id ?? 'No model'} is listening.`;
        } catch (error) {
            byId('empty-model').textContent = error.message;
            if (error.status === 401 && await askForKey(this.settings, error.message))
                await this.greet();
        }
    }
}

new Page().start();
