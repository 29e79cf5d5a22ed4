// chat.js - the conversation on the screen, and the answers that are being written.
//
// A run is an answer on its way: the request, the message that grows, and its view while its conversation is shown. It
// goes on when another conversation is opened, and each conversation has at most one. What has arrived is written to
// the store a few times a second, so that a reload loses nothing but the rest of the answer.

import { addChunk, ApiError, completionRequest, fetchModels, streamCompletion } from './api.js';
import { announce, byId, count, duration } from './dom.js';
import { AnswerView, growing, QuestionView } from './message.js';
import { askForKey } from './settings.js';

const SAVE_EVERY = 300, TITLE_LENGTH = 60, MOST_TRIES = 5;

const touched = matchMedia('(pointer: coarse)');

// Where there is a keyboard; on a touch screen it would bring one up.
export function focusQuestion() {
    if (!touched.matches)
        byId('question').focus();
}

const titleFrom = (text) => {
    const line = text.trim().split('\n')[0];
    return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).trimEnd()}…` : line;
};

export class Chat {
    // changed(): the list of conversations is another.
    constructor(store, settings, changed) {
        this.store = store;
        this.settings = settings;
        this.changed = changed;
        this.runs = new Map();      // by the conversation's id
        this.views = [];
        this.log = byId('log');
        this.scroller = new Scroller(byId('scroll'), this.log, byId('to-end'));
        this.listen();
        this.show(null);
    }

    listen() {
        const question = byId('question');
        this.fitQuestion = growing(question, 240);
        byId('composer').addEventListener('submit', (event) => { event.preventDefault(); this.ask(); });
        byId('stop').addEventListener('click', () => this.stop());
        question.addEventListener('keydown', (event) => {
            // on a touch screen Enter is a new line, and the button sends
            if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !touched.matches) {
                event.preventDefault();
                this.ask();
            }
        });
        document.addEventListener('keydown', (event) => {
            if (event.key === 'Escape' && !document.querySelector('dialog[open], .side-open'))
                this.stop();
        });
        addEventListener('pagehide', () => this.runs.forEach(({ conversation }) => this.store.save(conversation)));
    }

    // -------------------------------------------------------------------------------------------- showing

    // Opens a conversation of the store, or a new one if there is none of that id. Resolves to whether there was.
    async open(id) {
        const running = this.runs.get(id)?.conversation;
        const conversation = running ?? (id ? await this.store.load(id) : undefined);
        if (conversation && !running)
            this.mend(conversation);
        this.show(conversation ?? null);
        return conversation !== undefined;
    }

    // An answer without an end was being written when its page was closed.
    mend(conversation) {
        for (const message of conversation.messages) {
            if (message.role === 'assistant')
                message.meta = { ended: 'interrupted', ...message.meta };
        }
    }

    show(conversation) {
        for (const run of this.runs.values())
            run.view = null;
        this.conversation = conversation;
        this.views = [];
        this.log.replaceChildren();
        for (const message of conversation?.messages ?? [])
            this.addView(message);
        const run = this.runs.get(conversation?.id);
        if (run)
            run.view = this.views[this.views.length - 1];
        this.refresh();
        this.scroller.toEnd();
    }

    addView(message) {
        if (message.role === 'tool')
            return null;
        const view = message.role === 'user'
            ? new QuestionView(message, { edit: (text) => this.editLast(text) })
            : new AnswerView(message, {
                regenerate: () => this.regenerate(), results: (results) => this.giveResults(results),
            });
        this.views.push(view);
        this.log.append(view.node);
        return view;
    }

    // Everything around the messages: which of them is last, results of tools, buttons, the fill of the context.
    refresh() {
        const messages = this.conversation?.messages ?? [], running = this.runs.has(this.conversation?.id);
        for (const role of ['user', 'assistant']) {
            const last = this.views.findLast((view) => view.message.role === role);
            for (const view of this.views.filter((v) => v.message.role === role))
                view.node.classList.toggle('last', view === last && !running);
        }
        const known = new Map(messages.filter((m) => m.role === 'tool').map((m) => [m.tool_call_id, m.content]));
        for (const view of this.views.filter((v) => v.calls?.length))
            view.showResults(known, view.message === messages[messages.length - 1] && !running);
        byId('empty').hidden = messages.length > 0;
        byId('send').hidden = running;
        byId('stop').hidden = !running;
        byId('title').textContent = this.conversation?.title ?? 'New conversation';
        this.showFill();
        // a button that had the focus may have gone
        if (document.activeElement === document.body)
            focusQuestion();
    }

    showFill() {
        const usage = this.conversation?.messages.findLast((m) => m.meta?.usage)?.meta.usage;
        const size = this.settings.model?.context_length;
        byId('fill').textContent = usage && size
            ? `${count(usage.prompt_tokens + usage.completion_tokens)} of ${count(size)} tokens` : '';
    }

    // -------------------------------------------------------------------------------------------- asking

    ask() {
        const text = byId('question').value;
        if (!text.trim() || this.runs.has(this.conversation?.id))
            return;
        const last = this.views[this.views.length - 1];
        if (last?.focusResult?.()) {
            announce('The model waits for the result of its call');
            return;
        }
        byId('question').value = '';
        this.fitQuestion();
        this.send(text);
    }

    send(text) {
        this.conversation ??= { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: titleFrom(text),
            created: Date.now(), updated: Date.now(), messages: [] };
        const message = { role: 'user', content: text };
        this.conversation.messages.push(message);
        this.addView(message);
        this.answer();
    }

    // Another text for the last question: what came of the old one is dropped.
    editLast(text) {
        const { messages } = this.conversation;
        this.dropFrom(messages.findLastIndex((m) => m.role === 'user'));
        this.send(text);
    }

    regenerate() {
        const { messages } = this.conversation;
        this.dropFrom(messages.findLastIndex((m) => m.role !== 'assistant') + 1);
        this.answer();
    }

    dropFrom(index) {
        const dropped = this.conversation.messages.splice(index);
        this.views = this.views.filter((view) => !dropped.includes(view.message) || view.node.remove());
    }

    giveResults(results) {
        for (const { id, content } of results)
            this.conversation.messages.push({ role: 'tool', tool_call_id: id, content });
        this.answer();
    }

    stop() {
        this.runs.get(this.conversation?.id)?.abort.abort();
    }

    // A conversation was deleted: its run ends.
    forget(id) {
        const run = this.runs.get(id);
        this.runs.delete(id);
        if (!run)
            return;
        clearTimeout(run.timer);
        run.timer = -1;     // nothing is written any more
        run.abort.abort();
    }

    // -------------------------------------------------------------------------------------------- answering

    async answer() {
        const { conversation } = this;
        const message = { role: 'assistant', content: '', meta: {} };
        const run = { conversation, message, abort: new AbortController(), started: performance.now() };
        conversation.messages.push(message);
        conversation.updated = Date.now();
        this.runs.set(conversation.id, run);
        run.view = this.addView(message);
        run.clock = setInterval(() => this.draw(run), 1000);
        this.refresh();
        this.scroller.toEnd();
        this.store.save(conversation).then(() => this.changed(conversation));
        await this.write(run);
        this.finish(run);
    }

    // The whole way of an answer, errors and all: afterwards the message has an end.
    async write(run) {
        const { meta } = run.message;
        try {
            await this.patiently(run);
            meta.ended ??= 'stop';
        } catch (error) {
            meta.ended = error.name === 'AbortError' ? 'stopped' : 'error';
            if (meta.ended === 'error')
                meta.error = error instanceof ApiError ? error.message : `This page failed: ${error.message}.`;
        }
        meta.took = performance.now() - run.started;
    }

    // Asks for the key if there is none that is right, and again after a while if the server is busy.
    async patiently(run) {
        for (let tries = 1;; tries++) {
            try {
                return await this.receive(run);
            } catch (error) {
                if (error.status === 401 && await askForKey(this.settings, error.message))
                    tries--;
                else if (error.status === 429 && error.wait !== null && tries < MOST_TRIES)
                    await this.pause(run, error);
                else
                    throw error;
            }
        }
    }

    async pause(run, error) {
        const until = performance.now() + error.wait;
        for (let left; (left = until - performance.now()) > 0;) {
            if (run.view)
                run.view.pause = `${error.message} Trying again in ${duration(Math.max(left, 1000))}`;
            this.draw(run);
            await new Promise((resolve) => { setTimeout(resolve, Math.min(left, 500)); });
            run.abort.signal.throwIfAborted();
        }
        if (run.view)
            run.view.pause = undefined;
    }

    async receive(run) {
        const { message, conversation, abort } = run;
        if (!this.settings.model)
            await this.findModels();
        const request = completionRequest(this.settings.values, this.settings.model?.id, conversation.messages);
        for await (const chunk of streamCompletion(request, this.settings.key, abort.signal)) {
            const what = addChunk(message, chunk);
            if (what)
                this.clockIn(run, what);
            this.touch(run);
        }
    }

    // Asks the server for its models; throws an ApiError.
    async findModels() {
        this.settings.setModels(await fetchModels(this.settings.key));
        this.showFill();
    }

    clockIn(run, what) {
        const { meta } = run.message, now = performance.now() - run.started;
        meta.first ??= now;
        if (what === 'thinking')
            meta.thought = now - meta.first;
        else if (run.message.reasoning_content && !run.thoughtOver)
            meta.thought = now - meta.first;
        run.thoughtOver ||= what !== 'thinking';
    }

    // The message has grown: drawn with the next frame, written soon.
    touch(run) {
        run.frame ||= requestAnimationFrame(() => { run.frame = 0; this.draw(run); });
        run.timer ||= setTimeout(() => {
            run.timer = 0;
            this.store.save(run.conversation);
        }, SAVE_EVERY);
    }

    draw(run) {
        run.view?.update();
    }

    finish(run) {
        const { conversation, message } = run;
        clearInterval(run.clock);
        clearTimeout(run.timer);
        cancelAnimationFrame(run.frame);
        const deleted = this.runs.get(conversation.id) !== run;
        if (!deleted) {
            this.runs.delete(conversation.id);
            conversation.updated = Date.now();
            this.store.save(conversation).then(() => this.changed(conversation));
        }
        this.draw(run);
        if (this.conversation === conversation) {
            this.refresh();
            announce(message.content ? `Answer: ${message.content}`
                : message.tool_calls ? 'The model calls a tool' : 'The answer is empty');
        }
    }
}

// Keeps the end in sight while the content grows, until the reader scrolls up; takes hold again at the end.
class Scroller {
    constructor(node, content, button) {
        this.node = node;
        this.button = button;
        this.holds = true;
        this.top = 0;
        this.height = 0;
        node.addEventListener('scroll', () => this.scrolled(), { passive: true });
        node.addEventListener('wheel', (event) => { if (event.deltaY < 0) this.letGo(); }, { passive: true });
        node.addEventListener('touchstart', (event) => { this.touched = event.touches[0].clientY; }, { passive: true });
        node.addEventListener('touchmove', (event) => {
            if (event.touches[0].clientY > this.touched + 4)
                this.letGo();
        }, { passive: true });
        button.addEventListener('click', () => this.toEnd());
        const observer = new ResizeObserver(() => this.follow());
        observer.observe(content);
        observer.observe(node);
    }

    get left() {
        return this.node.scrollHeight - this.node.clientHeight - this.node.scrollTop;
    }

    // A content that grew or shrank moves the reader too; only a move without that is the reader's.
    scrolled() {
        const { scrollTop, scrollHeight } = this.node;
        if (scrollTop < this.top - 1 && scrollHeight === this.height)
            this.holds = this.left < 2;
        else if (scrollTop > this.top && this.left < 24)
            this.holds = true;
        this.remember();
    }

    remember() {
        this.top = this.node.scrollTop;
        this.height = this.node.scrollHeight;
        this.button.hidden = this.holds || this.left < 24;
    }

    letGo() {
        if (this.left > 2 || this.node.scrollTop > 0)
            this.holds = false;
    }

    follow() {
        if (this.holds)
            this.node.scrollTop = this.node.scrollHeight;
        this.remember();
    }

    toEnd() {
        this.holds = true;
        this.follow();
    }
}
