"""Boxes of slices are boxes of the whole picture, and an object in two slices is one object."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.skills.boxes import Box, parse_boxes
from mlx_lfm2vl.skills.slice_boxes import in_whole, merge_slices

WHOLE = (3000, 1000)
UPPER, LOWER = Part(0, 0, 1100, 1000, WHOLE), Part(1000, 0, 1100, 1000, WHOLE)


def box(label, *sides, part):
    relative = [
        side / whole for side, whole in zip(sides, (part.width, part.height) * 2, strict=True)
    ]
    return Box(0, label, sides, tuple(relative))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_box_of_a_slice_is_at_the_same_pixels_of_the_whole(data):
    height, width = data.draw(st.integers(1, 20_000)), data.draw(st.integers(1, 900))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    part = Part(
        top,
        left,
        data.draw(st.integers(1, min(999, height - top))),
        data.draw(st.integers(1, width - left)),
        (height, width),
    )
    x, y = data.draw(st.integers(0, part.width - 1)), data.draw(st.integers(0, part.height - 1))
    right = data.draw(st.integers(x + 1, part.width))
    bottom = data.draw(st.integers(y + 1, part.height))
    sides = [x / part.width, y / part.height, right / part.width, bottom / part.height]
    (found,) = parse_boxes(
        f'{{"bbox_2d": {[round(1000 * side) for side in sides]}}}', [(part.height, part.width)]
    )
    moved = in_whole(found, part, image=3)
    assert moved.image == 3
    assert moved.pixels == (x + left, y + top, right + left, bottom + top)
    assert abs(moved.pixels[0] - moved.relative[0] * width) < 1  # a thousandth is less
    assert all(0 <= side <= 1 for side in moved.relative)


def test_an_object_where_two_slices_overlap_is_one_object():
    upper = [box("Cat", 100, 900, 300, 1100, part=UPPER)]
    lower = [
        box("cat", 105, 0, 310, 400, part=LOWER),  # the same, of which the first saw the upper part
        box("dog", 100, 0, 300, 100, part=LOWER),
        box("cat", 600, 0, 800, 100, part=LOWER),
    ]
    merged = merge_slices([(UPPER, upper), (LOWER, lower)], image=1)
    assert [(found.label, found.pixels) for found in merged] == [
        ("Cat", (100, 900, 310, 1400)),
        ("dog", (100, 1000, 300, 1100)),
        ("cat", (600, 1000, 800, 1100)),
    ]
    assert merged[0].relative == (0.1, 0.3, 0.31, 1400 / 3000)
    assert {found.image for found in merged} == {1}


def test_half_of_both_together_is_enough_to_be_one_object():
    upper = [box("x", 0, 1000, 100, 1100, part=UPPER)]
    for right, count in ((200, 1), (202, 2)):
        lower = [box("x", 0, 0, right, 100, part=LOWER)]
        assert len(merge_slices([(UPPER, upper), (LOWER, lower)])) == count


def test_slices_that_only_meet_join_boxes_that_reach_the_line():
    lower = Part(1100, 0, 1100, 1000, WHOLE)
    high = [box("x", 0, 500, 100, 1100, part=UPPER), box("x", 200, 500, 300, 1000, part=UPPER)]
    low = [box("x", 10, 0, 100, 50, part=lower), box("x", 200, 0, 300, 50, part=lower)]
    merged = merge_slices([(UPPER, high), (lower, low)])
    assert [found.pixels for found in merged] == [
        (0, 500, 100, 1150),
        (200, 500, 300, 1000),
        (200, 1100, 300, 1150),
    ]


def test_boxes_of_one_slice_are_never_joined():
    same = [box("x", 0, 500, 100, 600, part=UPPER)] * 2
    assert len(merge_slices([(UPPER, same)])) == 2
    # Only one of the next slice's can be the same object.
    overlap = [box("x", 0, 1000, 100, 1100, part=UPPER)]
    again = [box("x", 0, 0, 100, 100, part=LOWER)] * 2
    assert len(merge_slices([(UPPER, overlap), (LOWER, again)])) == 2
    assert len(merge_slices([(UPPER, overlap * 2), (LOWER, again)])) == 2
