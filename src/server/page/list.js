// list.js - the list of conversations: opening, renaming, deleting, exporting and importing.

import { byId, element, icon, plural, toast } from './dom.js';
import { exported, imported } from './store.js';

export const addressOf = (id) => `#c/${encodeURIComponent(id)}`;

const rowButton = (name, label, click) =>
    element('button', { type: 'button', class: 'icon-button', 'aria-label': label, click }, icon(name));

export class ConversationList {
    // chat: whose conversations are marked as open and running; left(): the open conversation was deleted.
    constructor(store, chat, left) {
        this.store = store;
        this.chat = chat;
        this.left = left;
        byId('export').addEventListener('click', () => this.exportAll());
        byId('import').addEventListener('click', () => byId('import-file').click());
        byId('import-file').addEventListener('change', (event) => this.importFile(event.target));
    }

    async refresh() {
        const titles = await this.store.titles();
        if (this.editing)
            return;     // what is being typed stays
        byId('list').replaceChildren(...titles.map((title) => this.row(title)));
        byId('list-empty').hidden = titles.length > 0;
        byId('export').disabled = titles.length === 0;
    }

    row({ id, title }) {
        const open = this.chat.conversation?.id === id;
        const link = element('a', { href: addressOf(id), 'aria-current': open ? 'true' : null }, title);
        const row = element('li', { class: this.chat.runs.has(id) ? 'running' : null }, link,
            rowButton('rename', `Rename: ${title}`, () => this.editTitle(row, id, title)),
            rowButton('delete', `Delete: ${title}`, () => this.remove(id, title)));
        return row;
    }

    editTitle(row, id, title) {
        const input = element('input', { 'aria-label': 'Title', value: title, maxlength: '200' });
        let over = false;
        const close = async (keep) => {
            if (over)
                return;
            over = true;
            this.editing = false;
            if (keep && input.value.trim() && input.value.trim() !== title)
                await this.rename(id, input.value.trim());
            await this.refresh();
            byId('list').querySelector(`a[href="${CSS.escape(addressOf(id))}"]`)?.focus();
        };
        input.addEventListener('keydown', (event) => {
            if (event.key === 'Enter' || event.key === 'Escape') {
                event.preventDefault();
                event.stopPropagation();
                close(event.key === 'Enter');
            }
        });
        input.addEventListener('blur', () => close(true));
        this.editing = true;
        row.replaceChildren(input);
        input.focus();
        input.select();
    }

    // The one in memory, if it is open or being written: it would overwrite another.
    async find(id) {
        const live = this.chat.runs.get(id)?.conversation ?? this.chat.conversation;
        return live?.id === id ? live : this.store.load(id);
    }

    async rename(id, title) {
        const conversation = await this.find(id);
        if (!conversation)
            return;
        conversation.title = title;
        await this.store.save(conversation);
        this.store.tell(id);
        this.chat.refresh();
    }

    async remove(id, title) {
        const conversation = await this.find(id), open = this.chat.conversation?.id === id;
        this.chat.forget(id);
        await this.store.remove(id);
        this.store.tell(id);
        if (open)
            this.left();
        await this.refresh();
        byId('new').focus();
        toast(`“${title}” is deleted.`, { name: 'Undo', run: () => this.restore(conversation) });
    }

    async restore(conversation) {
        await this.store.save(conversation);
        this.store.tell(conversation.id);
        await this.refresh();
    }

    async exportAll() {
        const conversations = await this.store.all();
        const address = URL.createObjectURL(new Blob([exported(conversations)], { type: 'application/json' }));
        element('a', { href: address, download: `sonde-${new Date().toISOString().slice(0, 10)}.json` }).click();
        setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    async importFile(input) {
        const [file] = input.files;
        input.value = '';
        try {
            const added = await this.add(imported(await file.text()));
            toast(added ? `${plural(added, 'conversation')} added.` : 'All of these conversations are here already.');
        } catch (error) {
            toast(`${file.name} was not read: ${error.message}.`);
        }
        await this.refresh();
    }

    // Conversations that are here already, by id and date, are left; another of the same id gets one of its own.
    async add(conversations) {
        const here = new Map((await this.store.titles()).map(({ id, updated }) => [id, updated]));
        let added = 0;
        for (const conversation of conversations) {
            if (here.get(conversation.id) === conversation.updated)
                continue;
            if (here.has(conversation.id))
                conversation.id = `${conversation.id}-${Date.now()}-${added}`;
            await this.store.save(conversation);
            added++;
        }
        this.store.tell('');
        return added;
    }
}
