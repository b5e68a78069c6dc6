"""Drawn boxes frame what they are about, and their labels can be read."""

import random

import numpy as np
import pytest
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.skills.boxes import Box
from mlx_lfm2vl.skills.draw import COLORS, DARK, LIGHT, contrast, draw_boxes

GREY = (128, 128, 128)


def box(label, *sides):
    return Box(0, label, sides, (0.0, 0.0, 1.0, 1.0))


def changed(image, boxes):
    """The image with boxes, and which of its pixels they have changed."""
    drawn = np.array(draw_boxes(image, boxes))
    return drawn, (drawn != np.array(image.convert("RGB"))).any(axis=2)


def test_a_line_runs_along_the_inside_of_a_box_in_the_color_of_its_label():
    drawn, touched = changed(Image.new("L", (300, 200), 128), [box("", 50, 40, 150, 120)])
    rows, columns = np.nonzero(touched)
    assert (rows.min(), rows.max()) == (39, 120)  # with a white line of one pixel around it
    assert (columns.min(), columns.max()) == (49, 150)
    assert not touched[42:118, 52:148].any()
    blue = tuple(int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5))
    for place in ((40, 50), (41, 100), (119, 149), (80, 51)):
        assert tuple(drawn[place]) == blue
    same = draw_boxes(Image.new("RGB", (90, 90)), [box("", 9, 9, 50, 50), box("", 60, 60, 80, 80)])
    assert same.getpixel((9, 9)) == same.getpixel((60, 60)) == blue


def test_every_color_has_an_ink_that_can_be_read():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for color in COLORS:
        assert max(contrast(ink, color) for ink in (DARK, LIGHT)) >= 4.5


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (300, 900), (1280, 720)])
def test_labels_stay_within_the_image_and_off_each_other_where_there_is_room(size):
    chance = random.Random(1)
    width, height = size
    boxes = []
    for number in range(8):
        left, top = chance.randrange(width), chance.randrange(height)
        right, bottom = chance.randint(left + 1, width), chance.randint(top + 1, height)
        boxes.append(box(f"thing number {number}" * (number + 1), left, top, right, bottom))
    assert draw_boxes(Image.new("RGB", size, GREY), boxes).size == size


def backgrounds(image, boxes):
    """The number of pixels in the color of each label."""
    drawn = np.array(draw_boxes(image, boxes)).reshape(-1, 3)
    colors = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS]
    return [int((drawn == color).all(axis=1).sum()) for color in colors[: len(boxes)]]


def test_labels_of_boxes_in_one_place_do_not_cover_each_other():
    image = Image.new("RGB", (400, 400), GREY)
    boxes = [box(letter * 6, 150, 150, 250, 250) for letter in "abcde"]
    alone = [backgrounds(image, [found])[0] for found in boxes]
    line = backgrounds(image, [box("", 150, 150, 250, 250)])[0]
    assert all(
        together >= 0.9 * (single - line)
        for together, single in zip(backgrounds(image, boxes), alone, strict=True)
    )


def test_a_label_that_the_font_lacks_is_the_number_of_its_box():
    image, place = Image.new("RGB", (200, 200), GREY), (50, 50, 150, 150)
    drawn = [draw_boxes(image, [box(label, *place)]).tobytes() for label in ("猫", "1", "?")]
    assert drawn[0] == drawn[1] == drawn[2]
    assert draw_boxes(image, [box("café", *place)]) == draw_boxes(image, [box("cafe", *place)])


def test_boxes_of_a_larger_image_are_refused():
    with pytest.raises(InputError, match="ends at 201, 100 in an image of 200 x 100 pixels"):
        draw_boxes(Image.new("RGB", (200, 100)), [box("x", 0, 0, 201, 100)])
