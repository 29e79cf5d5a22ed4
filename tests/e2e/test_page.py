#!/usr/bin/python3
"""test_page.py OPEN KEYED KEY DIRECTORY - the page of `sonde serve`, in a headless Chromium. Speaks TAP.

OPEN and KEYED are the addresses of two servers of models/nano; the second wants KEY. What the small model cannot be
made to do (think, call tools, write something hostile, fail) is played by a fetch of our own (STUB), which answers
only requests for completions; everything else reaches the server. Files go to DIRECTORY.
"""
import json
import os
import sys
import time
import traceback

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

OPEN, KEYED, KEY, DIRECTORY = sys.argv[1:5]
ONLY = sys.argv[5:]  # names of cases; all, if there are none

# Takes answers from `answers`, in order: {status, headers, body} or {chunks, every (ms), end}, where end is "done",
# "cut" (the stream just ends), "never" or an error object. `asked` has the requests.
STUB = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective));
window.pwned = false;
window.asked = [];
window.answers = ANSWERS;
const realFetch = window.fetch;
window.fetch = (path, options = {}) => {
    if (path !== '/v1/chat/completions' || answers.length === 0)
        return realFetch(path, options);
    asked.push(JSON.parse(options.body));
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer.gone)
        return Promise.reject(new TypeError('Failed to fetch'));
    if (answer.status)
        return Promise.resolve(new Response(JSON.stringify(answer.body), answer));
    const aborted = new DOMException('aborted', 'AbortError');
    const write = async (sink) => {
        const send = (text) => sink.enqueue(new TextEncoder().encode(text));
        for (const chunk of answer.chunks) {
            if (options.signal.aborted)
                return sink.error(aborted);
            send(': keep-alive\\n\\n');
            send('data: ' + JSON.stringify({choices: [{index: 0, finish_reason: null, ...chunk}]}) + '\\n\\n');
            if (answer.every)
                await new Promise((go) => setTimeout(go, answer.every));
        }
        if (answer.end === 'never')
            return options.signal.addEventListener('abort', () => sink.error(aborted));
        if (answer.end?.error)
            send('data: ' + JSON.stringify(answer.end) + '\\n\\n');
        if (answer.end === undefined)
            send('data: {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 9}}\\n\\n');
        if (answer.end === undefined)
            send('data: [DONE]\\n\\n');
        sink.close();
    };
    return Promise.resolve(new Response(new ReadableStream({ start: (sink) => { write(sink); } })));
};
"""

WIDE = ("A" * 300 + "\n\n```\n" + "code " * 80 + "\n```\n\n| " + " | ".join(["column"] * 30) + " |\n|" + "---|" * 30 +
        "\n| " + " | ".join(["a value"] * 30) + " |\n\nhttps://example.org/" + "path/" * 60)

HOSTILE = """<script>window.pwned = true</script><img src=x onerror="window.pwned = true">

[a](javascript:window.pwned=true) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<script>1</script>) [d](vbscript:x)
[e](https://example.org/ "t") <javascript:alert(1)> ![pixel](https://example.org/pixel.png) [f](//example.org)
[g](mailto:a@b.c)

<iframe src="https://example.org"></iframe> <svg onload=alert(1)> <a href="javascript:alert(1)" onclick="alert(1)">h</a>

```html"onmouseover="alert(1)
</code></pre><script>window.pwned = true</script>
```

| <b onmouseover=alert(1)>x</b> | y |
|---|---|
| [z](javascript:alert(1)) | <style>*{display:none}</style> |
"""

MARKDOWN = [  # source, what it becomes (attributes left out)
    ("Hello *you* and **all**, ***both***, ~~none~~.",
     "<p>Hello <em>you</em> and <strong>all</strong>, <strong><em>both</em></strong>, <del>none</del>.</p>"),
    ("snake_case_name and 2 * 3 * 4 and __init__", "<p>snake_case_name and 2 * 3 * 4 and <strong>init</strong></p>"),
    ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ("# A\n## B ##x\n#no", "<h3>A</h3><h4>B ##x</h4><p>#no</p>"),
    ("- a\n- b\n  - c\n    - d\n- e", "<ul><li>a</li><li>b<ul><li>c<ul><li>d</li></ul></li></ul></li><li>e</li></ul>"),
    ("3. a\n   text\n\n   more\n4. b", "<ol><li><p>a<br>text</p><p>more</p></li><li>b</li></ol>"),
    ("1. a\n\t- b", "<ol><li>a<ul><li>b</li></ul></li></ol>"),
    ("text\n- a\n2. no", "<p>text</p><ul><li>a</li></ul><ol><li>no</li></ol>"),
    ("> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("`a*b` ``c`d`` `open", "<p><code>a*b</code> <code>c`d</code> `open</p>"),
    ("*a `b` c ` d", "<p>*a <code>b</code> c ` d</p>"),
    ("**in `**code**` it**", "<p><strong>in <code>**code**</code> it</strong></p>"),
    ("$a_1*b*c_2$ costs $5 or $6, \\(x_1*y_1*z\\), $$\nm*n*o\n$$",
     "<p>$a_1*b*c_2$ costs $5 or $6, \\(x_1*y_1*z\\), $$\nm*n*o\n$$</p>"),
    ("\\*no\\* \\# `\\`", "<p>*no* # <code>\\</code></p>"),
    ("a | b\n--|:-:\n1 | `x` \\| 2\n3",
     "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x</code> | 2</td></tr>"
     "<tr><td>3</td><td></td></tr></tbody></table></div>"),
    ("Look:\n| a |\n|---|\n| 1 |",
     "<p>Look:</p><div><table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table></div>"),
    ("[x](https://e.org/a_(b)) https://e.org/c_d.", "<p><a>x</a> <a>https://e.org/c_d</a>.</p>"),
    ("[x](/v1) [y] ![i](https://e.org/i.png)", "<p><span>x</span> [y] <a>i</a></p>"),
    ("```c\nint *a;\n\n# b\n```\nafter",
     "<div><div><span>c</span><button>Copy</button></div><pre><code>int *a;\n\n# b</code></pre></div><p>after</p>"),
    ("- a\n  ```\n  x\n    y\n  ```\n- b",
     "<ul><li>a<div><div><span></span><button>Copy</button></div><pre><code>x\n  y</code></pre></div></li>"
     "<li>b</li></ul>"),
]


# ------------------------------------------------------------------------------------------------ the browser


def new_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     f"--user-data-dir={DIRECTORY}/chromium"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)


class Page:
    """The browser, with what the cases have in common. Elements are named by CSS selectors."""

    def __init__(self, driver):
        self.driver = driver
        self.stub = None

    def cdp(self, command, **values):
        return self.driver.execute_cdp_cmd(command, values)

    def js(self, script, *values):
        return self.driver.execute_script(script, *values)

    def fresh(self, address=OPEN, answers=(), width=1280, height=800, phone=False, dark=False, still=False):
        """The page as a new visitor sees it, with these answers of the stub."""
        self.driver.get("about:blank")
        for origin in (OPEN, KEYED):
            self.cdp("Storage.clearDataForOrigin", origin=origin, storageTypes="all")
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.cdp("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])
        self.answers(answers)
        self.driver.get_log("browser")
        self.driver.get(address + "/")
        self.ready()

    def answers(self, answers):
        """What the stub says from the next loading of the page on."""
        if self.stub:
            self.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=self.stub)
        source = STUB.replace("ANSWERS", json.dumps(list(answers)))
        self.stub = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]

    def ready(self):
        self.until(lambda: self.text("#empty-model") != "Looking for the model…", "the page has started")

    def reload(self):
        self.driver.refresh()
        self.ready()

    def until(self, condition, what, seconds=20):
        end = time.time() + seconds
        while not condition():
            if time.time() > end:
                raise AssertionError(f"not within {seconds} s: {what}")
            time.sleep(0.03)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """Its text, hidden or not; "" if there is none."""
        return self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def shown(self, selector):
        return any(e.is_displayed() for e in self.all(selector))

    def click(self, selector):
        self.until(lambda: self.shown(selector), f"{selector} is shown")
        self.one(selector).click()

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self):
        return self.js("""const e = document.activeElement;
            return e.id || e.name || e.getAttribute('aria-label') || e.textContent""")

    def say(self, text):
        self.one("#question").send_keys(text)
        self.click("#send")

    def wait_answer(self):
        self.until(lambda: not self.shown("#stop"), "the answer is over", 60)

    def ask(self, text):
        self.say(text)
        self.until(lambda: self.shown("#stop") or self.all(".answer .actions"), "the answer begins")
        self.wait_answer()

    def answer(self):
        """The text of the last answer."""
        return self.js("return [...document.querySelectorAll('.answer .text')].at(-1)?.textContent ?? ''")

    def asked(self):
        return self.js("return asked")

    def count(self, selector):
        return len(self.all(selector))


def content(*parts):
    return [{"delta": {"content": part}} for part in parts]


def done(reason="stop"):
    return [{"delta": {}, "finish_reason": reason}]


def said(*parts, **more):
    """A whole answer of the stub."""
    return {"chunks": content(*parts) + done(), **more}


def same(found, expected):
    assert found == expected, f"\n  found    {found!r}\n  expected {expected!r}"


# ------------------------------------------------------------------------------------------------ cases

CASES = []


def case(name):
    def add(function):
        CASES.append((name, function))
        return function
    return add


@case("the model answers an example, and the text comes in pieces")
def answers_an_example(page):
    page.fresh()
    page.js("""window.grown = 0;
        new MutationObserver(() => { window.grown++; }).observe(document.getElementById('log'),
            {subtree: true, childList: true, characterData: true});""")
    assert "nano" in page.text("#empty-model")
    page.click(".example")
    page.until(lambda: page.count(".answer .actions") == 1, "the answer is over", 60)
    same(page.text(".bubble"), page.text(".example"))
    assert len(page.answer()) > 20, page.answer()
    assert page.js("return grown") > 3, "the answer came at once"
    assert "token" in page.text(".figures")
    assert page.text("#fill").endswith("of 4,096 tokens"), page.text("#fill")


@case("an answer can be stopped, and what came of it stays")
def can_be_stopped(page):
    page.fresh(answers=[{"chunks": content("one ", "two "), "end": "never"}, said("three")])
    page.say("Count.")
    page.until(lambda: "two" in page.answer(), "two words came")
    page.click("#stop")
    page.wait_answer()
    same(page.answer(), "one two")
    same(page.text(".remark"), "Stopped.")
    page.ask("Go on.")
    same([m["role"] for m in page.asked()[1]["messages"]], ["user", "assistant", "user"])


@case("thinking is open while it runs and folded afterwards, with its duration")
def thinking_folds(page):
    thoughts = [{"delta": {"reasoning_content": t}} for t in ("First ", "this, ", "then <b>that</b>.")]
    page.fresh(answers=[{"chunks": thoughts, "end": "never"},
                        {"chunks": thoughts + content("Done.") + done(), "every": 300}])
    page.js("const s = document.getElementById('thinking'); s.value = 'high'; s.dispatchEvent(new Event('change'))")
    page.say("Think.")
    page.until(lambda: page.text(".thought") == "First this, then <b>that</b>.", "the thoughts are shown")
    assert page.shown(".thought") and page.text("summary").startswith("Thinking for")
    page.click("#stop")
    page.wait_answer()
    page.click(".answer.last .for-last")
    page.wait_answer()
    same(page.answer(), "Done.")
    assert not page.shown(".thought") and page.text("summary").startswith("Thought for"), page.text("summary")
    page.click("summary")
    assert page.shown(".thought")
    request = page.asked()[0]
    same((request["thinking"], request["reasoning_effort"]), ({"type": "enabled"}, "high"))


def call_answer():
    part = lambda **f: {"delta": {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": f}]}}
    parts = [part(name="get_weather", arguments=""), part(arguments='{"city": "Re'), part(arguments='ykjavik"}')]
    return {"chunks": parts + done("tool_calls")}


@case("a tool call is shown, its result asked for and sent")
def tool_calls(page):
    tools = '[{"type": "function", "function": {"name": "get_weather"}}]'
    page.fresh(answers=[call_answer(), said("It is cold.")])
    page.click("#settings-open")
    page.one("#settings [name=tools]").send_keys('[{"type": "x"}]')
    page.click("#settings [type=submit]")
    assert "Tool 1 needs" in page.text("#tools-problem") and page.shown("#settings")
    page.one("#settings [name=tools]").clear()
    page.one("#settings [name=tools]").send_keys(tools)
    page.click("#settings [type=submit]")
    page.ask("How is the weather?")
    same(page.asked()[0]["tools"], json.loads(tools))
    same(page.text(".call .code-head code"), "get_weather")
    same(page.text(".call pre"), '{\n  "city": "Reykjavik"\n}')
    page.click(".calls .main-button")
    same(len(page.asked()), 1)  # without a result nothing is sent
    same(page.js("return document.activeElement === document.querySelector('.call textarea')"), True)
    page.one(".call textarea").send_keys("4 degrees")
    page.click(".calls .main-button")
    page.until(lambda: page.answer() == "It is cold.", "the model went on")
    same(page.asked()[1]["messages"][1:], [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "type": "function", "function": {
            "name": "get_weather", "arguments": '{"city": "Reykjavik"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees"}])
    page.reload()
    page.until(lambda: page.text(".result pre") == "4 degrees", "the result is kept")
    same(page.count(".call textarea"), 0)


@case("conversations survive a reload, also in the middle of an answer")
def survives_reload(page):
    page.fresh(answers=[said("A whole answer."), {"chunks": content("Half an "), "end": "never"}])
    page.ask("First.")
    page.say("Second.")
    page.until(lambda: "Half" in page.answer(), "the answer begins")
    time.sleep(1)
    page.reload()
    page.until(lambda: page.count(".message") == 4, "all messages are there")
    same([e.text for e in page.all(".bubble")], ["First.", "Second."])
    same(page.answer(), "Half an")
    assert page.text(".remark").startswith("Interrupted")
    same(page.text("#list a"), "First.")
    assert page.shown(".answer.last .for-last"), "it can be asked for again"


@case("conversations can be renamed, deleted, and brought back")
def rename_delete(page):
    page.fresh(answers=[said("Yes.")])
    page.ask("One?")
    page.click("#new")
    page.ask("Two?")
    same([e.text for e in page.all("#list a")], ["Two?", "One?"])
    page.js("document.querySelector('#list li:last-child [aria-label^=Rename]').click()")
    page.press(Keys.CONTROL, "a")
    page.press("Another name", Keys.ENTER)
    page.until(lambda: "Another name" in page.text("#list"), "it is renamed")
    page.js("document.querySelector('#list li:first-child [aria-label^=Delete]').click()")
    page.until(lambda: page.count("#list li") == 1 and page.count(".message") == 0, "it is deleted")
    page.click("#toast button")
    page.until(lambda: page.count("#list li") == 2, "it is back")
    page.reload()
    same(sorted(e.text for e in page.all("#list a")), ["Another name", "Two?"])


@case("conversations can be exported and imported; broken files are refused with a sentence")
def export_import(page):
    page.fresh(answers=[said("Yes."), call_answer()])
    page.ask("One?")
    page.ask("Two?")
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=DIRECTORY)
    before = set(os.listdir(DIRECTORY))
    page.click("#export")
    names = lambda: [n for n in os.listdir(DIRECTORY) if n not in before and n.endswith(".json")]
    page.until(names, "the file is there")
    path = os.path.join(DIRECTORY, names()[0])
    with open(path, encoding="utf-8") as file:
        exported = json.load(file)
    same([m["role"] for m in exported["conversations"][0]["messages"]], ["user", "assistant", "user", "assistant"])
    page.fresh()
    page.one("#import-file").send_keys(path)
    page.until(lambda: page.count("#list li") == 1, "it is in the list")
    page.click("#list a")
    page.until(lambda: page.count(".message") == 4 and page.shown(".call textarea"), "its messages are shown")
    page.one("#import-file").send_keys(path)
    page.until(lambda: "already" in page.text("#toast"), "nothing is there twice")
    exported["conversations"][0]["messages"][1]["content"] = 5
    broken = os.path.join(DIRECTORY, "broken.json")
    with open(broken, "w", encoding="utf-8") as file:
        json.dump(exported, file)
    page.one("#import-file").send_keys(broken)
    page.until(lambda: "conversations[0].messages[1]" in page.text("#toast"), "the fault is named")
    same(page.count("#list li"), 1)


@case("nothing is wider than a phone of 360 pixels")
def phone_width(page):
    page.fresh(answers=[said(WIDE), call_answer()], width=360, height=740, phone=True)
    fits = lambda: page.js("""return [...document.querySelectorAll(
            'body, main, #scroll, .sheet, dialog[open], .message, .text, .call')]
        .every((e) => e.scrollWidth <= e.clientWidth) && document.documentElement.scrollWidth <= 360""")
    assert fits(), "empty"
    page.ask("W" * 200)
    assert fits(), "wide content"
    page.ask("Call.")
    assert fits(), "a tool call"
    page.click("#side-open")
    page.until(lambda: page.shown("#list a"), "the list comes")
    same(page.js("return document.getElementById('page').inert"), True)
    page.click("#side-close")
    page.until(lambda: not page.shown("#list a"), "the list goes")
    page.click("#settings-open")
    assert fits(), "settings"
    page.click("#settings [type=submit]")
    page.click("#to-server")
    page.until(lambda: page.shown(".tile"), "the server is shown")
    assert fits(), "server"
    small = page.js("""return [...document.querySelectorAll('header button, header a, #composer button')]
        .filter((e) => e.offsetHeight > 0 && e.offsetHeight < 36).map((e) => e.id)""")
    same(small, [])


@case("hostile text of a model is inert, and nothing outside is asked for")
def hostile_text(page):
    page.fresh(answers=[said(HOSTILE), {"chunks": [{"delta": {"reasoning_content": HOSTILE}}] + content("x") + done()}])
    page.ask("<img src=x onerror='window.pwned = true'>")
    page.ask("Again.")
    time.sleep(0.3)
    same(page.js("return pwned"), False)
    same(page.js("""return [...document.querySelectorAll('#log *')].filter((e) =>
        /^(script|img|iframe|style|object|embed|form|base|meta|link)$/i.test(e.tagName) ||
        [...e.attributes].some((a) => a.name.startsWith('on'))).length"""), 0)
    same(page.js("return [...document.querySelectorAll('.text a')].map((a) => a.href)"),
         ["https://example.org/", "https://example.org/pixel.png", "mailto:a@b.c", "https://example.org/"])
    same(page.js("return [...document.querySelectorAll('.text a')].every((a) => a.relList.contains('noopener'))"), True)
    for part in ("<script>window.pwned = true</script>", "<iframe src=", "</code></pre><script>", "<b onmouseover="):
        assert part in page.text(".text"), f"the text lacks {part}"
    outside = page.js("return performance.getEntries().map((e) => e.name).filter((n) => /^[a-z]+:/.test(n) && "
                      "!n.startsWith(location.origin))")
    same(outside, [])
    same(page.js("return violations"), [])
    loud = [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]
    same(loud, [])


@case("Markdown becomes what it says")
def markdown(page):
    page.fresh()
    for source, expected in MARKDOWN:
        same((source, render(page, [source])), (source, expected))


@case("Markdown that grows letter by letter ends as it would at once")
def markdown_grows(page):
    page.fresh()
    for source in [s for s, _ in MARKDOWN] + [HOSTILE, "\n\n".join(s for s, _ in MARKDOWN)]:
        same(render(page, [source[:i] for i in range(1, len(source) + 1)]), render(page, [source]))


@case("no text takes the renderer long")
def markdown_is_quick(page):
    page.fresh()
    for unit in ("[", "*a ", "**a ", "_", "`", "``a`", "$a ", "> ", "- ", "  - a\n", "|", "<", "![", "\\(", "~~a ",
                 "[a](", "*a_", "* ", "#", "a|\n-|\n"):
        start = time.time()
        render(page, [unit * 30000])
        assert time.time() - start < 4, f"{unit!r} took {time.time() - start:.1f} s"


def render(page, texts):
    """What a view becomes that is given one text after the other, without attributes."""
    return page.driver.execute_async_script("""
        const [texts, ready] = arguments;
        import('/markdown.js').then(({ MarkdownView }) => {
            const node = document.createElement('div'), view = new MarkdownView(node);
            for (const text of texts)
                view.set(text);
            for (const e of node.querySelectorAll('*'))
                while (e.attributes.length)
                    e.removeAttribute(e.attributes[0].name);
            ready(node.innerHTML.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&'));
        }, (error) => ready(String(error)));""", texts)


@case("everything can be done with the keyboard")
def keyboard(page):
    page.fresh(answers=[said("Yes."), {"chunks": content("And "), "end": "never"}, said("Edited.")])
    same(page.focused(), "question")
    page.press("Two", Keys.SHIFT + Keys.ENTER)
    page.press("lines", Keys.ENTER)
    page.until(lambda: page.answer() == "Yes.", "Enter sends")
    same(page.text(".bubble"), "Two\nlines")
    page.press("More", Keys.ENTER)
    page.until(lambda: "And" in page.answer(), "the answer begins")
    page.press(Keys.ESCAPE)
    page.until(lambda: page.text(".remark") == "Stopped.", "Escape stops")
    page.js("document.querySelector('.skip').focus()")
    names = [page.focused()]
    for _ in range(40):
        page.press(Keys.TAB)
        names.append(page.focused())
        if names[-1] == "send":
            break
    for name in ("Skip to the question", "new", "export", "to-server", "settings-open", "Copy", "Edit", "Regenerate",
                 "question", "thinking", "send"):
        assert name in names, f"Tab does not reach {name}: {names}"
    page.js("[...document.querySelectorAll('.last .for-last')].find((e) => e.textContent === 'Edit').focus()")
    page.press(Keys.ENTER)
    page.press("!", Keys.ESCAPE)
    same([page.focused(), page.count(".edit")], ["Edit", 0])
    page.press(Keys.ENTER)
    page.press(" please", Keys.CONTROL + Keys.ENTER)
    page.until(lambda: page.answer() == "Edited.", "the edited question is sent")
    same([e.text for e in page.all(".bubble")], ["Two\nlines", "More please"])
    page.js("document.getElementById('settings-open').focus()")
    page.press(Keys.ENTER)
    assert page.shown("#settings")
    page.press(Keys.ESCAPE)
    same([page.shown("#settings"), page.focused()], [False, "settings-open"])


@case("controls have names, finished answers are announced, growing ones are not")
def accessibility(page):
    page.fresh(answers=[call_answer(), said("Announced.")])
    page.ask("Call.")
    page.one(".call textarea").send_keys("x")
    page.click(".calls .main-button")
    page.until(lambda: page.text("#announcer") == "Answer: Announced.", "it is announced")
    same(page.js("return document.getElementById('announcer').ariaLive"), "polite")
    same(page.js("return document.querySelectorAll('#log [aria-live]').length"), 0)
    page.click("#settings-open")
    nodes = page.cdp("Accessibility.getFullAXTree")["nodes"]
    controls = ("button", "textbox", "link", "combobox", "checkbox", "radio", "spinbutton", "dialog", "table", "region")
    bare = [n["role"]["value"] for n in nodes if not n.get("ignored") and n["role"]["value"] in controls
            and not n.get("name", {}).get("value", "").strip() and n["role"]["value"] != "table"]
    same(bare, [])
    page.fresh(dark=True, still=True)
    same(page.js("return getComputedStyle(document.body).backgroundColor"), "rgb(15, 21, 23)")
    same(page.js("return getComputedStyle(document.querySelector('#list')).animationName"), "none")
    page.fresh()
    same(page.js("return getComputedStyle(document.body).backgroundColor"), "rgb(251, 251, 250)")


@case("a key that the server wants is asked for, and kept only if that is wished")
def asks_for_key(page):
    def give(key, keep):
        page.until(lambda: page.shown("#ask-key"), "the key is asked for")
        page.one("#ask-key [name=key]").send_keys(key)
        if keep != page.one("#ask-key [name=remember]").is_selected():
            page.click("#ask-key [name=remember]")
        page.click("#ask-key [value=ok]")

    page.driver.get("about:blank")
    page.fresh(KEYED)
    give("wrong-key", False)
    empty = lambda: page.shown("#ask-key") and page.one("#ask-key [name=key]").get_attribute("value") == ""
    page.until(empty, "it is asked for again")
    give(KEY, False)
    page.until(lambda: "nano" in page.text("#empty-model"), "the key is right")
    page.ask("Tell me a story.")
    assert page.answer(), page.text(".problem")
    assert KEY not in page.js("return JSON.stringify({...localStorage, ...sessionStorage})")
    page.driver.refresh()
    give(KEY, True)
    assert KEY in page.js("return JSON.stringify({...localStorage})")
    page.reload()
    page.ask("Tell me another.")
    same(page.shown("#ask-key"), False)
    assert page.answer(), page.text(".problem")


@case("a busy server is asked again after the time it names")
def busy(page):
    refusal = {"status": 429, "headers": {"Retry-After": "1"}, "body": {"error": {"message": "too many requests wait"}}}
    page.fresh(answers=[refusal, refusal, said("Now.")])
    page.say("Hello.")
    page.until(lambda: "too many requests wait. Trying again in" in page.text(".waiting"), "the wait is told")
    page.wait_answer()
    same([page.answer(), len(page.asked())], ["Now.", 3])


@case("errors are told in plain words, nothing is lost, and it can be tried again")
def errors(page):
    wrong = {"status": 400, "body": {"error": {"message": "temperature is not between 0 and 2"}}}
    page.fresh(answers=[wrong, {"gone": True}, {"chunks": content("Half"), "end": "cut"},
                        {"chunks": content("Part"), "end": {"error": {"message": "the model ran out of pages"}}},
                        said("Whole.")])
    page.ask("Hello.")
    for sentence, kept in (
            ("temperature is not between 0 and 2.", ""), ("The server does not answer.", ""),
            ("The connection ended before the answer did.", "Half"), ("the model ran out of pages.", "Part")):
        page.until(lambda s=sentence: page.text(".end .problem").startswith(s), sentence)
        same(page.answer(), kept)
        page.js("document.querySelector('.answer.last .for-last').click()")
    page.until(lambda: page.answer() == "Whole.", "the last try succeeds")
    same([page.text(".bubble"), page.count(".message")], ["Hello.", 2])
    same(page.asked()[4]["messages"], [{"role": "user", "content": "Hello."}])


@case("the last question can be edited, and the last answer asked for again")
def edit_regenerate(page):
    page.fresh(answers=[said("1"), said("2"), said("3"), said("4")])
    page.ask("a")
    page.ask("b")
    page.js("document.querySelector('.answer.last .for-last').click()")
    page.until(lambda: page.answer() == "3", "another answer comes")
    same([m["content"] for m in page.asked()[2]["messages"]], ["a", "1", "b"])
    page.js("document.querySelector('.question.last .for-last').click()")
    page.one(".edit textarea").send_keys("c")
    page.click(".edit [type=submit]")
    page.until(lambda: page.answer() == "4", "the edited question is answered")
    same([m["content"] for m in page.asked()[3]["messages"]], ["a", "1", "bc"])


@case("answers and code can be copied, with and without the browser's clipboard")
def copies(page):
    page.fresh(answers=[said("Look:\n\n```\nint x;\n```\n")])
    page.cdp("Browser.grantPermissions", origin=OPEN, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.ask("Code.")
    clipboard = lambda: page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    page.click(".code .quiet")
    page.until(lambda: page.text(".code .quiet") == "Copied", "it says so")
    same(clipboard(), "int x;")
    page.js("Object.defineProperty(navigator, 'clipboard', {configurable: true, value: undefined})")
    page.click(".answer .actions .quiet")
    page.until(lambda: page.text(".answer .actions .quiet") == "Copied", "it says so")
    page.js("delete navigator.clipboard")
    same(clipboard(), "Look:\n\n```\nint x;\n```\n")


@case("two windows show the same conversations")
def two_windows(page):
    page.fresh(answers=[said("Yes.")])
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("window")
    page.driver.get(OPEN + "/")
    page.ready()
    second = page.driver.current_window_handle
    page.driver.switch_to.window(first)
    page.ask("Do both see this?")
    page.driver.switch_to.window(second)
    page.until(lambda: page.text("#list a") == "Do both see this?", "the other window lists it")
    page.click("#list a")
    page.until(lambda: page.answer() == "Yes.", "and shows it")
    page.driver.close()
    page.driver.switch_to.window(first)


@case("settings reach the request and outlive a reload")
def settings(page):
    page.fresh(answers=[said("1")])
    page.click("#settings-open")
    for name, value in (("temperature", "0.5"), ("top_p", "0.9"), ("max_tokens", "7"), ("system", "Be brief.")):
        page.one(f"#settings [name={name}]").send_keys(value)
    page.click("#settings [type=submit]")
    page.reload()
    page.ask("a")
    request = page.asked()[0]
    same({n: request.get(n) for n in ("model", "stream", "temperature", "top_p", "max_tokens", "thinking", "messages")},
         {"model": "nano", "stream": True, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7,
          "thinking": {"type": "disabled"},
          "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]})


@case("a full storage is told")
def storage_full(page):
    page.fresh(answers=[said("1")])
    page.js("window.put = IDBObjectStore.prototype.put; IDBObjectStore.prototype.put = () => { "
            "throw new DOMException('full', 'QuotaExceededError'); }")
    page.ask("a")
    page.until(lambda: "storage is full" in page.text("#notice"), "it is told")
    same(page.answer(), "1")
    page.js("IDBObjectStore.prototype.put = window.put")
    page.ask("b")
    page.until(lambda: not page.shown("#notice"), "the word is taken back")


@case("the end stays in sight until the reader scrolls up")
def sticky_scroll(page):
    page.fresh(answers=[said(*[f"Line {i}\n\n" for i in range(100)], every=25)])
    page.say("Count.")
    left = lambda: page.js("""const s = document.getElementById('scroll');
        return s.scrollHeight - s.clientHeight - s.scrollTop""")
    tall = lambda: page.js("return document.getElementById('scroll').scrollTop") > 300
    page.until(tall, "the text is long")
    assert left() < 30, left()
    page.js("const s = document.getElementById('scroll'); s.scrollTop -= 200")
    time.sleep(0.5)
    assert left() > 150, left()
    page.until(lambda: page.shown("#to-end"), "the way back is offered")
    page.click("#to-end")
    time.sleep(0.3)
    assert left() < 30, left()
    page.wait_answer()


@case("in a long conversation only what grows is touched")
def long_conversation(page):
    page.fresh()
    turns = [{"role": role, "content": f"{role} {i} **bold** and more"}
             for i in range(200) for role in ("user", "assistant")]
    path = os.path.join(DIRECTORY, "long.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"format": "sonde-conversations", "version": 1,
                   "conversations": [{"id": "long", "title": "Long", "messages": turns}]}, file)
    page.one("#import-file").send_keys(path)
    page.until(lambda: page.count("#list li") == 1, "it is in the list")
    page.answers([said(*[f"Paragraph {i} of *many*.\n\n" for i in range(400)], every=1)])
    page.reload()
    page.click("#list a")
    page.until(lambda: page.count(".message") == 400, "all are shown")
    page.say("More.")
    page.until(lambda: page.count(".message") == 402 and "Paragraph 3" in page.answer(), "the answer grows")
    page.js("""const last = document.querySelector('#log').lastChild;
        window.outside = 0; window.inside = 0;
        new MutationObserver((all) => { for (const m of all)
            if (last.contains(m.target)) inside += m.addedNodes.length; else outside += m.addedNodes.length;
        }).observe(document.getElementById('log'), {subtree: true, childList: true, characterData: true});""")
    page.wait_answer()
    same(page.js("return document.querySelector('#log').lastChild.querySelectorAll('.text p').length"), 400)
    outside, inside = page.js("return [outside, inside]")
    assert outside == 0 and inside < 5000, (outside, inside)


@case("the view of the server follows it, and rests while the page is hidden")
def server_view(page):
    page.fresh()
    page.click("#to-server")
    page.until(lambda: page.shown(".tile"), "figures are shown")
    assert page.text("#server-state").startswith("nano on sonde"), page.text("#server-state")
    written = lambda: page.js(
        "return Number([...document.querySelectorAll('.tile strong')].at(-1).textContent.replaceAll(',', ''))")
    before = written()
    page.js("""fetch('/v1/chat/completions', {method: 'POST', headers: {'Content-Type': 'application/json'},
        body: JSON.stringify({model: 'nano', max_tokens: 8, thinking: {type: 'disabled'},
                              messages: [{role: 'user', content: 'Tell me a story.'}]})})""")
    page.until(lambda: written() > before, "the count grows")
    page.until(lambda: "L" in (page.one("#chart-generated .line").get_attribute("d") or ""), "the chart is drawn")
    polls = lambda: page.js(
        "return performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/status')).length")
    hide = ("Object.defineProperty(document, 'hidden', {configurable: true, value: arguments[0]});"
            "document.dispatchEvent(new Event('visibilitychange'))")
    page.js(hide, True)
    time.sleep(0.3)
    count = polls()
    time.sleep(2.2)
    same(polls(), count)
    page.js(hide, False)
    page.until(lambda: polls() > count, "it goes on")
    page.click("#to-chat")
    time.sleep(0.3)
    count = polls()
    time.sleep(1.5)
    same(polls(), count)


# ------------------------------------------------------------------------------------------------ TAP


def main():
    cases = [c for c in CASES if not ONLY or c[1].__name__ in ONLY]
    failures = 0
    driver = new_browser()
    page = Page(driver)
    try:
        for number, (name, run) in enumerate(cases, 1):
            try:
                run(page)
                print(f"ok {number} - {name}", flush=True)
            except Exception:  # whatever it was, the other cases still count
                failures += 1
                print(f"not ok {number} - {name}")
                print("\n".join("# " + line for line in traceback.format_exc().splitlines()[-12:]), flush=True)
    finally:
        driver.quit()
    print(f"1..{len(cases)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
