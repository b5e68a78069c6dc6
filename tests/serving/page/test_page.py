"""The page in headless Chromium, against a server whose answers are written in the test."""

import base64
import io
from typing import Any

import pytest
from page_server import progress
from pictures import make_picture
from playwright.sync_api import Page, expect

expect.set_options(timeout=10_000)
LONG = 60.0  # seconds that a scripted answer waits, and no test does


def picture(name: str = "ship.png", height: int = 300, width: int = 400, form: str = "png") -> Any:
    """A file to choose in the browser."""
    file = io.BytesIO()
    make_picture(height, width, 1).save(file, form)
    return {"name": name, "mimeType": f"image/{form}", "buffer": file.getvalue()}


def ask(page: Page, text: str, *files: Any) -> None:
    if files:
        page.set_input_files("#files", list(files))
        expect(page.locator("#cost")).to_contain_text("token")
    page.fill("#question", text)
    page.keyboard.press("Enter")


def answered(page: Page, turn: int = -1) -> Any:
    """The answer of a turn, when it is whole."""
    answer = page.locator(".answer").nth(turn)
    expect(answer).to_have_attribute("aria-busy", "false")
    return answer


def test_a_picture_stays_in_its_turn_and_its_cost_is_shown(page, server):
    server.pieces = ["Two **sh", "ips**."]
    ask(page, "What is this?", picture())
    answer = answered(page)
    expect(answer.locator("strong")).to_have_text("ships")
    expect(answer.locator(".stats")).to_contain_text("21 tokens written · 300 read, 256 cached")
    ask(page, "And now?")
    answered(page, 1)
    _, second = server.asked
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user"]
    image, text = second["messages"][0]["content"]
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert (data, text["text"]) == (picture()["buffer"], "What is this?")
    assert second["messages"][1]["content"] == "Two **ships**."
    assert second["messages"][2]["content"] == [{"type": "text", "text": "And now?"}]
    assert second["stream_options"] == {"include_usage": True}


@pytest.mark.slow
def test_the_tiles_and_tokens_of_each_picture_are_shown_before_it_is_sent(page):
    page.set_input_files("#files", [picture(), picture("wide.jpg", 600, 1200, "jpeg")])
    facts = page.locator("#attachments .facts")
    expect(facts.nth(0)).to_contain_text("tokens")
    expect(facts.nth(1)).to_contain_text("2 × 1 tiles + thumbnail")
    before = page.locator("#cost").inner_text()
    page.click("#settings-open")
    page.select_option("#set-do_image_splitting", "false")
    expect(facts.nth(1)).to_contain_text("one view")
    assert page.locator("#cost").inner_text() != before
    page.click("[aria-label='Show wide.jpg']")
    expect(page.locator("#large-facts")).to_contain_text("1,200 × 600 pixels · one view")
    page.keyboard.press("Escape")
    page.click("[aria-label='Remove wide.jpg']")
    expect(facts).to_have_count(1)


def test_what_a_model_or_a_file_says_stays_text(page, server):
    server.pieces = [
        "<img src=x onerror=alert(1)><script>alert(1)</script>\n\n"
        "[run](javascript:alert(1)) [data](data:text/html,x) ![see](https://evil.test/a.png) "
        "[bank.test](https://evil.test/b)"
    ]
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    ask(page, "<b>Hi</b>", picture("<img src=x onerror=alert(1)>.png"))
    answer = answered(page)
    text = answer.locator(".content").inner_text()
    assert "<script>alert(1)</script>" in text
    assert answer.locator(".content :is(img, script)").count() == 0
    link = answer.locator("a")
    assert link.evaluate("node => [node.href, node.rel, node.textContent]") == [
        "https://evil.test/b",
        "noopener noreferrer nofollow",
        "bank.test (evil.test)",
    ]
    assert page.locator(".bubble").inner_text() == "<b>Hi</b>"
    assert page.locator("[onerror]").count() == 0
    assert all(url.startswith((server.url, "blob:", "data:")) for url in requests)


def test_the_browser_itself_refuses_code_and_addresses_that_are_not_the_page_s(page):
    page.evaluate("document.title = 'safe'")
    violated = page.evaluate(
        """() => new Promise((resolve) => {
            const violated = [];
            addEventListener("securitypolicyviolation", (event) => {
                violated.push(event.effectiveDirective);
                if (violated.length === 4) resolve(violated);
            });
            const script = document.createElement("script");
            try { script.textContent = "document.title = 'run'"; } catch {}
            document.body.append(script);
            try { document.body.innerHTML = "<b>x</b>"; } catch {}
            document.body.append(Object.assign(new Image(), { src: "https://evil.test/a.png" }));
            fetch("https://evil.test/").catch(() => {});
        })"""
    )
    assert page.title() == "safe"
    assert {"img-src", "connect-src", "require-trusted-types-for"} <= set(violated)


def test_escape_stops_an_answer_and_it_can_be_asked_again(page, server):
    server.pieces = ["Half of", LONG]
    ask(page, "Tell me.")
    expect(page.locator(".content")).to_have_text("Half of")
    assert page.locator("#send").get_attribute("aria-label") == "Stop"
    page.keyboard.press("Escape")
    answer = answered(page)
    expect(answer.locator(".hint")).to_have_text("Stopped.")
    assert server.left.wait(10)
    server.pieces = ["All of it."]
    answer.get_by_role("button", name="Ask again").click()
    expect(page.locator(".content")).to_have_text("All of it.")
    assert page.locator(".turn").count() == 1
    assert server.asked[0]["messages"] == server.asked[1]["messages"]
    answer.get_by_role("button", name="Change the question").click()
    assert page.input_value("#question") == "Tell me."
    expect(page.locator("#welcome")).to_be_visible()


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (RuntimeError("the model has failed"), "The model has failed."),
        (None, "The answer broke off: the connection was closed."),
    ],
)
def test_half_an_answer_is_never_shown_as_a_whole_one(page, server, end, problem):
    server.pieces = ["Half of", end]
    ask(page, "Tell me.")
    answer = answered(page)
    expect(answer.locator("[role=alert]")).to_have_text(problem)
    expect(answer.locator(".content")).to_have_text("Half of")
    expect(answer.get_by_role("button", name="Ask again")).to_be_visible()


def test_the_reading_of_the_prompt_is_shown_as_it_goes(page, server):
    server.pieces = [progress("encode", 64, 1024), LONG]
    ask(page, "Tell me.")
    expect(page.locator(".status")).to_contain_text("Looking at the images · 64 of 1,024 tokens")
    expect(page.locator(".status progress")).to_have_attribute("value", "64")
    assert server.asked[0]["return_progress"] is True
    page.keyboard.press("Escape")
    answered(page)


def test_boxes_lie_where_they_are_in_the_picture(page, server):
    box = {"image": 0, "label": "<b>ship</b>", "pixels": [100, 30, 300, 150]}
    server.skills["detect"] = [{"boxes": [box, {**box, "pixels": [0, 0, 400, 300]}]}]
    page.set_input_files("#files", [picture()])
    page.click("[data-mode=detect]")
    ask(page, "ships, people")
    answered(page)
    (asked,) = server.asked
    assert (asked["target"], len(asked["images"])) == (["ships", "people"], 1)
    image = page.locator(".answer .picture img").bounding_box()
    drawn = page.locator(".answer .box").first.bounding_box()
    scale = image["width"] / 400
    expected = [image["x"] + 100 * scale, image["y"] + 30 * scale, 200 * scale, 120 * scale]
    assert [drawn[side] for side in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1)
    assert page.locator(".box .label").first.inner_text() == "<b>ship</b>"
    expect(page.locator(".boxes li").first).to_have_text("<b>ship</b> 100, 30 – 300, 150")
    # The next question is about the same picture, without adding it again.
    server.skills["point"] = [{"x": 200, "y": 90, "box": box}]
    page.click("[data-mode=point]")
    ask(page, "the ship")
    answered(page, 1)
    assert server.asked[1]["images"] == asked["images"]
    middle = page.locator(".point").bounding_box()
    image = page.locator(".answer .picture img").nth(1).bounding_box()
    assert middle["x"] == pytest.approx(image["x"] + 200 * scale, abs=1)
    assert middle["y"] == pytest.approx(image["y"] + 90 * scale, abs=1)


@pytest.mark.slow
def test_skills_say_what_they_need_and_show_typed_answers(page, server):
    page.click("[data-mode=classify]")
    page.click("#send")
    expect(page.locator("#notice")).to_have_text("Classify needs an image. Add one first.")
    page.set_input_files("#files", [picture()])
    expect(page.locator("#cost")).to_contain_text("token")
    page.click("#send")
    expect(page.locator("#notice")).to_contain_text("needs some words")
    chances = {"dog": 0.25, "cat": 0.75}
    server.skills["classify"] = [{"choice": "cat", "probabilities": chances}]
    ask(page, "cat, dog")
    assert answered(page).locator(".chances").inner_text().split() == [
        "cat",
        "75.0",
        "%",
        "dog",
        "25.0",
        "%",
    ]
    server.skills["caption"] = [{"text": "A ship.", "length": "alt"}]
    page.click("[data-mode=caption]")
    page.select_option("[name=length]", label="alt")
    page.click("#send")
    expect(answered(page, 1).locator(".content")).to_have_text("A ship.")
    assert server.asked[1]["length"] == "alt"
    page.click("[data-mode=compare]")
    page.click("#send")
    expect(page.locator("#notice")).to_have_text("Compare needs 2 images or more.")


@pytest.mark.slow
def test_a_token_is_asked_for_and_used(browser, server):
    server.token = "secret"
    page = browser.new_page()
    page.goto(server.url)
    for token, reason in (("wrong", "wants a bearer token"), ("secret", "does not accept")):
        expect(page.locator("#token-reason")).to_contain_text(reason)
        page.fill("#token-text", token)
        page.keyboard.press("Enter")
    expect(page.locator("#skills button")).to_have_count(8)
    ask(page, "Hi")
    expect(page.locator(".content")).to_have_text("Hello.")
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage})")
    page.close()


@pytest.mark.slow
def test_pages_of_a_pdf_and_heic_are_shown_through_the_server(page, server):
    first, second = make_picture(84, 59, 1), make_picture(84, 59, 2)
    document = io.BytesIO()
    first.save(document, "pdf", save_all=True, append_images=[second])
    pdf = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": document.getvalue()}
    heic = {**picture("photo.tiff", form="tiff"), "mimeType": "image/heic"}
    page.set_input_files("#files", [pdf, heic])
    names = page.locator("#attachments .name")
    expect(names).to_have_text(["scan.pdf, page 1", "scan.pdf, page 2", "photo.tiff"])
    sizes = page.eval_on_selector_all("#attachments img", "all => all.map(one => one.naturalWidth)")
    assert min(sizes) > 0
    ask(page, "What do they say?")
    answered(page)
    *images, _ = server.asked[0]["messages"][0]["content"]
    kinds = [image["image_url"]["url"].partition(";")[0] for image in images]
    assert kinds == ["data:image/png", "data:image/png", "data:image/heic"]
    broken = {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 nothing"}
    page.set_input_files("#files", [broken])
    expect(page.locator("#notice")).to_contain_text("a.pdf: ")


def test_pictures_can_be_pasted_and_dropped(page):
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            const paste = (data) => document.getElementById("question").dispatchEvent(
                new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
            paste(given);
            const table = new DataTransfer();
            table.items.add(new File([bytes], "table.png", { type: "image/png" }));
            table.items.add("1\t2", "text/plain");
            paste(table);
            for (const kind of ["dragover", "drop"])
                dispatchEvent(new DragEvent(kind, { dataTransfer: given, cancelable: true }));
        }""",
        base64.b64encode(picture()["buffer"]).decode(),
    )
    expect(page.locator("#attachments .name")).to_have_text(["pasted.png", "pasted.png"])
    expect(page.locator("#drop")).to_be_hidden()


@pytest.mark.slow
def test_the_history_is_kept_by_the_browser_until_it_is_deleted(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    page.click("#history-open")
    ask(page, "First question", picture())
    answered(page)
    ask(page, "Second question")
    answered(page, 1)
    expect(page.locator("#history-list li")).to_have_count(1)
    server.pieces = ["Hello", LONG]
    ask(page, "Third question")
    expect(page.locator(".content").nth(2)).to_have_text("Hello")
    page.reload()
    server.pieces = ["Hello again."]
    expect(page.locator("#welcome")).to_be_visible()
    page.click("#history-open")
    page.click("#history-list .open")
    expect(page.locator(".bubble")).to_have_text(
        ["First question", "Second question", "Third question"]
    )
    expect(page.locator(".hint").filter(has_text="Stopped.")).to_have_count(1)
    loaded = page.locator(".pictures img")
    expect(loaded).to_have_js_property("naturalWidth", 400)
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".content").nth(2)).to_have_text("Hello again.")
    answered(page)
    assert len(server.asked[3]["messages"]) == 5
    assert server.asked[3]["messages"] == server.asked[2]["messages"]
    page.get_by_role("button", name="Delete “First question”").click()
    expect(page.locator("#history-list li")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "Another question")
    answered(page)
    expect(page.locator("#history-list li")).to_have_count(1)
    page.click("#history-clear")
    page.click("#sure .danger")
    expect(page.locator("#history-list li")).to_have_count(0)
    page.close()


def test_a_schema_is_checked_where_it_is_written_and_sent_when_it_is_right(page, server):
    page.click("#settings-open")
    page.fill("#schema-text", '{\n  "type": "object",\n}')
    expect(page.locator("#schema-state")).to_contain_text("line 3 column 1")
    page.fill("#schema-text", '{"type": "text"}')
    expect(page.locator("#schema-state")).to_contain_text('There is no type "text"')
    page.click("#schema-example")
    expect(page.locator("#schema-state")).to_have_text("Answers will follow this schema.")
    page.fill("#set-temperature", "0.5")
    page.fill("#set-system", "Be brief.")
    page.select_option("#model", "other")
    server.pieces = ['{"title": "A", ', '"total": 2}']
    ask(page, "Read it.")
    assert answered(page).locator("pre").inner_text() == '{\n  "title": "A",\n  "total": 2\n}'
    (asked,) = server.asked
    assert (asked["model"], asked["temperature"]) == ("other", 0.5)
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["title", "total"]
    page.fill("#set-top_p", "2")
    ask(page, "Again.")
    expect(page.locator("#notice")).to_have_text("A setting is out of its range.")
    assert len(server.asked) == 1


def test_the_page_is_usable_by_keyboard_and_by_screen_reader(page, server):
    nameless = """all => all.filter((one) => !one.closest("[hidden], dialog")
        && !(one.getAttribute("aria-label") || one.labels?.length || one.innerText.trim()))
        .map((one) => one.outerHTML)"""
    assert (
        page.eval_on_selector_all("button, input:not([type=file]), select, textarea", nameless)
        == []
    )
    focused = "document.activeElement.id || document.activeElement.dataset.mode"
    assert page.evaluate(focused) == "question"
    order = []
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
        order.append(page.evaluate(focused))
    assert order == ["compare", "keywords", "classify"]
    page.focus("#question")
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#question") == "One\ntwo"
    server.pieces = [
        "A first sentence that is long enough to be read out loud by itself. ",
        "And",
        0.1,
        " more",
    ]
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator("#live p").all_inner_texts() == [
        "A first sentence that is long enough to be read out loud by itself.",
        "And more",
    ]
    page.keyboard.press("Tab")
    page.click("#settings-open")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "settings-open"


@pytest.mark.slow
def test_a_phone_shows_everything_without_scrolling_sideways(browser, server):
    page = browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True)
    page.goto(server.url)
    server.pieces = [
        f"{'W' * 200}\n\n| {' | '.join('column')} |\n|{'---|' * 6}\n\n```\n{'x' * 200}\n```\n"
    ]
    ask(page, "Show " + "m" * 100, picture("n" * 90 + ".png", 200, 900))
    answered(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") == 360
    assert page.evaluate("document.getElementById('turns').scrollWidth") <= 360
    page.click("#settings-open")
    assert page.locator("#main").evaluate("node => node.inert")
    assert page.locator("#settings").bounding_box()["width"] <= 360
    page.close()
