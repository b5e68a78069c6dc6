"""Resizing against torch's integer kernel, by fingerprints of its results."""

import functools
import hashlib
import json

import numpy as np
import pytest
from conftest import GOLDEN
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.images.resample import resize

picture_of = functools.cache(make_picture)  # drawing one takes longer than resizing it
EXPECTED = json.loads((GOLDEN / "resize.json").read_text())


@pytest.mark.parametrize("case", EXPECTED["cases"], ids=lambda case: str(case["to"]))
def test_resize_is_torchs_bit_for_bit(case):
    image = np.asarray(picture_of(*case["picture"]))
    resized = resize(image, *case["to"], case["resample"])
    assert resized.shape == (*case["to"], 3)
    assert hashlib.sha256(resized.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("resample", [2, 3])
def test_resize_is_near_pillows(resample):
    image = make_picture(201, 333, 5)
    ours = resize(np.asarray(image), 96, 160, resample)
    theirs = image.resize((160, 201), resample).resize((160, 96), resample)
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 2


def test_same_size_is_untouched():
    image = np.asarray(Image.effect_noise((40, 30), 80).convert("RGB"))
    assert resize(image, 30, 40, 3) is image
