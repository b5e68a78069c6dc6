"""Boxes come back in pixels of the upright original, whatever form the model writes."""

import contextlib
import io
import json
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import AnswerError
from mlx_lfm2vl.images.decode import UPRIGHT
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.source import ImageLimits, open_image
from mlx_lfm2vl.skills.boxes import parse_boxes, read_boxes

SIZE = (500, 2000)  # height, width
CAT = '{"image_id": 0, "bbox_2d": [540, 49, 1000, 774], "label": "cat on the right"}'
SHIP = '{"label": "ship", "bbox": [0.37, 0.00, 0.80, 0.99]}'


def one(text, sizes=(SIZE,)):
    (box,) = parse_boxes(text, sizes)
    return box


def test_the_two_published_forms_give_pixels():
    cat = one(f"[{CAT}]")
    assert (cat.label, cat.pixels) == ("cat on the right", (1080, 25, 2000, 387))
    assert cat.relative == (0.54, 0.049, 1.0, 0.774)
    ship = one(f"[{SHIP}]")
    assert (ship.label, ship.pixels) == ("ship", (740, 0, 1600, 495))
    assert ship.to_dict() == {
        "image": 0,
        "label": "ship",
        "pixels": [740, 0, 1600, 495],
        "relative": [0.37, 0.0, 0.8, 0.99],
    }
    assert ship.center == (1169, 247)


@pytest.mark.parametrize(
    "text",
    [
        f"[{SHIP}]",
        SHIP,
        f"```json\n[{SHIP}]\n```",
        f'Here is what I see (12" wide, {{roughly}}):\n[{SHIP}]\nIs {{x}} or {{ more?',
        f'{{"objects": [{SHIP}]}}',
        SHIP.replace("0.37, 0.00, 0.80, 0.99", "0.80, 0.99, 0.37, 0.00"),  # corners swapped
        SHIP.replace("0.00", "-0.02"),
        SHIP.replace(", ", ",\n  "),
    ],
)
def test_code_fences_text_around_and_single_objects_are_read(text):
    found = read_boxes(text, [SIZE])
    assert (found.boxes[0].pixels, found.lost) == ((740, 0, 1600, 495), 0)


def test_a_label_is_what_the_model_wrote():
    assert one(SHIP.replace("ship", "label")).label == "label"
    assert one(SHIP.replace("ship", 'a {b} \\"c\\"\\n d')).label == 'a {b} "c" d'
    assert one('{"bbox": [0.1, 0.1, 0.5, 0.5]}').label == ""
    assert one(SHIP.replace("ship", "x" * 400)).label == "x" * 300
    assert one(SHIP.replace("ship", "\\u001b[31mred\\ud800")).label == "[31mred"


@pytest.mark.parametrize(
    ("key", "sides", "left"),
    [
        ("bbox", "[0.37, 0, 1, 1]", 740),
        ("bbox", "[0.37, 0.0, 1.04, 1.0]", 740),  # a little outside
        ("bbox", "[370, 0, 1000, 1000]", 740),  # values tell, whatever the key
        ("bbox_2d", "[0.37, 0.0, 1.0, 1.0]", 740),
        ("bbox_2d", "[0.0, 0.0, 1.0, 1.0]", 0),
        ("bbox_2d", "[370.0, 0.0, 1000.0, 1000.0]", 740),
    ],
)
def test_the_values_tell_the_scale(key, sides, left):
    box = one(f'{{"{key}": {sides}}}')
    assert box.pixels == (left, 0, 2000, 500)


def test_boxes_of_zeros_and_ones_have_the_scale_of_the_others_or_of_their_key():
    whole = '{"bbox": [0, 0, 1, 1]}'
    assert one(whole).pixels == (0, 0, 2000, 500)
    assert one(whole.replace("bbox", "bbox_2d")).pixels == (0, 0, 2, 1)
    assert parse_boxes(f'[{whole}, {{"bbox": [370, 0, 800, 9]}}]', [SIZE])[0].pixels == (0, 0, 2, 1)
    thousandths = parse_boxes(f"[{SHIP}, {whole.replace('bbox', 'bbox_2d')}]", [SIZE])[1]
    assert thousandths.pixels == (0, 0, 2000, 500)


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        ("[0.37, 0, 80, 0.99]", "two scales"),
        ("[12, 30, 1920, 1080]", "from 0 to 1000"),
        ("[0.1, -0.4, 0.5, 0.5]", "from 0 to 1"),
        ("[0.1, 0.2, NaN, 0.5]", "NaN"),
        ("[0.1, 0.2, 1e999, 0.5]", "four numbers|from 0 to 1000"),
        (f"[1, 2, {10**400}, 4]", r"100000.*from 0 to 1000"),
        ("[0.1, 0.2, 0.5]", "expected four numbers"),
        ("[true, 0.2, 0.5, 0.5]", "expected four numbers"),
        ('["0.1", 0.2, 0.5, 0.5]', "expected four numbers"),
        ("[[0.1, 0.2, 0.5, 0.5]]", "expected four numbers"),
        ("null", "null"),
    ],
)
def test_what_is_in_neither_scale_is_refused_and_shown(sides, reason):
    with pytest.raises(AnswerError, match=reason) as error:
        parse_boxes(f'[{{"bbox": {sides}}}]', [SIZE])
    assert len(str(error.value)) < 200


def test_a_box_of_several_images_names_its_own():
    sizes = [(100, 100), (200, 400)]
    assert one(CAT.replace('d": 0', 'd": 1'), sizes).pixels == (216, 10, 400, 155)
    with pytest.raises(AnswerError, match=r"image_id of a box is 'missing', expected 0 to 1"):
        parse_boxes(SHIP, sizes)
    with pytest.raises(AnswerError, match=r"image_id of a box is '2', expected 0 to 1"):
        parse_boxes(CAT.replace('d": 0', 'd": 2'), sizes)
    assert one(CAT.replace('d": 0', 'd": 7')).image == 0  # there is only one image it can be in


def test_an_answer_that_is_cut_off_keeps_its_whole_boxes_and_says_what_is_lost(caplog):
    text = f"[{CAT}, {CAT}, {CAT}]"
    for end in range(len(CAT) + 1, len(text)):
        found = read_boxes(text[:end], [SIZE])
        opened, closed = text[:end].count("{"), text[:end].count("}")
        assert (len(found.boxes), found.lost) == (closed, opened - closed)
        assert bool(found.reason) == bool(found.lost)
    assert len(parse_boxes(text[:-20], [SIZE])) == 2
    assert "1 box of the answer cannot be read: it is cut off at" in caplog.text


def test_bad_boxes_do_not_take_good_ones_with_them():
    bad = '{"bbox": [1, 2, 3]}'
    found = read_boxes(f'[{bad}, {SHIP}, {{"label: "x", "bbox": [0, 0, 0.1, 0.1]}}, {CAT}]', [SIZE])
    assert [box.label for box in found.boxes] == ["ship", "cat on the right"]
    assert (found.lost, found.reason) == (2, "a box is '[1, 2, 3]', expected four numbers")


def test_an_empty_list_is_no_boxes_and_prose_is_an_error():
    assert parse_boxes("[]", [SIZE]) == parse_boxes("```json\n[ ]\n```", [SIZE]) == []
    for text in ("", "There is no cat.", "[", '{"label": "cat"', '{"box_2d": [1, 2, 3, 4]}'):
        with pytest.raises(AnswerError, match="expected boxes as"):
            parse_boxes(text, [SIZE])


def test_a_line_or_a_point_is_at_least_one_pixel_within_the_image():
    assert one('{"bbox": [1.0, 0.5, 1.0, 0.5]}', [(3, 3)]).pixels == (2, 2, 3, 3)


def mutated(text, random):
    letters = list(text)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(letters))
        piece = random.choice([*'{}[]",:\\0.', "NaN", "1e9", "-", "bbox", "\n", "\ud800", "é", ""])
        letters[at : at + random.choice([0, 0, 1, 4, 30])] = list(piece) or letters[:20]
    return "".join(letters)


def test_damaged_answers_give_boxes_within_the_image_or_one_kind_of_error():
    chance = random.Random(7)
    read = 0
    for _ in range(800):
        text = mutated(chance.choice([f"```json\n[{CAT}, {SHIP}, {CAT}]\n```", SHIP]), chance)
        try:
            boxes = read_boxes(text, [SIZE, (1, 1)][: chance.randint(1, 2)]).boxes
        except AnswerError:
            continue
        read += bool(boxes)
        for box in boxes:
            left, top, right, bottom = box.pixels
            assert 0 <= left < right <= 2000
            assert 0 <= top < bottom <= 500
            assert all(0 <= side <= 1 for side in box.relative)
    assert 150 < read < 800


@pytest.mark.parametrize(
    "piece", ["{", '{"', '{"a":', '{"\\"', "[", f"[{SHIP[:-1]}", '{"bbox": [[', f"{SHIP}, "]
)
def test_the_time_grows_with_the_length_of_an_answer_and_no_faster(piece):
    text = piece * (40_000 // len(piece))
    start = time.process_time()
    with contextlib.suppress(AnswerError):
        read_boxes(text, [SIZE])
    assert time.process_time() - start < 3


@st.composite
def pictures(draw):
    """A size, and the sides of a box in it, in pixels."""
    height, width = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (height, width), (left, top, right, bottom)


def written(sides, size, form):
    """Write a box as a model does that finds it exactly."""
    height, width = size
    relative = [side / whole for side, whole in zip(sides, (width, height) * 2, strict=True)]
    if form == "bbox":
        return json.dumps({"label": "x", "bbox": [round(side, 2) for side in relative]})
    return json.dumps({"bbox_2d": [round(1000 * side) for side in relative], "image_id": 0})


@settings(max_examples=100, deadline=None)
@given(pictures(), st.sampled_from(["bbox", "bbox_2d"]))
def test_a_box_comes_back_to_half_a_step_of_its_form_and_to_the_pixel_where_steps_are_small(
    picture, form
):
    size, sides = picture
    box = one(written(sides, size, form), [size])
    steps = 100 if form == "bbox" else 1000
    for found, side, whole in zip(box.pixels, sides, (*size[::-1], *size[::-1]), strict=True):
        # A box thinner than a step becomes one pixel, which moves one of its sides by one.
        assert abs(found - side) <= math.ceil(whole / steps / 2 + 0.5 if whole > steps else 0)


UNDOES = {
    2: 2,
    3: 3,
    4: 4,
    5: 5,
    6: 8,
    7: 7,
    8: 6,
}  # the orientation that turns another's turn back


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_boxes_lie_in_the_picture_as_a_viewer_turns_it(kind):
    for orientation in range(1, 9):
        chance = random.Random(orientation)
        width, height = chance.randint(300, 700), chance.randint(300, 700)
        sides = (chance.randint(0, 99), chance.randint(0, 99), chance.randint(150, 300), 280)
        upright = Image.new("RGB", (width, height), "black")
        upright.paste("white", sides)
        stored = upright if orientation == 1 else upright.transpose(UPRIGHT[UNDOES[orientation]])
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        stored.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        opened = open_image(file.getvalue(), ImageLimits())
        plan = plan_image(*opened.size, ImageConfig(16, 2))
        assert plan.size == (height, width)
        box = one(written(sides, plan.size, "bbox_2d"), [plan.size])
        assert box.pixels == sides
        pixels = opened.decode().convert("L")
        assert pixels.crop(box.pixels).getextrema()[0] > 200
        below = (sides[0], sides[3] + 8, sides[2], sides[3] + 16)
        assert pixels.crop(below).getextrema()[1] < 50


def test_a_jpeg_that_is_decoded_smaller_keeps_its_size():
    file = io.BytesIO()
    Image.linear_gradient("L").resize((2048, 1536)).save(file, "JPEG")
    opened = open_image(file.getvalue(), ImageLimits())
    plan = plan_image(*opened.size, ImageConfig(16, 2, do_image_splitting=False))
    assert opened.decode(plan.canvas).size == (1024, 768)
    assert plan.size == (1536, 2048)
