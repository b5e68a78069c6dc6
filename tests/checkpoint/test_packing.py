"""Quantized checkpoints: read as their settings say, and refused when these do not fit."""

import shutil

import mlx.nn as nn
import numpy as np
import pytest
from conftest import edit_json, golden, relative_error
from weights import quantized

from mlx_lfm2vl.checkpoint.config import VisionConfig
from mlx_lfm2vl.checkpoint.packing import Scheme, quantization_config, written_scheme
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.vision import VisionTower
from mlx_lfm2vl.prompt.messages import user_message


@pytest.fixture
def wide(tmp_path):
    """A tiny checkpoint whose text tower is wide enough to quantize."""
    folder = golden("untied_sharded_bf16").folder
    return shutil.copytree(folder, tmp_path / "wide")


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_a_quantized_repository_equals_its_dequantized_weights(wide, mode):
    plain, _ = load(wide, dtype="float32")
    nn.quantize(
        plain,
        class_predicate=lambda path, module: (
            {"group_size": 32, "bits": 4, "mode": mode}
            if path.startswith("language_model") and "linear" in type(module).__name__.lower()
            else False
        ),
    )
    quantized(wide, lambda path: 4 if "language_model.model.layers" in path else None, mode)
    model, processor = load(wide, dtype="float32")
    kinds = {type(m).__name__ for _, m in model.named_modules()}
    assert "QuantizedLinear" in kinds
    inputs = processor(user_message("Hello", []))
    ours, theirs = model(inputs.input_ids), plain(inputs.input_ids)
    assert relative_error(ours, np.array(theirs)) < 1e-6


def test_mixed_bits_are_found_by_full_path(wide):
    head = "language_model.model.embed_tokens"
    overrides = {head: {"group_size": 32, "bits": 8}, "language_model.lm_head": False}

    def bits(path):
        if "lm_head" in path or "vision" in path or "projector" in path:
            return None
        return 8 if path == head else 4

    quantized(wide, bits, overrides=overrides)
    model, _ = load(wide)
    assert model.language_model.embed_tokens.bits == 8
    assert model.language_model.layers[0].feed_forward.w1.bits == 4
    assert isinstance(model.lm_head, nn.Linear)


def test_overrides_are_found_by_the_end_of_a_path_and_have_defaults_of_their_own(wide):
    # As mlx-vlm writes an untied head of 8 bits in a repository of another mode.
    overrides = {"language_model.lm_head": {"group_size": 32, "bits": 8}, "w2": {"bits": 8}}
    overrides["w2"]["group_size"] = 32

    def bits(path):
        if path.endswith("lm_head") or path.endswith("w2"):
            return 8
        return 4 if "language_model.model.layers" in path else None

    quantized(wide, bits, overrides=overrides)
    edit_json(wide / "config.json", quantization__mode="affine")
    model, _ = load(wide)
    assert model.lm_head.bits == 8
    assert model.language_model.layers[0].feed_forward.w2.bits == 8
    assert model.language_model.layers[0].feed_forward.w1.bits == 4


def test_the_longest_end_of_a_path_decides():
    settings = {
        "bits": 4,
        "group_size": 64,
        "w1": {"bits": 8},
        "layers.0.feed_forward.w1": {"bits": 6},
        "rs.0.feed_forward.w1": {"bits": 2},  # no whole name
    }
    path = "language_model.layers.{}.feed_forward.w1"
    assert written_scheme(path.format(0), settings).bits == 6
    assert written_scheme(path.format(1), settings).bits == 8
    backwards = dict(reversed(settings.items()))
    assert written_scheme(path.format(0), backwards).bits == 6


def test_the_config_names_the_common_scheme_and_the_others():
    schemes = {"a": Scheme(4, 64), "b": Scheme(4, 64), "c": Scheme(8, 32)}
    assert quantization_config(schemes) == {
        "bits": 4,
        "group_size": 64,
        "mode": "affine",
        "c": {"bits": 8, "group_size": 32, "mode": "affine"},
    }


def test_quantization_that_does_not_fit_the_config_is_named(wide):
    quantized(wide, lambda path: 8 if "layers" in path and "language" in path else None)
    with pytest.raises(CheckpointError, match="4 bits in groups of 32 do not fit"):
        load(wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "foo"}, "mode 'foo' is not one of affine"),
        ({"group_size": 16}, "affine has no group size 16"),
        ({"bits": "four"}, "affine has no bits 'four'"),
        ({"bits": 3}, "3 bits in groups of 32 do not fit"),
    ],
)
def test_impossible_quantization_settings_are_one_line(wide, change, message):
    quantized(wide, lambda path: 4 if "language_model.model.layers" in path else None)
    edit_json(wide / "config.json", **{f"quantization__{k}": v for k, v in change.items()})
    with pytest.raises(CheckpointError, match=message):
        load(wide)


def test_a_quantized_position_table_works():
    config = VisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_channels=3,
        num_patches=16,
        patch_size=4,
        layer_norm_eps=1e-6,
    )
    embeddings = VisionTower(config).eval().embeddings
    dense = embeddings.positions((3, 5))
    nn.quantize(embeddings, 32, 8, class_predicate=lambda path, _: "position" in path)
    assert type(embeddings.position_embedding) is nn.QuantizedEmbedding
    assert relative_error(embeddings.positions((3, 5)), np.array(dense)) < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": {}}, "mode {} is not one of"),
        ({"mode": ["affine"]}, "is not one of"),
        ({"bits": 4.0}, "has no bits 4.0"),
        ({"group_size": 32.0}, "has no group size 32.0"),
        ({"bits": 10**400}, "has no bits 1000"),
        ({"layer": {"mode": {}}}, "mode {} is not one of"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_of_a_wrong_kind_are_named_in_a_line(changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        written_scheme("layer", {"bits": 4, "group_size": 32, **changes})
    assert len(str(error.value)) < 200
