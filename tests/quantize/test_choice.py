"""Which matrices are quantized, and with how many bits."""

from dataclasses import replace

import pytest

from mlx_lfm2vl.checkpoint.packing import Scheme
from mlx_lfm2vl.quantize.choice import QuantizeOptions


def test_the_group_is_the_largest_that_divides_a_row():
    options = QuantizeOptions(bits=4, vision_bits=8)
    path = "vision_tower.encoder.layers.0.mlp.fc2"
    sizes = {columns: options.scheme(path, columns, 16) for columns in (3072, 192, 96, 4304)}
    assert [s and s.group_size for s in sizes.values()] == [128, 64, 32, None]
    wanted = replace(options, group_size=64).scheme(
        "language_model.layers.0.conv.in_proj", 1024, 16
    )
    assert wanted == Scheme(4, 64)


@pytest.mark.parametrize(("recipe", "low", "high"), [("mixed_3_6", 3, 6), ("mixed_4_8", 4, 8)])
def test_recipes_spend_bits_where_it_matters(recipe, low, high):
    options = QuantizeOptions(recipe=recipe)

    def bits(path):
        scheme = options.scheme(path, 1024, 16)
        assert scheme is not None
        return scheme.bits

    layer = "language_model.layers.{}.feed_forward.w2"
    assert [i for i in range(16) if bits(layer.format(i)) == high] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert bits("language_model.layers.2.self_attn.v_proj") == low
    assert bits("language_model.layers.0.feed_forward.w1") == low
    assert bits("language_model.embed_tokens") == high


def test_a_mode_without_the_bits_asked_for_gives_way_to_affine():
    options = QuantizeOptions(bits=4, mode="mxfp4", vision_bits=8)
    assert options.scheme("language_model.layers.0.conv.in_proj", 1024, 16) == Scheme(
        4, 32, "mxfp4"
    )
    vision = options.scheme("vision_tower.encoder.layers.0.mlp.fc1", 1024, 16)
    assert vision is not None
    assert (vision.bits, vision.mode) == (8, "affine")


def test_a_group_size_holds_for_its_mode_only():
    path = "vision_tower.encoder.layers.0.mlp.fc1"
    options = QuantizeOptions(bits=4, mode="mxfp4", group_size=32, vision_bits=8)
    assert options.scheme(path, 1024, 16) == Scheme(8, 128)
    affine = QuantizeOptions(bits=4, group_size=64, vision_bits=8)
    assert affine.scheme(path, 1024, 16) == Scheme(8, 64)
    assert affine.scheme(path, 96, 16) == Scheme(8, 32)  # only that divides its rows


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"bits": 4}, 4),
        ({"bits": 4, "embed_bits": 6}, 6),
        ({"embed_bits": 6}, 6),
        ({"recipe": "mixed_3_6"}, 6),
        ({"recipe": "mixed_3_6", "embed_bits": 8}, 8),
    ],
)
def test_the_embedding_has_bits_of_its_own_or_those_of_the_decoder(options, bits):
    chosen = QuantizeOptions(**options)
    assert chosen.quantizes
    assert chosen.scheme("language_model.embed_tokens", 1024, 16) == Scheme(bits, 128)
