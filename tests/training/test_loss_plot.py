"""The loss curve: the legend names what is there, and nothing is drawn over anything else."""

import json
import math
import random
from itertools import combinations

import numpy as np
import pytest
from pictures import has_color
from PIL import Image

from mlx_lfm2vl.drawing import LIGHT
from mlx_lfm2vl.training.plot import _means, draw_losses, plot_log


def entries(losses, validate_every=0):
    return [
        {"step": step, "loss": loss}
        | ({"validation_loss": loss + 0.1} if validate_every and step % validate_every == 0 else {})
        for step, loss in enumerate(losses, 1)
    ]


def noisy(count: int) -> list[float]:
    numbers = random.Random(0)
    return [1 + 2 * math.exp(-5 * n / count) + numbers.random() / 9 for n in range(count)]


CASES = {
    "empty": [],
    "one": entries([2.3]),
    "one, validated": entries([2.3], 1),
    "three": entries([2.3, 1.9, 1.7]),
    "few": entries(noisy(100), 10),
    "many": entries(noisy(300), 25),
    "flat": entries(40 * [2.0]),
    "almost flat": entries([2 + n * 1e-9 for n in range(40)]),
    "zero": entries([0.0, 0.0]),
    "down to zero": entries([1.0, 0.5, 0.0]),
    "huge": entries([1e9 * math.exp(-n / 3) for n in range(120)], 40),
    "tiny": entries([1e-6, 8e-7, 5e-7]),
    "not a number": entries([2.0, math.nan, math.inf, 1.0]),
    "only that": entries([math.nan]),
    "only validation": [{"step": 5, "validation_loss": 1.5}],
    "late": [{"step": 1_000_000 + n, "loss": 3 - n / 9} for n in range(20)],
}
NAMES = {
    "empty": [],
    "only that": [],
    "few": ["training", "validation"],
    "one, validated": ["training", "validation"],
    "many": ["mean of 6 steps", "training", "validation"],
    "huge": ["mean of 3 steps", "training", "validation"],
    "only validation": ["validation"],
}


@pytest.fixture
def coarse(monkeypatch) -> None:
    """Shapes are drawn at the final resolution, where the smoothness of edges does not matter."""
    monkeypatch.setattr("mlx_lfm2vl.drawing.FINER", 1)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", CASES)
def test_the_legend_names_what_is_there(name):
    written = [text.content for text in draw_losses(CASES[name], "origin", LIGHT).texts]
    named = [text for text in written if text.startswith(("training", "validation", "mean"))]
    assert sorted(named) == NAMES.get(name, ["training"])
    assert ("no steps yet" in written) == (name in ("empty", "only that"))
    assert ("Loss per token, logarithmic" in written) == (name == "huge")
    assert "origin" in written


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", CASES)
def test_no_text_overlaps_another_or_leaves_the_picture(name):
    canvas = draw_losses(CASES[name], "model " * 25, LIGHT)
    boxes = {text: text.box for text in canvas.texts}
    for left, top, right, bottom in boxes.values():
        assert left >= 0
        assert top >= 0
        assert right <= canvas.width
        assert bottom <= canvas.height
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", ["three", "few", "many", "huge", "late"])
def test_the_curves_use_the_space(name, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.drawing.FINER", 1)
    image = draw_losses(CASES[name], "", LIGHT).image()
    drawn = has_color(image, LIGHT.blue, LIGHT.pale_blue, LIGHT.orange)
    drawn[:130] = False  # the legend
    height, width = drawn.shape
    down, across = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert across[-1] - across[0] > 0.75 * width
    assert down[-1] - down[0] > 0.6 * height


def test_the_dots_are_where_the_ticks_say():
    canvas = draw_losses(entries([3.0, 1.0, 2.0]), "", LIGHT)
    places = {text.content: text for text in canvas.texts}
    image = canvas.image()
    for step, loss in (("1", "3.0"), ("2", "1.0"), ("3", "2.0")):
        x, y = round(2 * places[step].x), round(2 * places[loss].y)
        for beside in (-4, 4):  # a dot is wider than a line
            assert image.getpixel((x + beside, y)) == tuple(bytes.fromhex(LIGHT.blue[1:]))


def test_means_are_of_equal_groups_at_their_middle():
    means, size = _means([(step, step % 2) for step in range(1, 202)])
    assert size == 5
    assert means[-1] == (199, 0.6)  # steps 197 to 201
    assert len(means) == 40
    assert _means([(step, 1.0) for step in range(100)])[0] == []


def test_a_log_becomes_two_pictures(tmp_path):
    log = tmp_path / "log.jsonl"
    plot_log(log, tmp_path / "none.png", "origin")  # there is no log
    log.write_text(json.dumps(CASES["one"][0]) + '\n{"step": 2, "lo')
    plot_log(log, tmp_path / "loss.png", "origin")
    assert len(list(tmp_path.glob("*.png"))) == 4
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (1800, 1000)
