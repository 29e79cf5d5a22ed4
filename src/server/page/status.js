// status.js - the view "Server": what /status says, once a second while somebody looks, and speeds from differences.

import { fetchStatus } from './api.js';
import { byId, count, duration, element, plural, svgElement } from './dom.js';

const SPAN = 120;       // seconds that a chart shows
const WIDTH = 240, HEIGHT = 72;

// ------------------------------------------------------------------------------------------------ charts

// The next of 1, 2, 5, 10, 20, … that is not below.
function roundUp(value) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
    return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

// A path through [{at, value}] for each stretch without a gap; a value of null is a gap.
function stretches(samples) {
    const found = [[]];
    for (const sample of samples) {
        if (sample.value === null)
            found.push([]);
        else
            found[found.length - 1].push(sample);
    }
    return found.filter((stretch) => stretch.length > 1);
}

class Chart {
    constructor(figure, title) {
        this.title = title;
        this.now = element('strong', {}, '–');
        this.most = element('span', {}, '');
        this.area = svgElement('path', { class: 'area' });
        this.line = svgElement('path', { class: 'line' });
        this.svg = svgElement('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' });
        for (const part of [1, 2, 3])
            this.svg.append(svgElement('path', { class: 'grid', d: `M0 ${HEIGHT * part / 4}H${WIDTH}` }));
        this.svg.append(this.area, this.line);
        figure.replaceChildren(
            element('figcaption', {}, element('span', {}, title),
                element('span', { class: 'now' }, this.now, ' tokens a second')),
            element('div', { class: 'plot' }, this.most, this.svg),
            element('div', { class: 'axis' }, element('span', {}, 'two minutes ago'), element('span', {}, 'now')));
    }

    // samples: [{at (ms), value (a second) or null}], in order.
    draw(samples, now) {
        const known = samples.filter(({ value }) => value !== null), last = samples[samples.length - 1]?.value ?? null;
        const top = roundUp(Math.max(10, ...known.map(({ value }) => value)));
        const point = ({ at, value }) => [WIDTH * (1 - (now - at) / (SPAN * 1000)), HEIGHT * (1 - value / top)]
            .map((x) => x.toFixed(1)).join(' ');
        const x = ({ at }) => (WIDTH * (1 - (now - at) / (SPAN * 1000))).toFixed(1);
        const lines = stretches(samples);
        this.line.setAttribute('d', lines.map((s) => `M${s.map(point).join('L')}`).join(''));
        this.area.setAttribute('d', lines.map((s) =>
            `M${s.map(point).join('L')}L${x(s[s.length - 1])} ${HEIGHT}L${x(s[0])} ${HEIGHT}Z`).join(''));
        const current = last === null ? '–' : count(last), most = Math.max(0, ...known.map(({ value }) => value));
        this.now.textContent = current;
        this.most.textContent = known.length ? count(top) : '';
        this.svg.setAttribute('aria-label',
            `${this.title} in the last two minutes: ${current} tokens a second now, ${count(most)} at most`);
    }
}

// ------------------------------------------------------------------------------------------------ figures

function bytes(n) {
    const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    for (; n >= 1024 && unit < units.length - 1; unit++)
        n /= 1024;
    return `${unit > 0 && n < 10 ? n.toFixed(1) : Math.round(n)}\u00a0${units[unit]}`;
}

const percent = (part, whole) => (whole > 0 ? `${Math.round(100 * part / whole)} %` : '–');

function tile(title, value, detail, share) {
    const node = element('div', { class: 'card tile' }, element('span', { class: 'label' }, title),
        element('strong', {}, value), element('span', { class: 'soft' }, detail));
    if (share !== undefined) {
        const meter = element('div', { class: 'meter' }, element('div'));
        meter.firstChild.style.width = `${Math.min(100, 100 * share)}%`;
        node.append(meter);
    }
    return node;
}

function tiles({ requests, tokens, cache }) {
    // prompt tokens that were read and those that were remembered are counted apart
    const prompt = tokens.prompt + tokens.reused;
    const all = cache.pages || 1, size = cache.bytes ? `, ${bytes(cache.bytes)}` : '';
    const disk = cache.disk_bytes ? `, ${bytes(cache.disk_bytes)} on disk` : '';
    return [
        tile('Requests', `${count(requests.active)} of ${count(requests.limit)}`,
            `${count(requests.waiting)} waiting, ${count(requests.finished)} finished`,
            requests.active / (requests.limit || 1)),
        tile('Cache', percent(cache.used, all),
            `${count(cache.used)} of ${plural(cache.pages, 'page')}${size}${disk}`, cache.used / all),
        tile('From the cache', percent(tokens.reused, prompt),
            `${count(tokens.reused)} of ${plural(prompt, 'prompt token')}`, tokens.reused / (prompt || 1)),
        tile('Tokens written', count(tokens.generated), 'since the server was started'),
    ];
}

function runningRow({ id, state, age, prompt, read, generated }) {
    const tokens = state === 'reading' && read !== undefined ? `${count(read)} of ${count(prompt)}` : count(prompt);
    return element('tr', {},
        ...[id, state, duration(age * 1000), tokens, count(generated)].map((text) => element('td', {}, text)));
}

// ------------------------------------------------------------------------------------------------ the view

export class StatusView {
    constructor(settings) {
        this.settings = settings;
        this.last = null;       // {at, tokens} of the status before
        this.generated = [];
        this.prompt = [];
        this.charts = [new Chart(byId('chart-generated'), 'Written'), new Chart(byId('chart-prompt'), 'Read')];
        this.shown = false;
        document.addEventListener('visibilitychange', () => this.schedule());
    }

    show(shown) {
        this.shown = shown;
        this.schedule();
    }

    // Asks now, and then every second as long as the view can be seen.
    schedule() {
        clearInterval(this.timer);
        if (!this.shown || document.hidden)
            return;
        this.timer = setInterval(() => this.ask(), 1000);
        this.ask();
    }

    async ask() {
        if (this.asking)
            return;
        this.asking = true;
        try {
            this.take(await fetchStatus(this.settings.key), performance.now());
        } catch (error) {
            this.say(error.message, true);
            this.gap(performance.now());
        }
        this.asking = false;
    }

    say(text, wrong) {
        byId('server-state').textContent = text;
        byId('server-state').classList.toggle('problem', wrong);
    }

    take(status, now) {
        this.say(`${status.model} on sonde ${status.version}, up for ${duration(status.uptime * 1000)}, ` +
            `contexts of up to ${plural(status.context, 'token')}`, false);
        this.sample(status.tokens, now);
        byId('tiles').replaceChildren(...tiles(status));
        byId('running').tBodies[0].replaceChildren(...status.running.map(runningRow));
        byId('running').hidden = status.running.length === 0;
        byId('running-empty').hidden = status.running.length > 0;
    }

    // Speeds since the status before, unless that was too long ago or of a server that has been started anew.
    sample(tokens, now) {
        const { last } = this;
        this.last = { ...tokens, at: now };
        if (!last || now - last.at > 5000 || tokens.prompt < last.prompt || tokens.generated < last.generated) {
            this.add(now, null, null);
            return;
        }
        const seconds = Math.max(0.001, (now - last.at) / 1000);
        this.add(now, (tokens.generated - last.generated) / seconds, (tokens.prompt - last.prompt) / seconds);
    }

    gap(now) {
        this.last = null;
        this.add(now, null, null);
    }

    add(now, generated, prompt) {
        for (const [samples, value] of [[this.generated, generated], [this.prompt, prompt]]) {
            samples.push({ at: now, value });
            while (samples.length && now - samples[0].at > SPAN * 1000)
                samples.shift();
        }
        this.charts[0].draw(this.generated, now);
        this.charts[1].draw(this.prompt, now);
    }
}
