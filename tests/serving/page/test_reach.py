"""The page by keyboard, by screen reader, on a phone, and with a token."""

import threading

import pytest
from page_steps import answered, ask, picture
from playwright.sync_api import expect


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
    heard = threading.Event()
    server.pieces = [
        "A first sentence that is long enough to be read out loud by itself. ",
        "And",
        heard,
        " more",
    ]
    page.keyboard.press("Enter")
    expect(page.locator("#live p")).to_have_count(1)
    heard.set()
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
