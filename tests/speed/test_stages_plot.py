"""The picture of stages: every time is named, and nothing is drawn over anything else."""

from itertools import combinations

import pytest
from pictures import has_color
from PIL import Image

from mlx_lfm2vl.drawing import DARK, LIGHT
from mlx_lfm2vl.speed.plot import NOTE, Bar, Group, draw_stages, plot_stages

LONG = "model " * 40


def group(scale: float, *, peer: bool = False, title: str = "small") -> Group:
    def bar(label: str, seconds: float, is_part: bool = False) -> Bar:
        theirs = 2 * scale * seconds if peer and label != "prefill" else None
        return Bar(label, scale * seconds, theirs, is_part)

    parts = {"image preparation": 0.004, "tower and connector": 0.03, "prefill": 0.05}
    bars = [bar(label, seconds, True) for label, seconds in parts.items()]
    return Group(title, [bar("first token", 0.08), *bars, bar("64 more tokens", 0.4)])


CASES = {
    "one": [group(1)],
    "two with a peer": [group(1, peer=True), group(9, peer=True, title=LONG)],
    "tiny": [group(1e-5)],
    "long": [group(1e4, peer=True)],
    "unlike": [group(1e-4, peer=True), group(1e4)],
    "nothing": [Group("still", [Bar("first token", 0.0)])],
}


@pytest.fixture
def coarse(monkeypatch) -> None:
    """Shapes are drawn at the final resolution, where the smoothness of edges does not matter."""
    monkeypatch.setattr("mlx_lfm2vl.drawing.FINER", 1)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", CASES)
def test_no_text_overlaps_another_or_leaves_the_picture(name):
    canvas = draw_stages(CASES[name], LONG, LIGHT)
    boxes = {text: text.box for text in canvas.texts}
    for left, top, right, bottom in boxes.values():
        assert left >= 0
        assert top >= 0
        assert right <= canvas.width
        assert bottom <= canvas.height
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


def contents(groups: list[Group]) -> list[str]:
    return [text.content for text in draw_stages(groups, "origin", LIGHT).texts]


@pytest.mark.usefixtures("coarse")
def test_title_groups_bars_and_values_are_written():
    written = contents(CASES["one"])
    bars = CASES["one"][0].bars
    assert {"Where the time goes", "origin", "small", NOTE, *(b.label for b in bars)} <= set(
        written
    )
    assert {"80.0 ms", "4.00 ms", "30.0 ms", "50.0 ms", "400 ms"} <= set(written)


@pytest.mark.usefixtures("coarse")
def test_the_legend_is_there_with_two_programs_only():
    programs = {"mlx_lfm2vl", "mlx-vlm"}
    assert not programs & set(contents(CASES["one"]))
    assert programs <= set(contents(CASES["two with a peer"]))


@pytest.mark.usefixtures("coarse")
def test_the_note_is_there_with_parts_only():
    assert NOTE not in contents(CASES["nothing"])


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(
    ("seconds", "written"),
    [(4e-7, "0.000400 ms"), (0.0031, "3.10 ms"), (0.09996, "100 ms"), (1, "1.00 s")]
    + [(9.996, "10.0 s"), (99.96, "100 s"), (4e5, "400,000 s")],
)
def test_a_time_has_three_digits(seconds, written):
    assert written in contents([Group("g", [Bar("b", seconds)])])


def lengths(groups: list[Group], color: str) -> list[int]:
    """Of the stretches of a color, in pixels, from the top down."""
    found = has_color(draw_stages(groups, "", LIGHT).image(), color)[150:]
    rows = found.sum(axis=1).tolist()
    return [row for row, above in zip(rows[1:], rows, strict=False) if row > above == 0]


@pytest.mark.usefixtures("coarse")
def test_a_bar_is_as_long_as_its_time():
    first, rest = lengths([group(1)], LIGHT.blue)
    assert rest == pytest.approx(5 * first, abs=3)
    ours = lengths(CASES["two with a peer"], LIGHT.blue)
    theirs = lengths(CASES["two with a peer"], LIGHT.orange)
    assert theirs == pytest.approx([2 * length for length in ours], abs=3)


def test_a_bar_ends_where_the_axis_says():
    groups = [Group("g", [Bar("whole", 1.0), Bar("part", 0.4)])]
    places = {text.content: text.x for text in draw_stages(groups, "", LIGHT).texts}
    _, part = lengths(groups, LIGHT.blue)
    assert part == pytest.approx(2 * (places["0.4 s"] - places["0"]), abs=3)  # 2 pixels a point


def test_both_variants_are_written(tmp_path):
    plot_stages(CASES["one"], tmp_path / "stages.png", "origin")
    for name, theme in (("stages.png", LIGHT), ("stages-dark.png", DARK)):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 1800
            colors = {color for _, color in picture.getcolors(picture.width**2) or []}
        assert tuple(bytes.fromhex(theme.blue[1:])) in colors
