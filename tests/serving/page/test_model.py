"""The page, the server and the demo model together, in headless Chromium."""

from pathlib import Path

import pytest
from page_server import served
from playwright.sync_api import expect

import mlx_lfm2vl
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App, Settings
from mlx_lfm2vl.serving.http.fronts import all_fronts
from mlx_lfm2vl.serving.served import served_model

EXAMPLE = Path(mlx_lfm2vl.__file__).parent / "demo" / "example.png"


@pytest.fixture
def url():
    core = Core([served_model("demo")])
    terms = Terms(core.model)

    def make_app(port: int) -> App:
        return App(core, terms, Access("127.0.0.1", port), all_fronts(), Settings())

    with served(make_app) as url:
        yield url
    core.stop()


@pytest.mark.slow
def test_a_picture_is_described_and_what_is_in_it_is_found(browser, url):
    page = browser.new_page()
    page.goto(url)
    page.set_input_files("#files", EXAMPLE)
    page.fill("#question", "Describe the picture.")
    page.keyboard.press("Enter")
    answers = page.locator(".answer")
    described = (
        'A small red circle, a small orange triangle and the text "TREE" on a white background.'
    )
    expect(answers.nth(0).locator(".content")).to_have_text(described, timeout=60_000)
    expect(answers.nth(0).locator(".stats")).to_contain_text("23 tokens written")
    page.click("[data-mode=detect]")
    page.fill("#question", "circle")
    page.keyboard.press("Enter")
    expect(answers.nth(1).locator(".box .label")).to_have_text(["red circle"], timeout=60_000)
    page.click("[data-mode=classify]")
    page.fill("#question", "red, blue")
    page.keyboard.press("Enter")
    expect(answers.nth(2).locator(".chances dt")).to_have_count(2, timeout=60_000)
    page.click("[data-mode=ask]")
    page.fill("#question", "Which color is the circle?")
    page.keyboard.press("Enter")
    expect(answers.nth(3).locator(".content")).to_have_text("The circle is red.", timeout=60_000)
    expect(answers.nth(3).locator(".stats")).to_contain_text("cached")
    page.close()
