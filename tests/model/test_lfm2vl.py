"""The network: two ways to the same number, the third-party fixture, and mlx-lm's decoder."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import load_tensors, relative_error
from mlx.utils import tree_flatten
from networks import TEXT, lively

from mlx_lfm2vl.checkpoint.config import ModelConfig, ProjectorConfig, TextConfig, VisionConfig
from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.checkpoint.names import our_name
from mlx_lfm2vl.model import lfm2vl as model_module
from mlx_lfm2vl.model import vision
from mlx_lfm2vl.model.conv_window import ConvCache
from mlx_lfm2vl.model.device_ops import _exp_by_parts
from mlx_lfm2vl.model.key_values import BLOCK, KeyValueCache
from mlx_lfm2vl.model.language import LanguageModel, swiglu
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.model.projector import pixel_unshuffle
from mlx_lfm2vl.model.vision import _resize_matrix, gelu_exp, gelu_sigmoid
from mlx_lfm2vl.options import Sampling


@pytest.fixture(scope="module")
def decoder():
    return lively(LanguageModel(TEXT))


@pytest.fixture(scope="module")
def embeds(decoder):
    return decoder.embed_tokens(mx.array([[5, 9, 3, 77, 21, 4, 50]]))


def assert_close(actual, expected, tolerance=2e-6):
    assert relative_error(actual, np.array(expected)) < tolerance


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_prefill_in_chunks_equals_one_pass(decoder, embeds, chunk):
    cache = decoder.make_cache()
    parts = [decoder(embeds[:, i : i + chunk], cache) for i in range(0, 7, chunk)]
    assert_close(mx.concatenate(parts, axis=1), decoder(embeds))
    assert cache.offset == 7


def test_a_cache_changes_nothing(decoder, embeds):
    assert_close(decoder(embeds, decoder.make_cache()), decoder(embeds), 1e-7)


def test_rows_of_a_batch_equal_each_alone(decoder):
    ids = mx.array([[5, 9, 3, 77], [1, 2, 3, 4], [50, 4, 9, 9]])
    embeds = decoder.embed_tokens(ids)
    together = decoder(embeds, decoder.make_cache())
    for row in range(3):
        assert_close(together[row], decoder(embeds[row : row + 1])[0])


def test_later_tokens_do_not_change_earlier_ones(decoder, embeds):
    assert_close(decoder(embeds[:, :4]), decoder(embeds)[:, :4])


def parts_of(cache, kind):
    return [array for layer in cache.layers if isinstance(layer, kind) for array in layer.arrays]


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_a_cache_grows_over_its_blocks(decoder, length):
    ids = mx.arange(length)[None] % 100
    cache = decoder.make_cache()
    head = decoder(decoder.embed_tokens(ids[:, :-2]), cache)
    tail = [
        decoder(decoder.embed_tokens(ids[:, i : i + 1]), cache) for i in (length - 2, length - 1)
    ]
    assert_close(mx.concatenate([head, *tail], axis=1), decoder(decoder.embed_tokens(ids)), 5e-6)
    rows = {part.shape[2] for part in parts_of(cache, KeyValueCache)}
    assert rows == {-(-length // BLOCK) * BLOCK}


def test_the_cache_keeps_two_rows_per_convolution(decoder, embeds):
    cache = decoder.make_cache()
    decoder(mx.tile(embeds, (1, 5, 1)), cache)  # after a short step its inputs are kept, too
    mx.eval(cache.arrays)
    assert [row.shape for row in parts_of(cache, ConvCache)] == [(1, 32)] * 2 * 2
    key_values = 2 * 2 * 2 * BLOCK * 8 * 4  # layers, keys and values, heads, rows, size, bytes
    assert cache.nbytes == key_values + 2 * 2 * 32 * 4


def test_the_decoder_equals_mlx_lms(decoder):
    lfm2 = pytest.importorskip("mlx_lm.models.lfm2")
    arguments = lfm2.ModelArgs(
        model_type="lfm2",
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1000,
        norm_eps=1e-5,
        conv_bias=False,
        conv_L_cache=3,
        block_dim=32,
        block_ff_dim=48,
        block_multiple_of=8,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=False,
        full_attn_idxs=[1, 3],
        rope_theta=1e6,
    )
    theirs = lfm2.Model(arguments)
    weights = [(f"model.{name}", value) for name, value in tree_flatten(decoder.parameters())]
    theirs.load_weights(weights)
    ids = mx.array([[5, 9, 3, 77, 21, 4, 50]])
    logits = decoder.embed_tokens.as_linear(decoder(decoder.embed_tokens(ids)))
    assert_close(logits, theirs(ids), 1e-5)
    ours_cache, their_cache = decoder.make_cache(), theirs.make_cache()
    for i in range(7):
        step = ids[:, i : i + 1]
        hidden = decoder(decoder.embed_tokens(step), ours_cache)
        logits = decoder.embed_tokens.as_linear(hidden)
        assert_close(logits, theirs(step, cache=their_cache), 1e-5)


# -- vision --


@pytest.fixture(scope="module")
def encoder(tiny):
    return tiny[0]


def views(count: int, grid: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (grid[0] * grid[1], 48), dtype=np.uint8) for _ in range(count)]


def test_views_together_equal_each_alone(encoder):
    grids = [(6, 6)] * 3 + [(4, 6)] + [(6, 4)] * 2 + [(6, 6)]
    patches = [view for i, grid in enumerate(grids) for view in views(1, grid, i)]
    together = encoder.encode_images(patches, grids)
    alone = [encoder.encode_images([p], [g]) for p, g in zip(patches, grids, strict=True)]
    assert_close(together, mx.concatenate(alone))


def test_views_in_small_batches_equal_one_batch(encoder, monkeypatch):
    patches = views(5, (6, 6))
    whole = encoder.encode_images(patches, [(6, 6)] * 5)
    for most in (80, 10):  # the second is less than one view
        monkeypatch.setattr(model_module, "MAX_PATCHES", most)
        assert_close(encoder.encode_images(patches, [(6, 6)] * 5), whole)


def test_exp_by_parts_is_exp():
    x = mx.linspace(-87, 87, 100_001)
    assert (mx.abs(_exp_by_parts(x) / mx.exp(x) - 1).max() < 3e-7).item()
    for most, error in ((1, 3e-7), (87, 4.1e-6)):
        near = mx.linspace(-most, most, 100_001)
        true = np.exp(np.array(near, np.float64))
        assert np.abs(np.array(_exp_by_parts(near)) / true - 1).max() < error
    assert _exp_by_parts(mx.array([-1e9, -88.0])).max().item() < 1e-37
    assert mx.isfinite(_exp_by_parts(mx.array([1e9]))).item()
    gradient = mx.grad(lambda x: _exp_by_parts(x).sum())(x[50_000:50_009])
    assert_close(gradient, mx.exp(x[50_000:50_009]), 1e-6)


def test_float_pixels_are_taken_as_normalized(encoder):
    patches = views(1, (6, 6))
    normalized = [(p.astype(np.float32) - 127.5) / 127.5 for p in patches]
    assert_close(
        encoder.encode_images(normalized, [(6, 6)]), encoder.encode_images(patches, [(6, 6)])
    )


def test_height_and_width_are_not_swapped(encoder):
    patches = views(1, (4, 6))
    tall, wide = (encoder.encode_images(patches, [grid]) for grid in ((6, 4), (4, 6)))
    assert float(mx.abs(tall - wide).max()) > 0.1


def test_positions_are_resized_once_per_grid(encoder):
    table = encoder.vision_tower.embeddings
    first = table.positions((6, 4))
    encoder.encode_images(views(1, (6, 4)), [(6, 4)])
    kept = table._resized[6, 4]
    encoder.encode_images(views(2, (6, 4)), [(6, 4)] * 2)
    assert table._resized[6, 4] is kept
    assert_close(kept, first, 1e-7)
    assert not any("_resized" in name for name, _ in tree_flatten(encoder.parameters()))


def test_resized_positions_are_those_of_the_weights_at_hand(encoder, monkeypatch):
    embeddings, patches = encoder.vision_tower.embeddings, mx.zeros((1, 24, 48))
    before = embeddings(patches, (6, 4))
    weight = embeddings.position_embedding.weight
    monkeypatch.setitem(embeddings.position_embedding, "weight", weight + 1)
    assert_close(embeddings(patches, (6, 4)), before + 1)


def test_only_the_latest_grids_keep_their_positions(encoder, monkeypatch):
    monkeypatch.setattr(vision, "MAX_GRIDS", 3)
    embeddings = encoder.vision_tower.embeddings
    embeddings._resized.clear()
    for rows in range(1, 8):
        embeddings(mx.zeros((1, 2 * rows, 48)), (rows, 2))
        assert len(embeddings._resized) <= 3
    assert (7, 2) in embeddings._resized


def test_resizing_a_constant_table_keeps_it_and_small_grids_average():
    for new_size in (1, 3, 16, 40):
        weights = _resize_matrix(16, new_size)
        assert weights.shape == (new_size, 16)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (_resize_matrix(16, 4) > 0).sum(axis=1).min() >= 6  # antialiased: not just two taps
    np.testing.assert_array_equal(_resize_matrix(16, 16), np.eye(16))


def test_pixel_unshuffle_keeps_row_column_channel_order():
    x = mx.arange(4 * 6 * 3).reshape(1, 4, 6, 3)
    folded = np.array(pixel_unshuffle(x, 2))
    assert folded.shape == (1, 2, 3, 12)
    block = np.array(x)[0, 2:4, 4:6]
    np.testing.assert_array_equal(folded[0, 1, 2], block.reshape(-1))
    with pytest.raises(ValueError, match="a 3 x 4 patch grid is not divisible by 2"):
        pixel_unshuffle(mx.zeros((1, 3, 4, 3)), 2)


@pytest.mark.parametrize("gelu", [gelu_sigmoid, gelu_exp])
def test_both_forms_of_gelu_are_the_tanh_approximation(gelu):
    x = mx.linspace(-8, 8, 1001)
    np.testing.assert_allclose(gelu(x), nn.gelu_approx(x), atol=1e-6)
    far = mx.array([-1e4, 1e4]).astype(mx.float16)
    np.testing.assert_array_equal(gelu(far), [0, 1e4])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(
    "function", [gelu_sigmoid, gelu_exp, lambda gate: swiglu(gate, mx.array(1.0, gate.dtype))]
)
def test_gradients_of_activations_are_finite_however_large_these_are(function, dtype):
    x = mx.array([-1e4, -100.0, -50.0, -10.0, 10.0, 50.0, 100.0, 1e4]).astype(dtype)
    gradient = mx.grad(lambda x: function(x).sum())(x)
    np.testing.assert_allclose(gradient.astype(mx.float32), [0] * 4 + [1] * 4, atol=1e-3)


def test_a_wrong_number_of_features_is_an_error(encoder):
    features = encoder.encode_images(views(1, (6, 6)), [(6, 6)])
    with pytest.raises(ValueError, match="2 image tokens for 9 features"):
        encoder.embed([1, 5, 5, 7], features)
    with pytest.raises(ValueError, match="10 image tokens for 9 features"):
        encoder.embed([1, *[5] * 10, 7], features)


def test_embeddings_are_joined_in_place(encoder):
    features = encoder.encode_images(views(1, (6, 6)), [(6, 6)])
    ids = [1, 5, 5, 7, *[5] * 7, 9]
    joined = encoder.embed(ids, features)[0]
    is_image = np.array(ids) == 5
    np.testing.assert_array_equal(np.array(joined)[is_image], np.array(features))
    text = encoder.embed(ids)[0]
    np.testing.assert_array_equal(np.array(joined)[~is_image], np.array(text)[~is_image])


# -- the third-party fixture lfm2_vl_tiny --


def test_third_party_stages(assets):
    folder = assets / "fixtures" / "lfm2_vl_tiny"
    tensors = load_tensors(folder / "tensors.safetensors")
    assert len(tensors) == 87
    tiny = json.loads((folder / "metadata.json").read_text())["tiny_config"]
    config = ModelConfig(
        vision=VisionConfig(
            hidden_size=tiny["vision_hidden_size"],
            intermediate_size=tiny["vision_intermediate_size"],
            num_hidden_layers=tiny["vision_layers"],
            num_attention_heads=tiny["vision_attention_heads"],
            num_channels=3,
            num_patches=tiny["vision_num_patches"],
            patch_size=tiny["patch_size"],
            layer_norm_eps=1e-6,
        ),
        projector=ProjectorConfig(tiny["projector_hidden_size"], True, True, 2),
        text=TextConfig(
            vocab_size=tiny["vocab_size"],
            hidden_size=tiny["text_hidden_size"],
            feed_forward_size=tiny["text_intermediate_size"],
            layer_types=tuple(tiny["text_layer_types"]),
            num_attention_heads=tiny["text_attention_heads"],
            num_key_value_heads=tiny["text_key_value_heads"],
            head_dim=4,
            norm_eps=1e-5,
            conv_L_cache=3,
            rope_theta=10000.0,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        ),
        image_token_id=tiny["image_token_id"],
        eos_token_ids=(2,),
        sampling=Sampling(),
        quantization=None,
    )
    model = Lfm2VL(config, ImageConfig(encoder_patch_size=2, downsample_factor=2)).eval()
    weights = []
    for name, value in tensors.items():
        if name.startswith("weights."):
            ours = our_name(name.removeprefix("weights."))
            value = value.transpose(0, 2, 1) if ours.endswith("conv.conv.weight") else value
            weights.append((ours, mx.array(value)))
    model.load_weights(weights)

    used = {name for name in tensors if name.startswith("weights.")}

    def check(actual, stage, rows=None, tolerance=1e-6):
        used.add(f"stage.{stage}")
        expected = tensors[f"stage.{stage}"][0] if rows else tensors[f"stage.{stage}"]
        assert relative_error(actual, expected[:rows] if rows else expected) < tolerance, stage

    valid = int(tensors["input.pixel_attention_mask"].sum())
    grid = tuple(tensors["input.spatial_shapes"][0].tolist())
    used |= {"input.pixel_attention_mask", "input.spatial_shapes", "input.pixel_values"}
    pixel_values = mx.array(tensors["input.pixel_values"][:, :valid])
    tower = model.vision_tower
    check(tower.embeddings.patch_embedding(pixel_values)[0], "vision.patch_embedding", valid)
    check(tower.embeddings.positions(grid), "vision.resized_position_embedding", valid)
    x = tower.embeddings(pixel_values, grid)
    check(x[0], "vision.embeddings_with_resized_position", valid)
    for i, layer in enumerate(tower.encoder.layers):
        x = layer(x)
        check(x[0], f"vision.encoder_layer.{i}", valid)
    check(tower.post_layernorm(x)[0], "vision.post_layernorm", valid)
    check(tower(pixel_values, grid)[0], "vision.last_hidden_state", valid)
    projector = model.multi_modal_projector
    x = pixel_unshuffle(tower(pixel_values, grid).reshape(1, *grid, -1), 2)
    for stage, layer in {
        "pixel_unshuffle": lambda x: x,
        "layer_norm": projector.layer_norm,
        "linear_1": projector.linear_1,
        "activation": nn.gelu,
        "linear_2": projector.linear_2,
    }.items():
        x = layer(x)
        check(x, f"projector.{stage}")
    features = model.encode_images([np.array(pixel_values[0])], [grid])
    check(features, "projector.output")
    ids = tensors["input.input_ids"][0].tolist()
    check(model.embed(ids, features), "multimodal.merged_embeddings")
    check(model.embed(ids), "text.embeddings")
    cache = model.make_cache()
    hidden = model.language_model(model.embed(ids, features), cache)
    check(hidden, "language.hidden_states")
    check(model.head(hidden), "language.prefill_logits")
    steps = []
    for token in tensors["input.decode_token_ids"][0].tolist():
        steps.append(model.head(model.language_model(model.embed([token]), cache)))
    check(mx.concatenate(steps, axis=1), "language.decode_logits")
    used |= {"input.input_ids", "input.decode_token_ids"}
    assert used == set(tensors)
