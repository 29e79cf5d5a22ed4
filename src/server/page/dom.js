// dom.js - small helpers around the document: making elements, copying, saying things.

const SVG = 'http://www.w3.org/2000/svg';

export const byId = (id) => document.getElementById(id);

// An element with attributes and children. Of the attributes a function becomes a listener, true an empty one, false
// and null none. Strings among the children become text nodes: nothing is parsed.
export function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (typeof value === 'function')
            node.addEventListener(name, value);
        else if (value !== false && value !== null && value !== undefined)
            node.setAttribute(name, value === true ? '' : value);
    }
    node.append(...children);
    return node;
}

export function svgElement(tag, attributes = {}) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes))
        node.setAttribute(name, value);
    return node;
}

// A symbol of index.html, for decoration only.
export function icon(name, className = '') {
    const svg = svgElement('svg', { class: className, 'aria-hidden': 'true' });
    svg.append(svgElement('use', { href: `#icon-${name}` }));
    return svg;
}

// Browsers offer their clipboard to pages from https and localhost only; elsewhere a selection is copied the old way.
async function copyText(text) {
    if (navigator.clipboard) {
        await navigator.clipboard.writeText(text);
        return;
    }
    const area = element('textarea', { class: 'unseen', readonly: true });
    area.value = text;
    const back = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    back?.focus();
    if (!done)
        throw new Error('copying is not allowed here');
}

// A button that copies what `text()` returns and says so.
export function copyButton(text, attributes = {}) {
    const button = element('button', { type: 'button', class: 'quiet', ...attributes }, 'Copy');
    button.addEventListener('click', async () => {
        const done = await copyText(text()).then(() => true, () => false);
        button.textContent = done ? 'Copied' : 'Not allowed';
        announce(done ? 'Copied' : 'The browser did not allow copying');
        setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    });
    return button;
}

// For screen readers only.
export function announce(text) {
    byId('announcer').textContent = text;
}

let toastTimer = 0;

// A line at the foot of the page, for ten seconds, with an action if there is something to undo.
export function toast(text, action) {
    const node = byId('toast');
    const hide = () => { node.replaceChildren(); };
    node.replaceChildren(element('span', {}, text));
    if (action) {
        const click = () => { hide(); action.run(); };
        node.append(element('button', { type: 'button', class: 'quiet', click }, action.name));
    }
    clearTimeout(toastTimer);
    toastTimer = setTimeout(hide, 10000);
}

// A line under the header that stays until it is replaced or taken back (text null).
export function notice(text) {
    byId('notice').hidden = !text;
    byId('notice').textContent = text ?? '';
}

export const seconds = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : duration(ms));

export function duration(ms) {
    const s = Math.round(ms / 1000);
    if (s < 60)
        return `${s} s`;
    if (s < 3600)
        return `${Math.floor(s / 60)} min ${s % 60} s`;
    return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min` : `${Math.floor(s / 86400)} days`;
}

export const count = (n) => Math.round(n).toLocaleString('en');
export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? '' : 's'}`;
