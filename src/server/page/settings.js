// settings.js - what the user has chosen: one object, one dialog, kept in localStorage; the API key only if asked.

import { byId, count } from './dom.js';

const PLACE = 'sonde.settings', KEY_PLACE = 'sonde.key';
const DEFAULTS = {
    model: '', thinking: 'off', temperature: null, top_p: null, max_tokens: null, system: '', tools: '',
};
const EFFORTS = ['off', 'low', 'high', 'max'];

// Storage may be forbidden or full; settings then last as long as the page.
function remember(place, text) {
    try {
        if (text === null)
            localStorage.removeItem(place);
        else
            localStorage.setItem(place, text);
    } catch { /* nothing to be done, and nothing lost but a choice */ }
}

function recall(place) {
    try {
        return localStorage.getItem(place);
    } catch {
        return null;
    }
}

function stored() {
    try {
        const found = JSON.parse(recall(PLACE)) ?? {};
        const right = (name) => typeof found[name] === (typeof DEFAULTS[name] === 'string' ? 'string' : 'number');
        const kept = Object.keys(DEFAULTS).filter(right).map((name) => [name, found[name]]);
        return { ...DEFAULTS, ...Object.fromEntries(kept) };
    } catch {
        return { ...DEFAULTS };
    }
}

// What is wrong with the text of the tools, or ''.
export function toolsProblem(text) {
    if (!text.trim())
        return '';
    let tools;
    try {
        tools = JSON.parse(text);
    } catch (error) {
        return `Not JSON: ${error.message}`;
    }
    if (!Array.isArray(tools))
        return 'Tools are a list: [ … ].';
    const wrong = tools.findIndex((tool) => tool?.type !== 'function' || typeof tool.function?.name !== 'string');
    return wrong < 0 ? '' : `Tool ${wrong + 1} needs "type": "function" and a "function" with a "name".`;
}

export class Settings {
    constructor() {
        this.values = stored();
        if (!EFFORTS.includes(this.values.thinking))
            this.values.thinking = 'off';
        this.key = recall(KEY_PLACE) ?? '';
        this.keepKey = this.key !== '';
        this.models = [];
        this.dialog = byId('settings');
        this.form = this.dialog.querySelector('form');
        this.listen();
    }

    listen() {
        byId('settings-open').addEventListener('click', () => this.show());
        byId('settings-reset').addEventListener('click', () => { this.change({ ...DEFAULTS }); this.fillForm(); });
        this.form.addEventListener('change', () => this.readForm());
        this.form.addEventListener('submit', (event) => this.done(event));
        this.dialog.addEventListener('close', restoreCaret);
        this.dialog.addEventListener('click', (event) => { if (event.target === this.dialog) this.dialog.close(); });
        byId('thinking').addEventListener('change', (event) => this.change({ thinking: event.target.value }));
        byId('thinking').value = this.values.thinking;
    }

    done(event) {
        if (this.readForm())
            return;
        event.preventDefault();
        this.form.elements.tools.focus();
    }

    show() {
        this.fillForm();
        this.dialog.showModal();
    }

    change(values) {
        Object.assign(this.values, values);
        remember(PLACE, JSON.stringify(this.values));
        byId('thinking').value = this.values.thinking;
    }

    setKey(key, keep) {
        this.key = key.trim();
        this.keepKey = keep;
        remember(KEY_PLACE, keep && this.key ? this.key : null);
    }

    // What the server has. The model is the one chosen, or the first.
    setModels(models) {
        this.models = models;
        this.form.elements.model.replaceChildren(...models.map(({ id }) => new Option(id, id)));
        byId('model-field').hidden = models.length < 2;
    }

    get model() {
        return this.models.find(({ id }) => id === this.values.model) ?? this.models[0];
    }

    fillForm() {
        const { elements } = this.form;
        for (const [name, value] of Object.entries(this.values))
            elements[name].value = value ?? '';
        elements.model.value = this.model?.id ?? '';
        elements.key.value = this.key;
        elements.remember.checked = this.keepKey;
        if (this.model?.context_length)
            elements.max_tokens.placeholder = `to ${count(this.model.context_length)}`;
        byId('tools-problem').textContent = toolsProblem(this.values.tools);
    }

    // Takes over what is right in the form. False, with a word to the user, if something is not.
    readForm() {
        const { elements } = this.form;
        const problem = toolsProblem(elements.tools.value);
        byId('tools-problem').textContent = problem;
        const values = {};
        for (const name of ['model', 'thinking', 'system'])
            values[name] = elements[name].value;
        for (const name of ['temperature', 'top_p', 'max_tokens']) {
            if (elements[name].validity.valid)
                values[name] = elements[name].value === '' ? null : Number(elements[name].value);
        }
        if (!problem)
            values.tools = elements.tools.value;
        this.change(values);
        this.setKey(elements.key.value, elements.remember.checked);
        return !problem;
    }
}

// Chromium gives the focus back to a text field without its caret: keys would go nowhere.
function restoreCaret() {
    const focused = document.activeElement;
    focused?.blur();
    focused?.focus();
}

// Asks for the key in a dialog. Resolves to whether the user gave one.
export function askForKey(settings, why) {
    const dialog = byId('ask-key'), { elements } = dialog.querySelector('form');
    byId('ask-key-why').textContent = why;
    elements.key.value = '';
    elements.remember.checked = settings.keepKey;
    dialog.returnValue = '';
    dialog.showModal();
    elements.key.focus();
    return new Promise((resolve) => {
        dialog.addEventListener('close', () => {
            restoreCaret();
            const given = dialog.returnValue === 'ok';
            if (given)
                settings.setKey(elements.key.value, elements.remember.checked);
            resolve(given);
        }, { once: true });
    });
}
