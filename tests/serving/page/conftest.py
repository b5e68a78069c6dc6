"""A browser, and the page in it with a server whose answers a test writes."""

import shutil

import pytest
from page_server import PageServer, running


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. It ends with the module, for its event loop is in the way of others."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def module_server():
    with running(PageServer()) as server:
        yield server


@pytest.fixture
def server(module_server):
    fresh = PageServer(url=module_server.url)
    vars(module_server).update(vars(fresh))
    return module_server


@pytest.fixture(scope="module")
def tab(browser):
    return browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-GB")


@pytest.fixture
def page(tab, server):
    """The page, freshly opened, with the usual settings; conversations of other tests are kept."""
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(server.url)
    tab.wait_for_selector("[data-mode=compare]")
    yield tab
    tab.evaluate("localStorage.clear()")
    assert problems == []
