"""A browser, and the page in it with a server whose answers a test writes."""

import shutil

import pytest
from page_server import PageServer, running


@pytest.fixture(scope="package")
def browser():
    """Headless Chromium. It ends with the package, for its event loop is in the way of others."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def shared_server():
    with running(PageServer()) as server:
        yield server


@pytest.fixture
def server(shared_server):
    fresh = PageServer(url=shared_server.url)
    vars(shared_server).update(vars(fresh))
    return shared_server


@pytest.fixture(scope="package")
def tab(browser):
    return browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-GB")


@pytest.fixture
def page(tab, server):
    """The page, freshly opened, with the usual settings; the history of other tests is kept."""
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(server.url)
    tab.wait_for_selector("[data-mode=compare]", timeout=10_000)
    yield tab
    tab.evaluate("localStorage.clear()")
    tab.goto("about:blank")  # or the next test would return to the conversation of this one
    assert problems == []
