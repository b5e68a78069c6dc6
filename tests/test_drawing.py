"""Plots share this: ticks are round, text stays whole, and both variants are written or none."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_lfm2vl import drawing
from mlx_lfm2vl.drawing import DARK, LIGHT, Canvas, linear_ticks, log_ticks, tick_labels
from mlx_lfm2vl.errors import InputError

ALWAYS_THE_SAME = settings(derandomize=True, deadline=None)
RANGES = {
    (0, 1): ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"],
    (0.31, 2.6): ["0.5", "1.0", "1.5", "2.0", "2.5"],
    (1.955, 2.045): ["1.96", "1.98", "2.00", "2.02", "2.04"],
    (0, 17_000): ["0", "5,000", "10,000", "15,000"],
    (0, 4e-5): ["0", "1e-05", "2e-05", "3e-05", "4e-05"],
    (-1, 1): ["-1.0", "-0.5", "0.0", "0.5", "1.0"],
}


@pytest.mark.parametrize("ends", RANGES)
def test_ticks_are_the_numbers_that_one_would_choose(ends):
    assert tick_labels(linear_ticks(*ends)) == RANGES[ends]


@ALWAYS_THE_SAME
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(5, 12))
def test_ticks_are_round_evenly_spaced_and_inside(low, relative, most):
    high = low + relative * max(abs(low), 1.0)
    ticks = linear_ticks(low, high, most)
    assert 2 <= len(ticks) <= most + 1
    room = 1e-9 * max(abs(low), abs(high))
    assert low - room <= ticks[0]
    assert ticks[-1] <= high + room
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - digit) for digit in (1, 2, 5, 10)) < 1e-3
    for tick in ticks:
        assert tick / step == pytest.approx(round(tick / step), rel=1e-6, abs=1e-6)


@ALWAYS_THE_SAME
@given(st.integers(-300, 300), st.integers(0, 2), st.integers(1, 9))
def test_a_tick_is_the_float_that_its_label_reads_as(count, power, factor):
    for tick in linear_ticks(count / 10, count / 10 + factor / 10**power):
        assert Fraction(str(tick)).limit_denominator(1000) == Fraction(str(tick))


@ALWAYS_THE_SAME
@given(st.floats(1e-9, 1e6), st.floats(101, 1e12))
def test_logarithmic_ticks_are_few_and_inside(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 7
    assert low <= ticks[0] < ticks[-1] <= low * ratio


def test_a_long_text_loses_its_middle():
    text = "begin" + 50 * "x" + "end"
    short = drawing.shorten(text, 100)
    assert drawing.width_of(short) <= 100
    assert short.startswith("begin")
    assert short.endswith("end")
    assert drawing.shorten("short", 100) == "short"


def test_a_shortened_text_keeps_as_much_as_fits_from_both_ends_alike():
    text = "0123456789" * 5
    short = drawing.shorten(text, 100)
    begin, end = short.split("…")
    assert text.startswith(begin)
    assert text.endswith(end)
    assert len(begin) - len(end) in (0, 1)
    longer = f"{text[: len(end) + 1]}…{text[-len(begin) :]}"  # one more
    assert drawing.width_of(longer) > 100


def test_letters_that_the_font_lacks_become_plain():
    canvas = Canvas(100, 20, LIGHT)
    canvas.text(0, 10, "Bär · 日.png")
    assert canvas.texts[0].content == "Bar · ?.png"


def test_a_slanted_line_is_smooth():
    canvas = Canvas(20, 20, LIGHT)
    canvas.line([(1, 2), (19, 7)], LIGHT.blue, 2)
    colors = canvas.image().getcolors() or []
    assert len(colors) > 4  # ground, line, and shades between


def test_two_variants_are_written_at_retina_size(tmp_path):
    picture = tmp_path / "plot.png"
    drawing.save_both(lambda theme: Canvas(30, 20, theme), picture)
    dark = drawing.dark_name(picture)
    assert sorted(tmp_path.iterdir()) == sorted([picture, dark])
    for path, theme in ((picture, LIGHT), (dark, DARK)):
        with Image.open(path) as image:
            assert image.size == (60, 40)
            assert image.info["dpi"] == pytest.approx((144, 144), abs=0.1)
            assert f"#{bytes(image.getpixel((0, 0))).hex()}" == theme.background


def test_a_failure_leaves_no_half_picture(tmp_path, monkeypatch):
    def half(_image, path, *_args, **_options):
        path.write_bytes(b"\x89PNG")
        raise OSError("full")

    picture = tmp_path / "plot.png"
    drawing.save_both(lambda theme: Canvas(30, 20, theme), picture)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(InputError, match="plot.png cannot be written: full"):
        drawing.save_both(lambda theme: Canvas(40, 20, theme), picture)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_origin_names_model_chip_and_day(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, chip, day = drawing.describe_origin("LiquidAI/LFM2-VL-450M", "Apple M2").split(" · ")
    assert (name, chip) == ("LFM2-VL-450M", "Apple M2")
    assert len(day) == len("2000-01-31")
    assert drawing.describe_origin(".", "").startswith(f"{tmp_path.name} ")
