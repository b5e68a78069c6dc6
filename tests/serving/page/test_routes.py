"""The document of the page: whole, safe by its headers, and readable."""

import base64
import hashlib
import re
from itertools import pairwise

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mlx_lfm2vl.serving.page.routes import EXPORT, FOLDER, SCRIPT, page, page_routes

FILES = sorted(path for kind in ("html", "css", "js") for path in FOLDER.glob(f"*.{kind}"))
HTML = (FOLDER / "page.html").read_text()


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=page_routes()))


def test_the_page_is_one_document_that_only_its_own_blocks_may_run(client):
    answer = client.get("/")
    blocks = re.findall(r"<(?:script|style)[^>]*>(.*?)</(?:script|style)>", answer.text, re.DOTALL)
    policy = answer.headers["content-security-policy"]
    digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()) for block in blocks]
    assert len(blocks) == policy.count("sha256-") == 3
    assert all(f"'sha256-{digest.decode()}'" in policy for digest in digests)
    for part in ("default-src 'none'", "frame-ancestors 'none'", "trusted-types 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].startswith("text/html")


def test_the_page_refers_to_nothing_outside(client):
    text = client.get("/").text
    addresses = set(re.findall(r"(?:src|href)=\"([^\"#][^\"]*)\"|url\(([^)]+)\)", text))
    assert addresses == {("data:,", "")}
    assert not re.search(r"@import|\bimport\b\s*[({\"']|//(?!\s|www\.w3)[\w.-]+\.\w+/", text)


def test_a_page_that_the_browser_has_is_not_sent_again(client):
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


def test_scripts_import_from_those_before_them_and_all_are_in_the_page():
    names = SCRIPT.findall(HTML)
    assert sorted(names) == [path.name for path in FILES if path.suffix == ".js"]
    for index, name in enumerate(names):
        text = (FOLDER / name).read_text()
        assert set(re.findall(r'from "\./(\w+\.js)"', text)) <= set(names[:index]), name
        for imported in re.findall(r"^import \{([^}]*)\}", text, re.MULTILINE):
            for word in re.findall(r"\w+", imported):
                assert len(re.findall(rf"\b{word}\b", text)) > 1, f"{name} does not use {word}"


def test_no_two_scripts_export_the_same_name():
    text = "".join((FOLDER / name).read_text() for name in SCRIPT.findall(HTML))
    names = [found[2] for found in EXPORT.finditer(text)]
    assert len(names) == len(set(names)) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_can_turn_text_into_markup_or_grow_long(path):
    text = path.read_text()
    assert not re.search(
        r"(inner|outer)HTML|insertAdjacent|document\.write|eval\(|Function\(|style=|\bon\w+=\"",
        text,
    )
    assert len(text.splitlines()) < 400
    assert path.suffix != ".js" or max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_a_contrast_of_at_least_four_and_a_half(theme):
    style = (FOLDER / "style.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in split(style))
    color = light if theme == "light" else {**light, **dark}
    for ground in ("paper", "panel", "raised", "fill"):
        for ink in ("ink", "soft", "accent", "problem"):
            assert contrast(color[ink], color[ground]) >= 4.5, (ink, ground)
    assert contrast(color["on-accent"], color["accent"]) >= 4.5
    for ground in ("paper", "panel", "raised"):
        assert contrast(color["edge"], color[ground]) >= 3
    for mark in re.findall(r"--mark: (#\w{6})", (FOLDER / "answer.css").read_text()):
        assert contrast("#ffffff", mark) >= 4.5, mark


def split(style: str) -> tuple[str, str]:
    """The colors of the light theme, and those that the dark one changes."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 2
    return blocks[0], blocks[1]


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""
    dark, light = sorted(luminance(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[a:b], 16) / 255 for a, b in pairwise((1, 3, 5, 7))]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_is_put_together_once():
    assert page() is page()
