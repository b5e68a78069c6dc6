"""Modules of the page by themselves, in headless Chromium: Markdown, dialogs, and the store."""

from pathlib import Path
from typing import Any

import pytest

from mlx_lfm2vl.serving.page.routes import FOLDER


def module_page(browser: Any) -> Any:
    """An empty page that can import the modules of the real one, with a history of its own."""
    page = browser.new_page()

    def serve(route: Any) -> None:
        name = Path(route.request.url).name
        script = (FOLDER / name).read_text() if name.endswith(".js") else ""
        kind = "text/javascript" if script else "text/html"
        route.fulfill(body=script or "<p></p>", content_type=kind)

    page.route("http://page.localhost/**", serve)
    page.goto("http://page.localhost/")
    return page


@pytest.fixture(scope="module")
def modules(browser):
    page = module_page(browser)
    yield page
    page.close()


@pytest.fixture(scope="module")
def render(modules):
    """Show Markdown, one text after the other in the same place; return the markup at the end."""

    def shown(*texts: str, seconds: float = 60) -> str:
        markup, milliseconds = modules.evaluate(
            """async (texts) => {
                const { showMarkdown } = await import("/markdown.js");
                const [node, begin] = [document.createElement("div"), performance.now()];
                for (const text of texts) showMarkdown(node, text);
                return [node.innerHTML, performance.now() - begin];
            }""",
            texts,
        )
        assert milliseconds < 1000 * seconds
        return markup

    return shown


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("# One\n### Two ##", "<h3>One</h3><h5>Two</h5>"),
        (
            "a *b* **c _d_** ~~e~~ `f*g*`",
            "<p>a <em>b</em> <strong>c <em>d</em></strong> <del>e</del> <code>f*g*</code></p>",
        ),
        (
            "***both*** **a *b*** snake_case_name 2 * 3 * 4 \\*no\\*",
            "<p><strong><em>both</em></strong> <strong>a <em>b</em></strong> "
            "snake_case_name 2 * 3 * 4 *no*</p>",
        ),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        (
            "- a\n  - b\n    - c\n- d",
            "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>",
        ),
        ("3. a\n\n4. b\n- c", '<ol start="3"><li>a</li><li>b</li></ol><ul><li>c</li></ul>'),
        ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
        ("a\n\n---\nb", "<p>a</p><hr><p>b</p>"),
        ("<b>&amp;", "<p>&lt;b&gt;&amp;amp;</p>"),
        ("**open and [not](a link", "<p>**open and [not](a link</p>"),
    ],
)
def test_markdown_becomes_elements(render, text, markup):
    assert render(text) == markup


def test_tables_and_code_become_elements(render):
    table = render("| a | b |\n|:-:|--:|\n| 1 \\| 2 | `x` |\n| 3 |")
    assert '<th class="center">a</th>' in table
    assert '<td class="center">1 | 2</td><td class="right"><code>x</code></td>' in table
    assert table.count("<td") == 4
    code = render("```html\n<b>*x*\n\n| y |\n```\nafter")
    assert "<code>&lt;b&gt;*x*\n\n| y |</code></pre><p>after</p>" in code


def test_a_text_that_grows_looks_as_it_does_at_once(render):
    text = "# A\n\nb **c**\n\n- d\n  - e\n\n| f | g |\n|---|---|\n| h | i |\n\n```\nj\n```\nk"
    pieces = [text[: end + 1] for end in range(len(text))]
    assert render(*pieces) == render(text)


def test_lists_and_code_that_grow_keep_what_was_read(modules):
    kept = modules.evaluate(
        """async () => {
            const { showMarkdown } = await import("/markdown.js");
            const node = document.createElement("div");
            const item = () => node.querySelector("li");
            const code = () => node.querySelector("code").firstChild;
            const isKept = (path, ...texts) => {
                const found = texts.map((text) => {
                    showMarkdown(node, text);
                    return path();
                });
                return found[0] === found[1];
            };
            return [
                isKept(item, "- a\\n- b", "- a\\n- bc\\n- d"),
                isKept(code, "```\\na", "```\\nab\\n~~~"),
                isKept(code, "```a\\nb", "```ab\\nb"),
            ];
        }"""
    )
    assert kept == [True, True, False]


def test_a_question_that_is_asked_again_at_once_gets_its_own_answer(modules):
    answers = modules.evaluate(
        """async () => {
            const { isSure, startDialogs } = await import("/dialogs.js");
            document.body.innerHTML = `
                <dialog id="token"></dialog><button id="token-cancel"></button>
                <dialog id="sure"><p id="sure-text"></p></dialog>`;
            startDialogs();
            const dialog = document.getElementById("sure");
            const first = isSure("One?");
            dialog.close("");
            const second = isSure("Two?"); // before the event of the first closing
            await new Promise((resolve) => setTimeout(resolve, 50));
            dialog.close("yes");
            return [await first, await second];
        }"""
    )
    assert answers == [False, True]


def test_no_text_takes_long(render):
    pieces = [
        "*a ",
        "**b",
        "[",
        "`",
        "_a",
        "> ",
        "- ",
        "|",
        " ",
        "```\n",
        "[a](",
        "\\",
        "- \n  ",
        "#",
    ]
    for piece in pieces:
        shown = render(f"a{piece * (50_000 // len(piece))}", seconds=5)
        assert shown.startswith(("<p>", "<blockquote>"))


def test_the_history_gives_up_the_oldest_conversations_beyond_its_cap(modules):
    kept = modules.evaluate(
        """async () => {
            const { saveConversation, listConversations, deleteAll, MOST_BYTES } =
                await import("/store.js");
            const saved = [];
            for (const [index, part] of [0.5, 0.4, 0.2, 1.1, 0.1].entries()) {
                const image = { key: `${index}`, blob: { size: part * MOST_BYTES } };
                const turns = [{ images: [image] }];
                const conversation = { id: `${index}`, title: "", updated: index, turns };
                saved.push(await saveConversation(conversation));
            }
            const ids = (await listConversations()).map((each) => each.id);
            await deleteAll();
            return [saved, ids, await listConversations()];
        }"""
    )
    assert kept == [[True, True, True, False, True], ["4", "2", "1"], []]


def test_a_picture_is_written_once_and_deleted_with_the_last_conversation_that_has_it(modules):
    found = modules.evaluate(
        """async () => {
            const { saveConversation, loadConversation, deleteConversation, deleteAll } =
                await import("/store.js");
            const { result, within } = await import("/database.js");
            const kept = (name) => within("readonly", (stores) => result(stores[name].getAll()));
            const written = [];
            const put = IDBObjectStore.prototype.put;
            IDBObjectStore.prototype.put = function (value) {
                if (this.name === "pictures") written.push(value.blob.size);
                return put.call(this, value);
            };
            const image = (text) => ({ name: "a.png", blob: new Blob([text]) });
            const turn = (...images) => ({ text: "", images, answer: { text: "" } });
            const one = { id: "a", title: "", updated: 0 };
            one.turns = [turn(image("one"), image("four"))];
            await saveConversation(one);
            one.turns.push(turn(image("one")));
            await saveConversation(one);
            const other = { id: "b", title: "", updated: 0, turns: [turn(image("four"))] };
            await saveConversation(other);
            const { turns } = await loadConversation("a");
            const texts = turns.flatMap(({ images }) => images.map(({ blob }) => blob.text()));
            const blobs = (await kept("conversations"))
                .flatMap(({ turns }) => turns.flatMap(({ images }) => images))
                .filter(({ blob }) => blob);
            await deleteConversation("a");
            const left = (await kept("pictures")).map(({ blob }) => blob.size);
            other.turns = [turn(image("three"))]; // its question was changed
            await saveConversation(other);
            const changed = (await kept("pictures")).map(({ blob }) => blob.size);
            await deleteAll();
            IDBObjectStore.prototype.put = put;
            const last = await kept("pictures");
            return [written, await Promise.all(texts), blobs, left, changed, last];
        }"""
    )
    assert found == [[3, 4, 5], ["one", "four", "one"], [], [4], [5], []]


def test_what_an_earlier_page_kept_opens_when_its_tab_is_closed_and_is_kept_anew(browser):
    page = module_page(browser)
    found = page.evaluate(
        """async () => {
            const request = indexedDB.open("mlx_lfm2vl", 1);
            const names = ["summaries", "conversations"];
            request.onupgradeneeded = () => names.forEach((name) =>
                request.result.createObjectStore(name, { keyPath: "id" }));
            await new Promise((resolve) => { request.onsuccess = resolve; });
            const transaction = request.result.transaction(names, "readwrite");
            const summary = { id: "a", title: "Old", updated: 1, bytes: 3 };
            const turn = { text: "What?", images: [{ blob: new Blob(["old"]) }], answer: {} };
            transaction.objectStore("summaries").put(summary);
            transaction.objectStore("conversations").put({ ...summary, turns: [turn] });
            await new Promise((resolve) => { transaction.oncomplete = resolve; });
            const { saveConversation, loadConversation } = await import("/store.js");
            const { result, within } = await import("/database.js");
            const barred = [await loadConversation("a"), await loadConversation("a")];
            request.result.close();
            let opened;
            while (!opened) {
                await new Promise((resolve) => { setTimeout(resolve, 10); });
                opened = await loadConversation("a");
            }
            const isKept = await saveConversation(opened);
            const pictures = await within("readonly", (stores) => result(stores.pictures.getAll()));
            const again = await loadConversation("a");
            const text = await again.turns[0].images[0].blob.text();
            return [barred, opened.title, isKept, pictures.length, again.title, text];
        }"""
    )
    page.close()
    assert found == [[None, None], "Old", True, 1, "Old", "old"]


def test_a_browser_without_room_keeps_what_was_there(browser):
    page = module_page(browser)
    session = page.context.new_cdp_session(page)
    save = """async ([id, bytes]) => {
        const { saveConversation, loadConversation } = await import("/store.js");
        const { result, within } = await import("/database.js");
        const image = { blob: new Blob([crypto.getRandomValues(new Uint8Array(bytes))]) };
        const turns = [{ text: id, images: [image], answer: { text: "" } }];
        const isKept = await saveConversation({ id, title: id, updated: 0, turns });
        const pictures = await within("readonly", (stores) => result(stores.pictures.count()));
        const shown = await loadConversation("first");
        return [isKept, pictures, shown.turns[0].images[0].blob.size];
    }"""
    quota = {"origin": "http://page.localhost", "quotaSize": 40_000}
    session.send("Storage.overrideQuotaForOrigin", quota)
    assert page.evaluate(save, ["first", 1000]) == [True, 1, 1000]
    assert page.evaluate(save, ["second", 60_000]) == [False, 1, 1000]
    page.close()


def test_conversations_are_found_by_their_words_and_keep_the_name_they_are_given(modules):
    found = modules.evaluate(
        """async () => {
            const { saveConversation, loadConversation, listConversations, renameConversation,
                nameOf, deleteAll } = await import("/store.js");
            const turn = (text, answer, name) =>
                ({ text, answer: { text: answer }, images: name ? [{ name, key: name,
                    blob: { size: 1 } }] : [] });
            const cafe = { id: "a", title: "What is it?", updated: 0,
                turns: [turn("What is it?", "A Caf\u00e9 in Paris.", "IMG_7.heic")] };
            await saveConversation(cafe);
            const turns = [turn("Read", "Paris")];
            await saveConversation({ id: "b", title: "Read", updated: 0, turns });
            const ids = async (words) => (await listConversations(words)).map(({ id }) => id);
            const searched = [await ids("paris"), await ids("CAFE par"), await ids("img_7 read"),
                await ids(" ")];
            await renameConversation("a", "Holidays");
            cafe.turns.push(turn("And this?", ""));
            const isOne = await saveConversation(cafe);
            const names = (await listConversations()).map(nameOf);
            const { name } = await loadConversation("a");
            const renamed = await ids("holidays this");
            await renameConversation("a", "");
            const before = (await listConversations()).map(nameOf);
            await deleteAll();
            return { searched, isOne, names, name, renamed, before };
        }"""
    )
    assert found == {
        "searched": [["b", "a"], ["a"], [], ["b", "a"]],
        "isOne": True,
        "names": ["Holidays", "Read"],
        "name": "Holidays",
        "renamed": ["a"],
        "before": ["What is it?", "Read"],
    }


def test_what_is_kept_is_the_conversation_as_it_was_when_it_was_saved(modules):
    found = modules.evaluate(
        """async () => {
            const { saveConversation, saveAnswer, loadConversation, renameConversation,
                deleteConversation, deleteAll, MOST_BYTES } = await import("/store.js");
            const turn = (text, ...images) => ({ text, images, answer: { text: `${text}!` } });
            const one = { id: "a", title: "One", name: "", updated: 0 };
            one.turns = [turn("one", { blob: new Blob(["picture"]) })];
            const saving = saveConversation(one);
            await null; // its pictures are read
            Object.assign(one, { title: "", turns: [] }); // the reader changes the question
            await saving;
            const { title, turns } = await loadConversation("a");
            Object.assign(one, { title, turns });
            await saveConversation(one);
            one.turns.push(turn("two", { key: "huge", blob: { size: 1.1 * MOST_BYTES } }));
            const isKept = await saveConversation(one);
            await saveAnswer(one); // of the second question, which is not kept
            const kept = await loadConversation("a");
            await renameConversation("a", "Harbor");
            one.turns.pop();
            await saveConversation(one);
            await deleteConversation("a"); // as when another tab gives it up
            await saveConversation(one);
            const { name } = await loadConversation("a");
            await deleteAll();
            return [title, isKept, kept.turns.map(({ text, answer }) => text + answer.text), name];
        }"""
    )
    assert found == ["One", False, ["oneone!"], "Harbor"]


def test_a_conversation_that_two_tabs_go_on_with_becomes_two(modules):
    kept = modules.evaluate(
        """async () => {
            const { saveConversation, saveAnswer, loadConversation, listConversations, deleteAll } =
                await import("/store.js");
            const asked = (text) => ({ images: [], text, answer: { text: "" } });
            const one = { id: "a", title: "", updated: 0, turns: [asked("one")] };
            saveConversation(one); // what is loaded waits for it
            const other = await loadConversation("a");
            one.turns.push(asked("two"));
            await saveConversation(one);
            other.turns.push(asked("three"));
            other.turns[1].answer.text = "half";
            await saveAnswer(other); // what the first tab has kept stays as it is
            await saveConversation(other);
            other.turns[1].answer.text = "half of";
            await saveAnswer(other);
            const found = [];
            for (const { id } of await listConversations()) {
                const { turns } = await loadConversation(id);
                found.push([id === "a", ...turns.map(({ text, answer }) => text + answer.text)]);
            }
            await deleteAll();
            return found;
        }"""
    )
    assert kept == [[False, "one", "threehalf of"], [True, "one", "two"]]
