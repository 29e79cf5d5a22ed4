// message.js - how messages look: a question, and an answer with its thinking, its text, its tool calls and its end.
//
// A view shows one message of a conversation and never changes it. AnswerView.update() is called once a frame while the
// message grows, and touches only what has grown.

import { announce, copyButton, count, duration, element, icon, plural, seconds } from './dom.js';
import { MarkdownView } from './markdown.js';

const quietButton = (name, click) => element('button', { type: 'button', class: 'quiet', click }, name);

// A textarea as high as its text.
export function growing(area, most = 320) {
    const fit = () => {
        area.style.height = 'auto';
        area.style.height = `${Math.min(area.scrollHeight + area.offsetHeight - area.clientHeight, most)}px`;
    };
    area.addEventListener('input', fit);
    requestAnimationFrame(fit);
    return fit;
}

// ------------------------------------------------------------------------------------------------ a question

export class QuestionView {
    // edit(text) is called with another text for the question.
    constructor(message, { edit }) {
        this.message = message;
        this.bubble = element('div', { class: 'bubble' }, message.content);
        this.edit = quietButton('Edit', () => this.open(edit));
        this.edit.classList.add('for-last');
        this.actions = element('div', { class: 'actions' }, copyButton(() => message.content), this.edit);
        this.node = element('article', { class: 'message question', 'aria-label': 'Your message' },
            this.bubble, this.actions);
    }

    open(edit) {
        const area = element('textarea', { 'aria-label': 'Your message', rows: '1' });
        area.value = this.message.content;
        const close = () => {
            form.replaceWith(this.bubble);
            this.actions.hidden = false;
            this.edit.focus();
        };
        const form = element('form', { class: 'edit' }, area, element('div', { class: 'edit-foot' },
            quietButton('Cancel', close), element('button', { type: 'submit', class: 'main-button' }, 'Ask again')));
        form.addEventListener('submit', (event) => {
            event.preventDefault();
            if (area.value.trim())
                edit(area.value);
        });
        form.addEventListener('keydown', (event) => {
            if (event.key === 'Escape') {
                event.stopPropagation();
                close();
            } else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
                form.requestSubmit();
            }
        });
        this.bubble.replaceWith(form);
        this.actions.hidden = true;
        growing(area);
        area.focus();
    }
}

// ------------------------------------------------------------------------------------------------ a tool call

function prettyArguments(text) {
    try {
        return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
        return text;
    }
}

class CallView {
    constructor(call) {
        this.call = call;
        this.name = element('code', {});
        this.code = element('code', {});
        this.slot = element('div', { class: 'result' });
        this.node = element('div', { class: 'call' },
            element('div', { class: 'code-head' }, element('span', {}, 'Calls ', this.name),
                copyButton(() => prettyArguments(call.function.arguments), { 'aria-label': 'Copy the arguments' })),
            element('pre', { tabindex: '0', role: 'region', 'aria-label': 'Arguments' }, this.code), this.slot);
    }

    update(whole) {
        const { name, arguments: text } = this.call.function;
        this.name.textContent = name;
        this.code.textContent = whole ? prettyArguments(text) : text;
    }

    showResult(text) {
        this.slot.replaceChildren(element('p', { class: 'label' }, 'Result'), element('pre', { tabindex: '0' }, text));
    }

    // An input for the result.
    askResult() {
        this.area = element('textarea', { class: 'mono', rows: '2', spellcheck: 'false',
            placeholder: 'Paste what the tool returned' });
        growing(this.area);
        this.slot.replaceChildren(element('label', {}, `Result of ${this.call.function.name}`, this.area));
    }
}

// ------------------------------------------------------------------------------------------------ an answer

const ENDINGS = {
    length: 'The answer reached its longest length.',
    stopped: 'Stopped.',
    interrupted: 'Interrupted: the page was closed while this was written.',
    insufficient_system_resource: 'The server ended the answer before its time.',
};

export class AnswerView {
    // regenerate() asks for another answer; results(texts) gives what the tools returned, one for each call.
    constructor(message, { regenerate, results }) {
        this.message = message;
        this.results = results;
        this.regenerate = regenerate;
        this.started = performance.now();
        this.calls = [];
        this.thought = document.createTextNode('');
        this.summary = element('summary', { click: () => { this.touched = true; } });
        this.thinking = element('details', { class: 'thinking', hidden: true }, this.summary,
            element('div', { class: 'thought' }, this.thought));
        this.text = element('div', { class: 'text' });
        this.markdown = new MarkdownView(this.text);
        this.shown = '';
        this.callList = element('div', { class: 'calls' });
        this.end = element('div', { class: 'end' });
        this.node = element('article', { class: 'message answer', 'aria-label': 'Answer' },
            this.thinking, this.text, this.callList, this.end);
        this.update();
    }

    // Shows what the message has become. While it is written, also how long it has taken.
    update() {
        const { message } = this, over = message.meta.ended !== undefined;
        this.updateThinking(over);
        if (message.content !== this.shown) {
            this.shown = message.content;
            this.markdown.set(message.content);
        }
        for (const [i, call] of (message.tool_calls ?? []).entries()) {
            if (!this.calls[i]) {
                this.calls[i] = new CallView(call);
                this.callList.append(this.calls[i].node);
            }
            this.calls[i].update(over);
        }
        if (over)
            this.showEnd();
        else
            this.updateWaiting();
        this.node.classList.toggle('writing', !over);
    }

    updateThinking(over) {
        const text = this.message.reasoning_content ?? '';
        if (!text)
            return;
        if (this.thinking.hidden) {
            this.thinking.hidden = false;
            this.thinking.open = !over;
            this.thinkingSince = performance.now();
        }
        this.thought.appendData(text.slice(this.thought.length));
        const going = !over && !this.message.content && !this.message.tool_calls;
        const { thought } = this.message.meta;
        const now = going ? `Thinking for ${duration(performance.now() - this.thinkingSince)}`
            : thought === undefined ? 'Thought' : `Thought for ${seconds(thought)}`;
        if (this.summary.textContent !== now)
            this.summary.textContent = now;
        if (!going && !this.folded) {
            this.folded = true;
            this.thinking.open = this.thinking.open && this.touched === true;
        }
    }

    updateWaiting() {
        const { message } = this, waited = performance.now() - this.started;
        if (message.content || message.reasoning_content || message.tool_calls) {
            this.waiting?.remove();
            return;
        }
        if (!this.waiting) {
            this.waiting = element('p', { class: 'waiting soft' }, icon('mark', 'mark'), element('span'));
            this.end.append(this.waiting);
        }
        const text = this.pause ?? (waited < 1500 ? 'Reading' : `Reading, ${duration(waited)}`);
        if (this.waiting.lastChild.textContent !== text)
            this.waiting.lastChild.textContent = text;
    }

    showEnd() {
        const { meta, content } = this.message;
        const again = quietButton(meta.ended === 'error' ? 'Try again' : 'Regenerate', this.regenerate);
        again.classList.add('for-last');
        const actions = element('div', { class: 'actions' });
        if (content)
            actions.append(copyButton(() => content));
        actions.append(again, element('span', { class: 'figures' }, this.figures()));
        this.end.replaceChildren();
        if (meta.error)
            this.end.append(element('p', { class: 'problem', role: 'alert' }, meta.error));
        else if (ENDINGS[meta.ended])
            this.end.append(element('p', { class: 'remark' }, ENDINGS[meta.ended]));
        this.end.append(actions);
    }

    figures() {
        const { usage, first, took } = this.message.meta;
        if (!usage)
            return '';
        const parts = [plural(usage.completion_tokens, 'token')];
        if (took > first && usage.completion_tokens > 1)
            parts.push(`${count((usage.completion_tokens - 1) / (took - first) * 1000)} a second`);
        if (usage.prompt_cache_hit_tokens)
            parts.push(`${count(usage.prompt_cache_hit_tokens)} of ${count(usage.prompt_tokens)} remembered`);
        return parts.join(' · ');
    }

    // The results that are known, by the call's id; without them, inputs for them if `ask`.
    showResults(known, ask) {
        for (const view of this.calls) {
            if (known.has(view.call.id))
                view.showResult(known.get(view.call.id));
        }
        this.resultForm?.remove();
        const open = this.calls.filter((view) => !known.has(view.call.id));
        if (!ask || open.length === 0)
            return;
        for (const view of open)
            view.askResult();
        this.resultForm = element('div', { class: 'edit-foot' },
            element('button', { type: 'button', class: 'main-button', click: () => this.submit(open) }, 'Continue'));
        this.callList.append(this.resultForm);
    }

    submit(open) {
        const empty = open.find((view) => !view.area.value.trim());
        if (empty) {
            empty.area.focus();
            announce(`The result of ${empty.call.function.name} is missing`);
            return;
        }
        this.results(open.map((view) => ({ id: view.call.id, content: view.area.value })));
    }

    // Puts the reader where a result is missing; false if none is.
    focusResult() {
        const empty = this.calls.find((view) => view.area?.isConnected && !view.area.value.trim());
        empty?.area.focus();
        return empty !== undefined;
    }
}
