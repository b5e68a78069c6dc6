"""Asking on the page, against a server whose answers are written in the test."""

import base64
import threading

import pytest
from page_server import progress
from page_steps import answered, ask, picture
from playwright.sync_api import expect

LONG = 60.0  # seconds that a scripted answer waits, and no test does


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
    assert page.title() == "Answering… · Tell me. · demo"
    page.keyboard.press("Escape")
    answer = answered(page)
    assert page.title() == "Tell me. · demo"
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
    ask(page, "Tell us.")
    answered(page)
    assert page.title() == "Tell us. · demo"


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


def test_who_scrolls_up_is_left_there_while_the_answer_grows(page, server):
    scrolled = threading.Event()
    server.pieces = ["A line.\n\n" * 100, scrolled, "Another line.\n\n" * 20]
    ask(page, "Tell me.")
    top = "document.getElementById('turns').scrollTop"
    expect(page.locator(".content p")).to_have_count(100)
    followed = page.evaluate(top)
    page.mouse.move(500, 300)
    page.mouse.wheel(0, -60)
    page.wait_for_timeout(300)
    read = page.evaluate(top)
    assert followed - 100 < read < followed
    scrolled.set()
    answered(page)
    expect(page.locator(".content p")).to_have_count(120)
    assert page.evaluate(top) == read


def test_enter_that_ends_a_composition_or_comes_twice_sends_nothing(page, server):
    server.pieces = [LONG]
    page.fill("#question", "\u65e5\u672c")
    composed = """key => document.getElementById("question").dispatchEvent(
        new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...key }))"""
    page.evaluate(composed, {"isComposing": True})
    page.evaluate(composed, {"keyCode": 229})  # as Safari sends it
    assert page.locator(".turn").count() == 0
    page.keyboard.press("Enter")
    page.fill("#question", "More")
    page.keyboard.press("Enter")
    page.evaluate(composed, {"key": "Escape", "isComposing": True})  # which stops nothing
    page.wait_for_timeout(100)
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape")
    answered(page)
    assert (page.locator(".turn").count(), page.input_value("#question")) == (1, "More")
