"""What a reader of the page does, in the tests of the page."""

import io
from typing import Any

from pictures import make_picture
from playwright.sync_api import Page, expect

expect.set_options(timeout=10_000)


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
