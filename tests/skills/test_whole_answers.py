"""The answer about a picture in slices is about the whole picture, with each object once."""

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.checkpoint.image_config import load_image_config
from mlx_lfm2vl.errors import AnswerError
from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.pages import PageOptions, expand_inputs
from mlx_lfm2vl.skills.answers import Detection, Point
from mlx_lfm2vl.skills.boxes import Box
from mlx_lfm2vl.skills.tasks import make_task
from mlx_lfm2vl.skills.whole_answers import of_whole, read_whole

CONFIG = load_image_config(DEMO_FOLDER)


def test_boxes_of_a_slice_are_given_in_pixels_of_the_whole_picture():
    part = Part(top=100, left=0, height=100, width=200, whole=(300, 200))
    box = Box(0, "star", (20, 10, 60, 50), (0.1, 0.1, 0.3, 0.5))
    assert of_whole(Detection((box,)), part).boxes[0].pixels == (20, 110, 60, 150)
    found = of_whole(Point(*box.center, box), part)
    assert (found.x, found.y) == (box.center[0], box.center[1] + 100)
    assert of_whole(Point(None, None, None), part).box is None


def test_an_object_that_two_slices_show_is_once_in_the_answer(tmp_path):
    Image.new("RGB", (256, 3200)).save(tmp_path / "long.png")
    given = Input("long.png", tmp_path / "long.png")
    auto = PageOptions(slices="auto")
    (picture,) = expand_inputs([given], auto, CONFIG, ImageLimits(), whole=True)
    assert (picture.name, picture.part, len(picture.asked)) == ("long.png", None, 3)
    results: list[Any] = []
    for one in picture.slices:  # the object is at rows 1000 to 1100
        assert one.part
        size = (one.part.height, one.part.width)
        top, bottom = (min(max(row - one.part.top, 0), size[0]) / size[0] for row in (1000, 1100))
        box = {"label": "cat", "bbox": [10 / 256, top, 50 / 256, bottom]}
        text = str([box] if top < bottom else []).replace("'", '"')
        results.append(SimpleNamespace(text=text, images=[SimpleNamespace(size=size)]))
    task = make_task("detect", "450m", target="cat")
    assert sum("cat" in result.text for result in results) == 2
    assert [box.pixels for box in read_whole(task, picture, results).boxes] == [
        (10, 1000, 50, 1100)
    ]
    results[1].text = "I see a cat."
    with pytest.raises(AnswerError):
        read_whole(task, picture, results)
