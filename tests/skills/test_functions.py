"""The skills as functions: the demo model is asked about its example pictures."""

from pathlib import Path

import pytest

from mlx_lfm2vl import Engine, InputError, load
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.skills import functions as skills
from mlx_lfm2vl.skills.prompts import Prompt

PICTURES = Path(__file__).parents[2] / "examples" / "images"
SHAPES, WORD = PICTURES / "shapes.png", PICTURES / "word.png"


@pytest.fixture(scope="module")
def demo() -> Engine:
    return Engine(*load("demo", dtype="float32"), store=PrefixStore())


def test_a_caption_describes_the_picture(demo):
    caption = skills.caption(demo, "demo", length="alt")
    assert caption.text.startswith("A small red circle, a small orange triangle and the text")
    assert caption.length == "alt"


def test_text_is_read_and_boxes_are_in_pixels(demo):
    assert skills.ocr(demo, WORD).text == "YXOA"
    boxes = skills.detect(demo, SHAPES).boxes
    assert [box.label for box in boxes] == ["green ring", "blue star", "red square"]
    assert skills.keywords(demo, SHAPES).keywords == ("green ring", "blue star", "red square")
    (star,) = skills.detect(demo, SHAPES, "the star").boxes
    assert star.label == "blue star"
    assert all(abs(a - b) <= 3 for a, b in zip(star.pixels, boxes[1].pixels, strict=True))
    point = skills.point(demo, SHAPES, "star")
    assert (point.x, point.y) == star.center


@pytest.mark.parametrize(
    ("picture", "labels", "choice"),
    [(WORD, ["small", "large"], None), ("demo", ["star", "circle", "ring"], "circle")],
)
def test_labels_have_probabilities(demo, picture, labels, choice):
    found = skills.classify(demo, picture, labels)
    assert list(found.probabilities) == labels
    assert choice in (None, found.choice)


def test_pictures_are_compared_and_asked_about(demo):
    pictures = [PICTURES / "before.png", PICTURES / "after.png"]
    assert "in the first image" in skills.compare(demo, pictures).text
    assert skills.ask(demo, WORD, "What color is the text?").text == "The text is purple."


def test_prompts_and_settings_of_ones_own_are_used(demo):
    prompt = Prompt("What color is the text?", max_tokens=20)
    assert skills.caption(demo, WORD, prompt=prompt).text == "The text is purple."
    assert skills.caption(demo, WORD, prompt=prompt, max_tokens=2).text == "The text"
    with pytest.raises(InputError, match="only LFM2.5-VL-3B"):
        skills.layout(demo, WORD, kind="450m")
