"""The page by keyboard, by screen reader, on a phone, and with a token."""

import threading

import pytest
from page_steps import answered, ask, picture
from playwright.sync_api import expect

CONTROLS = {
    "button",
    "textbox",
    "searchbox",
    "combobox",
    "spinbutton",
    "link",
    "navigation",
    "region",
    "group",
}


def test_the_page_is_usable_by_keyboard_and_by_screen_reader(page, server):
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


def test_every_control_has_a_name_and_room_for_a_finger_and_headings_have_an_order(page, server):
    server.pieces = ["# Title\n\nText"]
    ask(page, "Hi", picture())
    answered(page)
    page.set_input_files("#files", [picture()])
    page.click("[data-mode=caption]")
    page.click("#history-open")
    page.click("#settings-open")
    expect(page.locator("#history-list li").first).to_be_visible()
    session = page.context.new_cdp_session(page)
    names = [
        node["name"]["value"]
        for node in session.send("Accessibility.getFullAXTree")["nodes"]
        if "name" in node and node["role"]["value"] in CONTROLS
    ]
    assert "" not in names
    assert {"Ask again", "Remove ship.png", "Send", "Seed", "Search conversations"} <= set(names)
    visible = "all => all.filter((one) => one.checkVisibility())"
    headings = page.eval_on_selector_all(
        "h1, h2, h3, h4", f"all => ({visible})(all).map((one) => one.localName)"
    )
    assert headings == ["h2", "h1", "h2", "h2", "h3", "h2", "h3"]
    small = page.eval_on_selector_all(
        "button, input, select, textarea",
        f"""all => ({visible})(all).filter((one) => one.getBoundingClientRect().height < 24)
            .map((one) => one.outerHTML)""",
    )
    assert small == []


def test_the_focus_is_never_lost(page):
    place = "document.activeElement.id || document.activeElement.className"
    ask(page, "One")
    answered(page)
    page.click("[data-mode=caption]")  # it takes no text
    page.click("#new")
    assert page.evaluate(place) == "send"
    page.set_input_files("#files", [picture()])
    page.locator("#attachments .quiet").press("Enter")
    assert page.evaluate(place) == "send"
    page.click("#history-open")
    assert page.evaluate(place) == "history-close"
    page.locator("#history-list .open").first.press("Enter")
    expect(page.locator("#history-list [aria-current]")).to_have_count(1)
    assert page.evaluate(place) == "open"
    page.locator("#history-list [aria-label^=Delete]").first.press("Enter")
    page.keyboard.press("Enter")  # Cancel
    assert page.evaluate(place) == "quiet"
    count = page.locator("#history-list li").count()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Delete
    expect(page.locator("#history-list li")).to_have_count(count - 1)
    assert page.evaluate(place) == "history-close"
    page.keyboard.press("Escape")
    assert page.evaluate(place) == "history-open"


def test_a_panel_covers_a_narrow_page_until_it_is_closed_or_the_page_is_wide(page):
    wide = page.viewport_size
    is_covered = "document.getElementById('main').inert"
    page.set_viewport_size({"width": 700, "height": 800})
    page.click("#settings-open")
    assert page.evaluate(is_covered)
    page.mouse.click(100, 400)
    assert page.locator("#settings").is_hidden()
    assert not page.evaluate(is_covered)
    page.click("#history-open")
    page.set_viewport_size(wide)
    page.wait_for_timeout(100)
    assert not page.evaluate(is_covered)


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
    page.set_input_files("#files", [picture(f"{name}.png") for name in "abcd"])
    expect(page.locator("#attachments li")).to_have_count(4)
    page.fill("#question", "word " * 200)
    page.set_viewport_size({"width": 550, "height": 340})  # on its side, or at 200 %
    send = page.locator("#send").bounding_box()
    assert send["y"] + send["height"] < 340
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#settings-open")
    assert page.locator("#main").evaluate("node => node.inert")
    assert page.locator("#settings").bounding_box()["width"] <= 360
    page.close()


@pytest.mark.slow
def test_a_token_is_asked_for_and_used(browser, server):
    server.token = "secret"
    page = browser.new_page()
    page.goto(server.url)
    first, again = "the file of --token-file", "does not accept"
    # Quotation marks of a text program are letters that no header holds.
    for token, reason in (("“secret”", first), ("wrong", again), ("secret", again)):
        expect(page.locator("#token-reason")).to_contain_text(reason)
        page.fill("#token-text", token)
        page.keyboard.press("Enter")
    expect(page.locator("#skills button")).to_have_count(8)
    ask(page, "Hi")
    expect(page.locator(".content")).to_have_text("Hello.")
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage})")
    page.close()
