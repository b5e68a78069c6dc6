"""The question on the page: its pictures, its text, the skills and the settings."""

import base64
import io
from typing import Any

import pytest
from page_steps import answered, ask, picture
from pictures import make_picture
from playwright.sync_api import expect

from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.http.bodies import BodyLimits
from mlx_lfm2vl.serving.page.routes import FOLDER


def document(pages: int) -> bytes:
    """A PDF of some pictures."""
    first, *rest = [make_picture(84, 59, seed) for seed in range(pages)]
    file = io.BytesIO()
    first.save(file, "pdf", save_all=True, append_images=rest)
    return file.getvalue()


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


@pytest.mark.slow
def test_pages_of_a_pdf_and_heic_are_shown_through_the_server(page, server):
    pdf = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": document(2)}
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


def test_every_file_that_cannot_be_read_is_named(page):
    files = [
        {"name": f"{name}.jpg", "mimeType": "image/jpeg", "buffer": b"nothing"}
        for name in "abcdefg"
    ]
    page.set_input_files("#files", [*files, picture()])
    expect(page.locator("#notice")).to_contain_text("And 2 more files with problems.")
    told = page.locator("#notice").inner_text().splitlines()
    assert [line.partition(": ")[0] for line in told[:-1]] == [f"{name}.jpg" for name in "abcde"]
    expect(page.locator("#attachments .name")).to_have_text(["ship.png"])


def test_a_picture_can_be_asked_about_when_its_file_is_gone(page, server, tmp_path):
    file = tmp_path / "screenshot.png"
    file.write_bytes(picture()["buffer"])
    page.set_input_files("#files", file)
    expect(page.locator("#cost")).to_contain_text("token")
    file.unlink()
    ask(page, "What is this?")
    answered(page)
    image, _ = server.asked[0]["messages"][0]["content"]
    data = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(data) == picture()["buffer"]


def test_a_question_that_is_sent_early_waits_for_its_pictures(page, server):
    held: list[Any] = []
    page.route("**/v1/plan", lambda route: held.append(route))
    page.set_input_files("#files", [picture()])
    page.fill("#question", "What is this?")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#cost")).to_have_text("Reading…")
    assert server.asked == []
    held[0].continue_()
    answered(page)
    page.unroute("**/v1/plan")
    (asked,) = server.asked
    assert len(asked["messages"][0]["content"]) == 2


def test_a_page_whose_server_was_away_goes_on_when_it_is_back(page, server):
    page.route("**/v1/*", lambda route: route.abort())
    page.set_input_files("#files", [picture()])
    expect(page.locator("#notice")).to_have_text(
        "ship.png: The server cannot be reached. Is it still running?"
    )
    page.unroute("**/v1/*")
    models = '{"data": [{"id": "demo"}, {"id": "third"}]}'
    page.route("**/v1/models", lambda route: route.fulfill(body=models))
    page.evaluate("dispatchEvent(new Event('focus'))")  # the reader comes back to the page
    expect(page.locator("#cost")).to_contain_text("token")
    assert page.locator("#model option").all_inner_texts() == ["demo", "third"]
    page.unroute("**/v1/models")
    ask(page, "What is this?")
    answered(page)
    assert len(server.asked[0]["messages"][0]["content"]) == 2


def test_images_that_a_request_cannot_hold_are_not_sent(page, server):
    text = (FOLDER / "limits.js").read_text()
    assert f"MOST_BYTES_SENT = {BodyLimits().one * 3 // 4 // 2**20} * MEGABYTE" in text
    page.set_input_files("#files", [picture()])
    expect(page.locator("#cost")).to_contain_text("token")
    # A file of this size would take seconds to hand over.
    page.evaluate("Object.defineProperty(Blob.prototype, 'size', { value: 48.1 * 2 ** 20 })")
    page.fill("#question", "What is this?")
    page.keyboard.press("Enter")
    told = "49 MB in all, but the server takes 48 MB"
    expect(page.locator("#notice")).to_contain_text(f"{told}. Send fewer.")
    page.click("[data-mode=caption]")
    expect(page.locator("#cost")).to_contain_text(told)
    page.set_input_files("#files", [picture("again.png")])
    expect(page.locator("#notice")).to_have_text(f"again.png: {told}.")
    assert server.asked == []


@pytest.mark.slow
def test_too_many_images_are_told_when_they_are_added(page, server):
    server.limits = ImageLimits(max_images=3)
    page.reload()
    expect(page.locator("[data-mode=compare]")).to_be_visible()
    scan = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": document(4)}
    page.set_input_files("#files", [picture(), scan, picture("b.png"), picture("c.png")])
    names = page.locator("#attachments .name")
    expect(names).to_have_text(["ship.png", "scan.pdf, page 1", "scan.pdf, page 2"])
    expect(page.locator("#notice")).to_have_text(
        "2 more files left out. The server takes 3 images at a time. "
        "scan.pdf: 2 more pages left out. The server takes 3 images at a time."
    )
    ask(page, "What is this?")
    answered(page)
    page.set_input_files("#files", [picture()])
    told = "4 images in all, but the server takes 3"
    expect(page.locator("#cost.problem")).to_have_text(told)
    page.keyboard.press("Enter")
    page.click("#send")
    expect(page.locator("#notice")).to_have_text(
        f"{told}. Send fewer, or begin a new conversation."
    )
    page.click("[data-mode=caption]")  # which is about the new image alone
    expect(page.locator("#cost:not(.problem)")).to_contain_text("tokens")
    assert len(server.asked) == 1


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
            const copied = new DataTransfer(); // as the Finder does it
            copied.items.add(new File([bytes], "file.png", { type: "image/png" }));
            copied.items.add("file.png", "text/plain");
            paste(copied);
            const drag = (kind) =>
                dispatchEvent(new DragEvent(kind, { dataTransfer: given, cancelable: true }));
            drag("dragover");
            drag("drop");
            document.getElementById("sure").showModal();
            const isOpened = drag("drop");
            document.getElementById("sure").close();
            if (isOpened) throw new Error("the browser would show the file instead of the page");
        }""",
        base64.b64encode(picture()["buffer"]).decode(),
    )
    expect(page.locator("#attachments .name")).to_have_text(
        ["pasted.png", "file.png", "pasted.png"]
    )
    expect(page.locator("#drop")).to_be_hidden()


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


def test_a_schema_is_checked_where_it_is_written_and_sent_when_it_is_right(page, server):
    page.click("#settings-open")
    page.fill("#schema-text", '{\n  "type": "object",\n}')
    expect(page.locator("#schema-state")).to_contain_text("line 3 column 1")
    page.fill("#schema-text", '{"type": "text"}')
    expect(page.locator("#schema-state")).to_contain_text('There is no type "text"')
    page.fill("#question", "Read it.")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("has a mistake. Correct or clear it.")
    assert server.asked == []
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
