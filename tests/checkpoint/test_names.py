"""Names of tensors: each is used exactly once, and what does not fit is named."""

import json

import mlx.core as mx
import pytest
from conftest import CASES, edit_json, golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from weights import EMBEDDING, edit_weights, hub_name

from mlx_lfm2vl.checkpoint import names
from mlx_lfm2vl.checkpoint.config import ModelConfig, read_model_config
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.checkpoint.tensors import read_header, weight_files
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL


def shapes_of(config: ModelConfig, folder) -> dict[str, list[int]]:
    model = Lfm2VL(config, read_image_config(folder))
    shapes = {}
    for name, value in tree_flatten(model.parameters()):
        shape = list(value.shape)
        # The Hub keeps depthwise weights as (C, 1, taps).
        shapes[hub_name(name)] = (
            [shape[0], 1, shape[1]] if name.endswith("conv.conv.weight") else shape
        )
    return shapes


# What the published configuration tables say about the two checkpoints whose config is not at
# hand, as changes to LFM2.5-VL-1.6B.
TYPES_30 = ["full_attention" if i in (2, 5, 9, 13, 17, 21, 24, 27) else "conv" for i in range(30)]


DERIVED = {
    "LFM2-VL-1.6B": {
        "vision_config__num_hidden_layers": 26,
        "projector_hidden_size": 2560,
        "projector_use_layernorm": True,
    },
    "LFM2.5-VL-3B": {
        "text_config__num_hidden_layers": 30,
        "text_config__layer_types": TYPES_30,
        "text_config__block_ff_dim": 10752,
        "text_config__block_auto_adjust_ff_dim": False,
        "text_config__vocab_size": 128000,
    },
}


@pytest.mark.parametrize(
    "name",
    ["LFM2-VL-450M", "LFM2-VL-1.6B", "LFM2.5-VL-450M", "LFM2.5-VL-1.6B", "LFM2.5-VL-3B"],
)
def test_the_parameters_are_exactly_the_published_tensors(assets, published, name):
    folder = published("LFM2.5-VL-1.6B" if name in DERIVED else name)
    if name in DERIVED:
        edit_json(folder / "config.json", **DERIVED[name])
    inventory = json.loads((assets / name / "tensor_inventory.json").read_text())
    assert shapes_of(read_model_config(folder), folder) == inventory["tensors"]


def test_dropping_a_layer_by_vision_feature_layer_gives_the_same_parameters(published):
    folder = published("LFM2.5-VL-1.6B")
    edit_json(folder / "config.json", vision_feature_layer=-2)
    by_feature_layer = shapes_of(read_model_config(folder), folder)
    edit_json(folder / "config.json", vision_feature_layer=-1)
    edit_json(folder / "config.json", vision_config__num_hidden_layers=26)
    assert by_feature_layer == shapes_of(read_model_config(folder), folder)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_of_a_file_is_used_exactly_once(name):
    folder = golden(name).folder
    written = [n for path in weight_files(folder) for n in read_header(path)[0]]
    model, _ = load(folder)
    parameters = [name for name, _ in tree_flatten(model.parameters())]
    assert sorted(map(names.our_name, written)) == sorted(parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(EMBEDDING), "1 missing: language_model.embed_tokens.weight"),
        (lambda w: w.update({"model.extra.weight": mx.zeros(3)}), "1 unknown: extra.weight"),
        (
            lambda w: w.update({EMBEDDING: w[EMBEDDING][:, :8]}),
            r"1 wrong shape: language_model.embed_tokens.weight \[365, 8\], expected \[365, 16\]",
        ),
        (
            lambda w: w.update({"language_model.model.embed_tokens.weight": w[EMBEDDING]}),
            "language_model.embed_tokens.weight twice",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_reported_by_name(checkpoint, change, message):
    edit_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint)


PLACES = {
    names.TOWER: "vision",
    names.TOWER_LAYERS: "vision",
    names.CONNECTOR: "connector",
    names.DECODER: "language",
    names.DECODER_LAYERS: "language",
    f"{names.EMBEDDING}.": "embed",
    names.HEAD: "embed",
}
WORDS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True) | st.just("0")


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sampled_from(list(PLACES)), st.lists(WORDS, min_size=1, max_size=3))
def test_a_name_survives_every_layout_and_stays_in_its_part(place, words):
    # These come first in the layouts of others; none of our modules has one inside.
    assume(words[0] not in ("model", "vision_model", "lm_head"))
    ours = place + ".".join(words)
    layouts = [ours, names.mlx_name(ours), hub_name(ours), hub_name(ours, vision_model=False)]
    assert [names.our_name(name) for name in layouts] == [ours] * 4
    assert names.part_of(ours) == PLACES[place]


def test_a_message_shows_only_the_beginning_of_names_on_one_line():
    text = names.some(["a" * 10**6, "line\nbreak", "c"])
    assert len(text) < 300
    assert "aaa..." in text
    assert "\n" not in text
