"""Labels are weighed as whole answers, in the form of decision models."""

import json
import math
from types import SimpleNamespace

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.skills.classify import classify

COLORS = ["red", "green", "blue", "yellow", "purple", "orange", "black", "white"]
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]


@pytest.fixture(scope="module")
def demo():
    return Engine(*load("demo", dtype="float32"))


@pytest.mark.parametrize(
    ("labels", "prompt", "form", "choice"),
    [
        (COLORS, "What color is the circle?", "The circle is {}.", "red"),
        (COLORS, "What color is the triangle?", "The triangle is {}.", "orange"),
        (SHAPES, "What shape is the red object?", "The red shape is a {}.", "circle"),
    ],
)
def test_the_demo_model_tells_colors_and_shapes(demo, labels, prompt, form, choice):
    found = classify(demo, "demo", labels, prompt, form=form)
    assert found.choice == choice
    assert list(found.probabilities) == labels
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.confidence > 0.9
    assert 0.9 < found.coverage <= 1


def test_the_answer_has_the_shape_of_decision_models(demo):
    found = classify(demo, "demo", ["red", "blue"], "What color is the circle?", name="color")
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    answer = values["answers"].pop("color")
    assert values == {
        "model": "demo",
        "answers": {},
        "usage": {"input_tokens": found.prompt_tokens, "output_tokens": 0},
    }
    assert answer["type"] == "choice"
    assert answer["choice"] == found.choice
    assert answer["confidence"] == answer["probabilities"][found.choice]
    assert answer["calibrated"] is False
    assert answer["coverage"] < 0.1  # a bare "red" is no answer that this model gives


class Asked:
    """An engine with given scores; it remembers what it was asked."""

    def __init__(self, totals):
        self._totals, self.model = totals, SimpleNamespace(name="fake")

    def score(self, messages, answers, _):
        self.prompt, self.answers = messages[0]["content"][-1]["text"], answers
        found = [SimpleNamespace(total=total) for total in self._totals]
        return SimpleNamespace(answers=found, prompt_tokens=7, cached_tokens=0)


def test_the_prompt_names_the_labels_and_each_is_scored_in_its_form():
    engine = Asked([-1.0, -2.0])
    found = classify(engine, "demo", [" cat", "cat {tree}"], "Which: {labels}?", form="A {}!")
    assert engine.prompt == "Which: cat, cat {tree}?"
    assert engine.answers == ["A cat!", "A cat {tree}!"]
    assert found.probabilities["cat"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert found.coverage == pytest.approx(math.exp(-1) + math.exp(-2))


def test_labels_that_the_model_would_never_write_still_have_probabilities():
    found = classify(Asked([-5000.0, -5001.0, -9000.0]), "demo", ["a", "b", "c"])
    assert found.probabilities["a"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert (found.probabilities["c"], found.coverage) == (0.0, 0.0)


def test_rounding_makes_nothing_more_likely_than_sure():
    assert classify(Asked([-0.693147, -0.693147]), "demo", ["a", "b"]).coverage == 1


@pytest.mark.parametrize(
    ("labels", "form", "message"),
    [
        ("cat", "{}", "labels are 'cat', expected a list of strings"),
        (["cat", 3], "{}", "expected a list of strings"),
        (["cat"], "{}", "there is one label, 'cat', expected 2 to 1000"),
        (["cat", " "], "{}", "a label is empty"),
        (["cat", "dog", "cat "], "{}", "the label 'cat' is there twice"),
        (["cat", "dog"], "It is.", "one {} for the label"),
    ],
)
def test_bad_labels_are_refused(labels, form, message):
    with pytest.raises(InputError, match=message):
        classify(Asked([]), "demo", labels, form=form)
