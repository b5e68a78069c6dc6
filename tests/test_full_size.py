"""A checkpoint of real 450M shapes answers like the reference.

It has 1.8 GB, so the tests do not make it. Make it once with `tools/make_checkpoint.py` and name
the folder in LFM2VL_FULL_SIZE; the photo comes from LFM2VL_ASSETS.
"""

import json
import os
from pathlib import Path

import pytest
from conftest import GOLDEN
from PIL import Image

from mlx_lfm2vl import load
from mlx_lfm2vl.generation.loop import generate_step
from mlx_lfm2vl.generation.sampling import draw_greedily
from mlx_lfm2vl.prompt.messages import user_message

EXPECTED = json.loads((GOLDEN / "full_size.json").read_text())


@pytest.fixture(scope="module")
def full_size():
    folder = os.environ.get("LFM2VL_FULL_SIZE")
    if not folder:
        pytest.skip("LFM2VL_FULL_SIZE is not set")
    return load(Path(folder), dtype="float32")


@pytest.mark.parametrize("case", EXPECTED["cases"], ids=lambda case: str(case["size"]))
def test_greedy_tokens_at_full_size_are_the_references(full_size, assets, case):
    model, processor = full_size
    height, width = case["size"]
    photo = Image.open(assets / "images" / case["image"]).convert("RGB")
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    inputs = processor(user_message(case["prompt"], [photo]))
    assert len(inputs.input_ids) == case["prompt_tokens"]
    features = model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
    embeds = model.embed(inputs.input_ids, features)
    steps = generate_step(
        model,
        embeds,
        model.make_cache(),
        draw_greedily,
        len(case["greedy"]),
    )
    assert [token.id for token in steps] == case["greedy"]
