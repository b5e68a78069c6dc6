"""The history of the page, which the browser keeps."""

import pytest
from page_steps import answered, ask, picture
from playwright.sync_api import expect

LONG = 60.0  # seconds that a scripted answer waits, and no test does
FULL = """value: {
    getItem() { return "{" },
    setItem() { throw new DOMException('', 'QuotaExceededError') },
    open() { throw new DOMException('', 'QuotaExceededError') },
}"""


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
    page.click("#new")
    page.click("#history-list .open")
    expect(page.locator(".bubble")).to_have_text(["First question", "Second question"])
    loaded = page.locator(".pictures img")
    expect(loaded).to_have_js_property("naturalWidth", 400)
    ask(page, "Third question")
    answered(page, 2)
    assert len(server.asked[2]["messages"]) == 5
    page.get_by_role("button", name="Delete “First question”").click()
    page.click("#sure .danger")
    expect(page.locator("#history-list li")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "Another question")
    answered(page)
    expect(page.locator("#history-list li")).to_have_count(1)
    page.click("#history-clear")
    page.click("#sure .danger")
    expect(page.locator("#history-list li")).to_have_count(0)
    page.close()


def test_an_answer_that_a_reload_interrupts_is_kept_and_can_be_asked_again(page, server):
    server.pieces = ["Half of", LONG]
    ask(page, "Tell me.")
    expect(page.locator(".content")).to_have_text("Half of")
    page.wait_for_timeout(1200)  # what comes is kept once a second
    page.reload()
    answer = answered(page)
    expect(answer.locator(".content")).to_have_text("Half of")
    expect(answer.locator(".hint")).to_have_text("The page was left while this was written.")
    server.pieces = ["All of it."]
    answer.get_by_role("button", name="Ask again").click()
    expect(page.locator(".content")).to_have_text("All of it.")
    answered(page)
    assert server.asked[0]["messages"] == server.asked[1]["messages"]


def test_the_back_button_returns_to_the_conversation_before(page):
    # Reading the picture takes so long that the reader leaves before the conversation is kept.
    page.evaluate(
        """() => {
            const digest = crypto.subtle.digest.bind(crypto.subtle);
            crypto.subtle.digest = async (...given) => {
                await new Promise((resolve) => { setTimeout(resolve, 500); });
                return digest(...given);
            };
        }"""
    )
    ask(page, "One", picture())
    answered(page)
    page.fill("#question", "Two")
    page.click("#new")
    page.keyboard.press("Enter")
    answered(page)
    for step, shown in ((page.go_back, ["One"]), (page.go_forward, ["Two"])):
        step()
        expect(page.locator(".bubble")).to_have_text(shown)
    ask(page, "Three", picture())
    answered(page)
    page.go_back()
    page.go_forward()  # before the conversation before is loaded, which waits for what is kept
    page.wait_for_timeout(700)
    expect(page.locator(".bubble")).to_have_text(["Two", "Three"])


def test_conversations_are_searched_and_renamed_by_keyboard(page):
    focused = "document.activeElement.ariaLabel ?? document.activeElement.id"
    for question in ("How many ships?", "Which\ncolor?"):
        page.click("#new")
        ask(page, question)
        answered(page)
    page.click("#history-open")
    names, hint = page.locator("#history-list .name"), page.locator("#history-hint")
    page.keyboard.press("Tab")
    page.keyboard.type("hello SHIPS")
    expect(names).to_have_text(["How many ships?"])
    expect(hint).to_have_text("1 conversation found.")
    expect(page.locator("#history-clear")).to_be_hidden()  # it would delete more than is shown
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "Name of “How many ships?”"
    page.keyboard.type("Harbor")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["Harbor"])
    assert page.evaluate(focused) == "Rename “Harbor”"
    page.keyboard.press("Enter")
    page.keyboard.type("Nothing")
    page.keyboard.press("Escape")
    expect(names).to_have_text(["Harbor"])
    page.fill("#history-search", "color")
    page.get_by_role("button", name="Rename “Which color?”").press("Enter")
    page.keyboard.press("Enter")  # without a change
    expect(names).to_have_text(["Which color?"])
    page.focus("#history-search")
    page.keyboard.type("x")
    expect(hint).to_have_text("Nothing found.")
    page.keyboard.press("Escape")
    expect(page.locator("#history-list .name", has_text="Which color?")).to_be_visible()
    assert page.title() == "Which color? · demo"
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "Conversations"
    expect(page.locator("#history")).to_be_hidden()


@pytest.mark.slow
def test_two_tabs_show_one_history(browser, server):
    context = browser.new_context()
    one, other = context.new_page(), context.new_page()
    for page in (one, other):
        page.goto(server.url)
        page.click("#history-open")
    ask(one, "Hello")
    answered(one)
    other.click("#history-list .open")
    expect(other.locator(".bubble")).to_have_text("Hello")
    one.get_by_role("button", name="Rename “Hello”").click()
    one.keyboard.type("Greeting")
    one.keyboard.press("Enter")
    expect(other.locator("#history-list .name")).to_have_text("Greeting")
    expect(other).to_have_title("Greeting · demo")
    one.get_by_role("button", name="Delete “Greeting”").click()
    one.click("#sure .danger")
    expect(other.locator("#history-list li")).to_have_count(0)
    expect(other.locator(".turn")).to_have_count(0)
    context.close()


@pytest.mark.parametrize("barred", ["get() { throw new DOMException('', 'SecurityError') }", FULL])
def test_a_browser_that_keeps_nothing_shows_answers_and_says_so_once(browser, server, barred):
    page = browser.new_page()
    page.add_init_script(
        f"""for (const name of ["localStorage", "sessionStorage", "indexedDB"])
            Object.defineProperty(window, name, {{ {barred} }});"""
    )
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    ask(page, "One")
    answered(page)
    expect(page.locator("#notice")).to_contain_text("not kept in the history")
    page.evaluate("document.getElementById('notice').textContent = ''")
    ask(page, "Two")
    answered(page, 1)
    page.click("#history-open")
    expect(page.locator("#history-hint")).to_have_text("This browser keeps nothing for this page.")
    page.click("#settings-open")
    page.fill("#set-seed", "3")
    expect(page.locator("#notice")).to_be_empty()
    page.close()
    assert problems == []
