// markdown.js - a small Markdown renderer that is safe against what a model writes, and can follow a text that grows.
//
// Text of a model is hostile until proven otherwise: all of it becomes elements and text nodes by name, nothing is ever
// parsed as HTML. Links lead to http, https and mailto only; images become links, since the page asks nobody but its
// server; maths stay the text they are. Every search is either linear or remembered when it fails, and nesting is
// bounded, so that no text takes long.
//
// A text is a run of blocks. A block is final once another stands after it; MarkdownView uses that: a text that grows
// costs its last block an update, not the whole.

import { copyButton, element } from './dom.js';

const MAX_DEPTH = 8;        // of quotes and lists, and of emphasis
const MAX_LINK = 2000;      // letters of a label, or of an address

// ------------------------------------------------------------------------------------------------ blocks

const isBlank = (line) => line.trim() === '';
const widthOf = (letter) => (letter === '\t' ? 4 : letter === ' ' ? 1 : 0);
const isRule = (line) => /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/.test(line);

function indentOf(line) {
    let columns = 0;
    for (let i = 0; widthOf(line[i]) > 0; i++)
        columns += widthOf(line[i]);
    return columns;
}

// The line without so many columns of its indentation, or without all of it.
function unindent(line, columns) {
    let at = 0;
    for (; columns > 0 && widthOf(line[at]) > 0; at++)
        columns -= widthOf(line[at]);
    return line.slice(at);
}

function readFence(lines, first) {
    const open = /^([ \t]*)(`{3,}|~{3,})([^`]*)$/.exec(lines[first]);
    if (!open)
        return null;
    const closes = (line) => {
        const mark = line.trim();
        return mark.startsWith(open[2]) && mark === mark[0].repeat(mark.length);
    };
    let end = first + 1;
    while (end < lines.length && !closes(lines[end]))
        end++;
    const code = lines.slice(first + 1, end).map((line) => unindent(line, indentOf(open[1]))).join('\n');
    return { end: Math.min(end + 1, lines.length), make: () => codeBlock(open[3].trim(), code) };
}

function codeBlock(language, code) {
    return element('div', { class: 'code' },
        element('div', { class: 'code-head' }, element('span', {}, language.split(/\s/)[0]),
            copyButton(() => code, { 'aria-label': 'Copy the code' })),
        element('pre', { tabindex: '0', role: 'region', 'aria-label': 'Code' }, element('code', {}, code)));
}

function readHeading(lines, first) {
    const heading = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/.exec(lines[first]);
    if (!heading)
        return null;
    // the page has h1 and h2 of its own
    const tag = `h${Math.min(6, heading[1].length + 2)}`;
    return { end: first + 1, make: () => inlineElement(tag, (heading[2] ?? '').trim()) };
}

function readRule(lines, first) {
    return isRule(lines[first]) ? { end: first + 1, make: () => element('hr') } : null;
}

function readQuote(lines, first, depth) {
    const quoted = (line) => /^ {0,3}>/.test(line);
    if (!quoted(lines[first]) || depth >= MAX_DEPTH)
        return null;
    let end = first;
    while (end < lines.length && quoted(lines[end]))
        end++;
    const inside = lines.slice(first, end).map((line) => line.replace(/^ {0,3}> ?/, ''));
    return { end, make: () => element('blockquote', {}, ...makeBlocks(inside, depth + 1)) };
}

// The marker of a list item, or null: where it stands, where its content does, and what kind of list it makes.
function readMarker(line) {
    const found = /^([ \t]*)([-*+]|(\d{1,9})[.)])([ \t]+|$)/.exec(line);
    if (!found || isRule(line))
        return null;
    const spaces = found[4].length > 4 ? 1 : Math.max(1, found[4].length);
    const indent = indentOf(line), marker = found[2].length + spaces;
    return { indent, content: indent + marker, number: found[3], rest: line.slice(found[1].length + marker) };
}

// Models indent nested lists by two columns, three or four; whatever stands two columns inside the list's own marker
// belongs to the item above it.
function readList(lines, first, depth) {
    const head = readMarker(lines[first]);
    if (!head || depth >= MAX_DEPTH)
        return null;
    const items = [];
    let end = first, content = 0;
    for (; end < lines.length; end++) {
        const line = lines[end], marker = readMarker(line), item = items[items.length - 1];
        if (marker && marker.indent < head.indent + 2) {
            if ((marker.number === undefined) !== (head.number === undefined))
                break;
            content = marker.content;
            items.push([marker.rest]);
        } else if (isBlank(line)) {
            item.push('');
        } else if (indentOf(line) >= head.indent + 2) {
            item.push(unindent(line, content));
        } else if (!isBlank(lines[end - 1]) && !interrupts(line)) {
            item.push(line);
        } else {
            break;
        }
    }
    return { end, make: () => listElement(head.number, items, depth) };
}

function listElement(number, items, depth) {
    const list = number === undefined ? element('ul') : element('ol', { start: Number(number) });
    for (const lines of items) {
        const blocks = makeBlocks(lines, depth + 1), item = element('li');
        // without blank lines inside, an item begins without the space of a paragraph
        if (blocks[0]?.tagName === 'P' && !/\n\s*\n/.test(lines.join('\n').trimEnd()))
            item.append(...blocks.shift().childNodes);
        item.append(...blocks);
        list.append(item);
    }
    return list;
}

const cellsOf = (line) => line.trim().replace(/^\|/, '').replace(/\|$/, '').split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll('\\|', '|'));

function readTable(lines, first) {
    if (!lines[first].includes('|') || !lines[first + 1]?.includes('-'))
        return null;
    const head = cellsOf(lines[first]), marks = cellsOf(lines[first + 1]);
    if (head.length !== marks.length || !marks.every((mark) => /^:?-+:?$/.test(mark)))
        return null;
    let end = first + 2;
    while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines[end]))
        end++;
    const sides = marks.map((mark) => (!mark.endsWith(':') ? null : mark.startsWith(':') ? 'centre' : 'right'));
    const rows = lines.slice(first + 2, end).map(cellsOf);
    return { end, make: () => tableElement(head, sides, rows) };
}

function tableElement(head, sides, rows) {
    const row = (tag, cells) => element('tr', {}, ...sides.map((side, i) =>
        inlineElement(tag, cells[i] ?? '', { class: side, scope: tag === 'th' ? 'col' : null })));
    return element('div', { class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Table' },
        element('table', {}, element('thead', {}, row('th', head)),
            element('tbody', {}, ...rows.map((cells) => row('td', cells)))));
}

// What ends a paragraph without a blank line. A number does so only if it is 1: others may be a line's first word.
function interrupts(line) {
    const marker = readMarker(line);
    return /^ {0,3}(`{3,}[^`]*$|~{3,}|>|#{1,6}([ \t]|$))/.test(line) || isRule(line) ||
        (marker !== null && marker.rest !== '' && (marker.number ?? '1') === '1');
}

function readParagraph(lines, first) {
    let end = first + 1;
    while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines[end]) && !readTable(lines, end))
        end++;
    return { end, make: () => inlineElement('p', lines.slice(first, end).join('\n').trim()) };
}

const READERS = [readFence, readHeading, readRule, readQuote, readList, readTable, readParagraph];

// The blocks of some lines: [{first, end, make}], in lines.
function readBlocks(lines, depth) {
    const blocks = [];
    for (let first = 0; first < lines.length;) {
        if (isBlank(lines[first])) {
            first++;
            continue;
        }
        let block = null;
        for (let i = 0; !block; i++)
            block = READERS[i](lines, first, depth);
        blocks.push({ first, ...block });
        first = block.end;
    }
    return blocks;
}

const makeBlocks = (lines, depth) => readBlocks(lines, depth).map((block) => block.make());

// ------------------------------------------------------------------------------------------------ inside a block

const SPECIAL = /[\\`*_~[!<$\n]|https?:\/\//g;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const SCHEMES = new Set(['http:', 'https:', 'mailto:']);

function inlineElement(tag, text, attributes) {
    const node = element(tag, attributes);
    inline(node, text, 0);
    return node;
}

// Appends text to parent with its spans. What is not a span stays text.
function inline(parent, text, depth) {
    const scan = { text, depth, found: new Map() };
    let plain = 0, at = 0;
    for (;;) {
        SPECIAL.lastIndex = at;
        const hit = SPECIAL.exec(text);
        if (!hit)
            break;
        const span = depth < MAX_DEPTH ? SPANS[hit[0][0]](scan, hit.index) : null;
        if (!span) {
            at = hit.index + (/[`*_~$]/.test(hit[0]) ? runLength(text, hit.index) : 1);
            continue;
        }
        parent.append(text.slice(plain, hit.index), span.node);
        at = plain = span.end;
    }
    parent.append(text.slice(plain));
    parent.normalize();
}

function runLength(text, at) {
    let end = at + 1;
    while (text[end] === text[at])
        end++;
    return end - at;
}

// What `search(from)` finds, remembered under a key: looking again between there and what was found costs nothing.
function remembered(scan, key, from, search) {
    const known = scan.found.get(key);
    if (known && known.from <= from && (known.at < 0 || from <= known.at))
        return known.at;
    const at = search();
    scan.found.set(key, { from, at });
    return at;
}

const find = (scan, what, from) => remembered(scan, what, from, () => scan.text.indexOf(what, from));

// Text up to and with a closer, as it is; null if it is never closed.
function verbatim(scan, at, closer) {
    const close = find(scan, closer, at + 2);
    return close < 0 ? null : { end: close + closer.length, node: scan.text.slice(at, close + closer.length) };
}

function readEscape(scan, at) {
    const next = scan.text[at + 1];
    if (next === '\n')
        return { end: at + 2, node: element('br') };
    const maths = next === '(' ? verbatim(scan, at, '\\)') : next === '[' ? verbatim(scan, at, '\\]') : null;
    return maths ?? (next && PUNCTUATION.test(next) ? { end: at + 2, node: next } : null);
}

function readMaths(scan, at) {
    const { text } = scan;
    if (text[at + 1] === '$')
        return verbatim(scan, at, '$$');
    const close = /\s/.test(text[at + 1] ?? ' ') ? -1 : find(scan, '$', at + 1);
    const maths = text.slice(at, close + 1);
    if (close < 0 || /\s\$$|\n/.test(maths) || /\d/.test(text[close + 1] ?? ''))
        return null;
    return { end: close + 1, node: maths };
}

// The index of the next run of exactly so many backticks, or -1.
function findTicks(scan, length, from) {
    return remembered(scan, `ticks ${length}`, from, () => {
        for (let at = from; (at = find(scan, '`', at)) >= 0;) {
            const run = runLength(scan.text, at);
            if (run === length)
                return at;
            at += run;
        }
        return -1;
    });
}

// Where the code span that opens at `at` ends, after its closer; -1 if it is none.
function codeSpanEnd(scan, at) {
    const length = runLength(scan.text, at), close = findTicks(scan, length, at + length);
    return close < 0 ? -1 : close + length;
}

function readCode(scan, at) {
    const end = codeSpanEnd(scan, at), length = runLength(scan.text, at);
    if (end < 0)
        return null;
    let code = scan.text.slice(at + length, end - length).replaceAll('\n', ' ');
    if (/^ .*[^ ].* $/.test(code))
        code = code.slice(1, -1);
    return { end, node: element('code', {}, code) };
}

// The index at which an emphasis of n marks that opened before `from` closes, or -1. What is code does not close it.
function findCloser(scan, mark, n, from) {
    const { text } = scan;
    const search = () => {
        for (let at = from; at < text.length; at++) {
            if (text[at] === '\\') {
                at++;
            } else if (text[at] === '`') {
                const end = codeSpanEnd(scan, at);
                at = (end < 0 ? at + runLength(text, at) : end) - 1;
            } else if (text[at] === mark) {
                const run = runLength(text, at), end = at + run;
                const word = mark === '_' && /\w/.test(text[end] ?? '');
                if (run >= n && !(n === 1 && run === 2) && !/\s/.test(text[at - 1]) && !word)
                    return end - n;
                at = end - 1;
            }
        }
        return -1;
    };
    return remembered(scan, `close ${mark}${n}`, from, search);
}

function readEmphasis(scan, at) {
    const { text } = scan, mark = text[at], run = runLength(text, at);
    const n = mark === '~' ? 2 : Math.min(3, run), from = at + n;
    if (run < n || run > 3 || /\s/.test(text[at + run] ?? ' ') || (mark === '_' && /\w/.test(text[at - 1] ?? '')))
        return null;
    const close = findCloser(scan, mark, n, from);
    if (close <= from)
        return null;
    const node = element(mark === '~' ? 'del' : n === 1 ? 'em' : 'strong');
    let inner = node;
    if (n === 3)
        node.append(inner = element('em'));
    inline(inner, text.slice(from, close), scan.depth + 1);
    return { end: close + n, node };
}

function safeAddress(address) {
    try {
        const url = new URL(address);
        return SCHEMES.has(url.protocol) ? url.href : null;
    } catch {
        return null;
    }
}

// A link that cannot be followed safely is its label.
function link(address) {
    const href = safeAddress(address);
    return href ? element('a', { href, rel: 'noopener noreferrer nofollow', target: '_blank' }) : element('span');
}

// The index of what closes the bracket at `at`, or -1.
function closingBracket(text, at, open, close) {
    let nested = 0;
    for (let i = at; i < text.length && i < at + MAX_LINK; i++) {
        if (text[i] === '\\')
            i++;
        else if (text[i] === open)
            nested++;
        else if (text[i] === close && --nested === 0)
            return i;
    }
    return -1;
}

function readLink(scan, at) {
    const { text } = scan;
    if (find(scan, '](', at) < 0)
        return null;
    const label = closingBracket(text, at, '[', ']');
    const end = label >= 0 && text[label + 1] === '(' ? closingBracket(text, label + 1, '(', ')') : -1;
    if (end < 0)
        return null;
    const target = text.slice(label + 2, end).trim(), title = target.search(/\s["'(]/);
    const address = (title < 0 ? target : target.slice(0, title)).trim().replace(/^<|>$/g, '');
    if (/\s/.test(address))
        return null;
    const node = link(address);
    inline(node, text.slice(at + 1, label), scan.depth + 1);
    return { end: end + 1, node };
}

const readImage = (scan, at) => (scan.text[at + 1] === '[' ? readLink(scan, at + 1) : null);

function readAngle(scan, at) {
    const found = /<(?:(br) ?\/?|((?:https?:\/\/|mailto:)[^\s<>]{1,2000}))>/y;
    found.lastIndex = at;
    const match = found.exec(scan.text);
    if (!match)
        return null;
    const node = match[1] ? element('br') : link(match[2]);
    if (match[2])
        node.append(match[2]);
    return { end: found.lastIndex, node };
}

function readBareAddress(scan, at) {
    const found = /https?:\/\/[^\s<>"'`|]{1,2000}/y;
    found.lastIndex = at;
    const match = found.exec(scan.text);
    if (!match)
        return null;
    let address = match[0];
    while (/[.,;:!?*_~\]]$/.test(address) || (address.endsWith(')') && !address.includes('(')))
        address = address.slice(0, -1);
    const node = link(address);
    node.append(address);
    return { end: at + address.length, node };
}

const readBreak = (scan, at) => ({ end: at + 1, node: element('br') });

const SPANS = { '\\': readEscape, '`': readCode, '*': readEmphasis, '_': readEmphasis, '~': readEmphasis, '[': readLink,
    '!': readImage, '<': readAngle, '$': readMaths, '\n': readBreak, h: readBareAddress };

// ------------------------------------------------------------------------------------------------ a text that grows

export class MarkdownView {
    constructor(node) {
        this.node = node;
        this.from = 0;      // in the text: what is before is final
        this.tail = [];     // elements of what is not
    }

    // The text so far, which begins with the text so far of before. A block whose follower is one line long may yet
    // swallow that line ("2" becomes "2. …"), so it waits with it.
    set(text) {
        const lines = text.slice(this.from).split('\n'), blocks = readBlocks(lines, 0);
        const last = blocks[blocks.length - 1];
        const open = last && last.first === lines.length - 1 ? 2 : 1;
        const made = blocks.map((block) => block.make());
        for (const node of this.tail)
            node.remove();
        this.node.append(...made);
        const final = Math.max(0, blocks.length - open);
        this.tail = made.slice(final);
        if (final > 0)
            this.from = offsetOfLine(text, this.from, blocks[final].first);
    }
}

function offsetOfLine(text, from, line) {
    for (; line > 0; line--)
        from = text.indexOf('\n', from) + 1;
    return from;
}
