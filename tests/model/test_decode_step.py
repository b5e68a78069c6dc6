"""The decode step: as the whole pass, compiled or not, and in half precision."""

import shutil
import weakref
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import relative_error
from networks import TEXT, lively

from mlx_lfm2vl.checkpoint.config import ModelConfig, ProjectorConfig, VisionConfig
from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.generation import sampling
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.model import decode_step as decode_step_module
from mlx_lfm2vl.model import device_ops, language
from mlx_lfm2vl.model.cache import Cache, Rows
from mlx_lfm2vl.model.decode_step import DecodeStep, Passes, decode_step, prefill
from mlx_lfm2vl.model.language import LanguageModel, swiglu
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.model.vision import VisionTower, gelu_exp, gelu_sigmoid
from mlx_lfm2vl.options import Sampling

VISION = VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_channels=3,
    num_patches=16,
    patch_size=2,
    layer_norm_eps=1e-6,
)
MODEL = ModelConfig(
    vision=VISION,
    projector=ProjectorConfig(hidden_size=32, bias=True, use_layernorm=False, downsample_factor=2),
    text=TEXT,
    image_token_id=3,
    eos_token_ids=(1,),
    sampling=Sampling(),
    quantization=None,
)
IDS = [5, 9, 2, 77, 31, 8, 60, 12]
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="MLX compiles with g++ here")


@pytest.fixture(scope="module")
def model():
    return lively(Lfm2VL(MODEL, ImageConfig(encoder_patch_size=2, downsample_factor=2)))


@pytest.fixture
def compiling(monkeypatch):
    """Compile on this CPU what is compiled on a GPU."""
    monkeypatch.setattr(device_ops, "GPU", True)
    for module in (decode_step_module, sampling):
        monkeypatch.setattr(module, "traced", mx.compile)
    for name in ("_gated_sum", "swiglu"):
        compiled = mx.compile(getattr(language, name), shapeless=True)
        monkeypatch.setattr(language, name, compiled)


def steps(model, ids=IDS, begun=3):
    """Logits after each of the ids behind the first few."""
    cache, step = model.make_cache(), DecodeStep(model)
    prefill(model, model.embed(ids[:begun]), cache)
    return mx.stack([step(mx.array([token]), cache)[0] for token in ids[begun:]])


def whole(model, ids=IDS, begun=3):
    return model(ids)[0, begun:]


def test_step_by_step_is_the_whole_pass(model):
    assert relative_error(steps(model), whole(model)) < 1e-5


@needs_compiler
@pytest.mark.usefixtures("compiling")
def test_compiled_is_uncompiled(model):
    assert relative_error(steps(model), whole(model)) < 1e-5


@needs_compiler
@pytest.mark.parametrize(
    "settings",
    [
        Sampling(),
        Sampling(repetition_penalty=1.3),
        Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05),
        Sampling(temperature=1.5, top_k=20, top_p=0.8, min_p=0.02, repetition_penalty=0.9),
    ],
)
def test_the_compiled_sampler_draws_the_same(monkeypatch, settings):
    logits = mx.random.normal((30, 1, 100), key=mx.random.key(1)) * 4

    def tokens():
        sampler = Sampler(settings, [[1, 2, 3]], [4])
        return [int(sampler(row).tokens.item()) for row in logits]

    plain = tokens()
    monkeypatch.setattr(sampling, "traced", mx.compile)
    sampling.chooser.cache_clear()
    assert tokens() == plain
    sampling.chooser.cache_clear()


def test_rows_of_different_lengths_go_on_as_each_alone(model):
    prompts = [[5, 9, 2, 77, 31], [8, 60], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    caches = []
    for ids in prompts:
        caches.append(model.make_cache())
        prefill(model, model.embed(ids), caches[-1])
    batch = Cache.joined([Rows(cache, [0]) for cache in caches])
    step = DecodeStep(model)
    for token in ([11, 12, 13], [21, 22, 23]):
        together = step(mx.array(token), batch)
        alone = [step(mx.array([t]), cache)[0] for t, cache in zip(token, caches, strict=True)]
        assert relative_error(together, mx.stack(alone)) < 1e-5
    # One row leaves, another takes part once more.
    batch = Cache.joined([Rows(batch, [2, 0]), Rows(caches[1], [0])])
    together = step(mx.array([31, 32, 33]), batch)
    alone = [step(mx.array([t]), caches[i])[0] for t, i in ((31, 2), (32, 0), (33, 1))]
    assert relative_error(together, mx.stack(alone)) < 1e-5


def test_a_batch_is_no_wider_than_its_longest_row(model):
    caches = [model.make_cache() for _ in range(2)]
    for length, cache in zip((40, 3), caches, strict=True):
        prefill(model, model.embed(range(1, length + 1)), cache)
    both = Cache.joined([Rows(cache, [0]) for cache in caches])
    assert both.offset == 40
    assert Cache.joined([Rows(both, [1])]).offset == 3


def outlier(module, names: str, scale: float):
    """Let one channel of the residual stream grow enormous, as trained networks do."""
    for name, value in module.named_modules():
        if name.endswith(names):
            value.weight[7] *= scale
    return module


def test_float16_holds_the_decoders_massive_activations():
    decoder = outlier(lively(LanguageModel(TEXT)), "feed_forward.w2", 20_000)
    embeds = decoder.embed_tokens(mx.array([IDS]))
    layer = decoder.layers[0]
    expected = decoder(embeds)
    largest = 0.0
    x = embeds
    for layer in decoder.layers:
        x = layer(x, None, language.Place())
        largest = max(largest, mx.abs(x).max().item())
    assert 10_000 < largest < 60_000  # published ones reach some ten thousand
    decoder.set_dtype(mx.float16)
    assert relative_error(decoder(embeds.astype(mx.float16)), expected) < 0.02


def test_float16_holds_the_towers_massive_activations():
    tower = outlier(lively(VisionTower(VISION)), "mlp.fc2", 30_000)
    pixels = mx.random.normal((1, 16, tower.embeddings.patch_embedding.weight.shape[1]))
    expected = tower(pixels, (4, 4))
    tower.set_dtype(mx.float16)
    tower.embeddings._resized.clear()
    assert relative_error(tower(pixels.astype(mx.float16), (4, 4)), expected) < 0.02


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_activations_are_computed_in_float32(dtype):
    gate = mx.array([-300.0, -60, -1, 0, 2, 250]).astype(dtype)
    up = mx.array([300.0, 60, 1, 5, -2, 250]).astype(dtype)
    wide = gate.astype(mx.float32)
    expected = (wide * mx.sigmoid(wide) * up.astype(mx.float32)).astype(dtype)
    assert mx.allclose(swiglu(gate, up), expected, rtol=1e-2).item()
    x = mx.linspace(-400, 400, 801).astype(dtype)
    exact = gelu_exp(x.astype(mx.float32)).astype(dtype)
    assert mx.allclose(gelu_sigmoid(x), exact, rtol=1e-2, atol=1e-6).item()


def test_the_sigmoid_form_of_gelu_is_nearer_than_the_rounded_tanh_form():
    half = mx.linspace(-6, 6, 4001).astype(mx.bfloat16)
    x = half.astype(mx.float32)
    exact = 0.5 * x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x**3)))
    # What others do: every operation rounded to bfloat16.
    tanh = 0.5 * half * (1 + mx.tanh(0.7978845608 * (half + 0.044715 * half**3)))
    ours, others = (mx.abs(form - exact).mean().item() for form in (gelu_sigmoid(half), tanh))
    assert ours < 0.7 * others


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_convolutions_have_any_number_of_taps(taps):
    text = replace(TEXT, conv_L_cache=taps)
    image = ImageConfig(encoder_patch_size=2, downsample_factor=2)
    model = lively(Lfm2VL(replace(MODEL, text=text), image))
    assert relative_error(steps(model), whole(model)) < 1e-5


@pytest.mark.parametrize("kinds", ["AC", "CA", "AA", "CC", "ACCA", "CAAC"])
def test_layers_may_come_in_any_order(kinds):
    names = {"A": "full_attention", "C": "conv"}
    text = replace(TEXT, layer_types=tuple(names[kind] for kind in kinds))
    image = ImageConfig(encoder_patch_size=2, downsample_factor=2)
    model = lively(Lfm2VL(replace(MODEL, text=text), image))
    assert relative_error(steps(model), whole(model)) < 1e-5


def test_the_step_is_kept_until_the_weights_change():
    image = ImageConfig(encoder_patch_size=2, downsample_factor=2)
    model = lively(Lfm2VL(MODEL, image))
    step, number = decode_step(model), id(model)
    assert decode_step(model) is step
    layer = model.layers[0].feed_forward.w1
    layer.weight = layer.weight + 1
    assert decode_step(model) is not step
    assert relative_error(steps(model), whole(model)) < 1e-5
    kept = weakref.ref(model)
    del model, layer
    assert kept() is None  # no cycle keeps the weights alive
    assert number not in decode_step_module._kept


def test_a_weight_that_is_added_makes_another_step():
    untied = replace(MODEL, text=replace(TEXT, tie_word_embeddings=False))
    image = ImageConfig(encoder_patch_size=2, downsample_factor=2)
    model = lively(Lfm2VL(untied, image))
    step = decode_step(model)
    model.lm_head.bias = mx.ones(TEXT.vocab_size)  # behind all others
    assert not step.is_of(model)
    assert decode_step(model) is not step


def test_a_decoded_token_cannot_be_taken_back(model):
    cache = model.make_cache()
    model.language_model(model.embed(IDS), cache)
    assert cache.can_trim(1)
    DecodeStep(model)(mx.array([7]), cache)
    assert not cache.can_trim(1)


@pytest.mark.parametrize(("chunk", "ends"), [(8, [4, 7]), (1, [1, 2, 3, 4, 5, 6, 7])])
def test_a_pass_over_a_batch_has_as_many_positions_as_one_over_a_row(
    model, monkeypatch, chunk, ends
):
    monkeypatch.setattr(decode_step_module, "PREFILL_CHUNK", chunk)
    embeds = mx.concatenate([model.embed(range(row, row + 7)) for row in (10, 20)])
    done = []
    logits = prefill(model, embeds, model.make_cache(), Passes(lambda *passed: done.append(passed)))
    assert done == [(end, 7) for end in ends]
    expected = mx.concatenate([model(range(row, row + 7))[:, -1] for row in (10, 20)])
    assert relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_later_tokens_do_not_change_earlier_ones_in_half_precision(dtype):
    decoder = lively(LanguageModel(TEXT))
    decoder.set_dtype(dtype)
    embeds = decoder.embed_tokens(mx.array([IDS]))
    whole, begun = (decoder(x).astype(mx.float32) for x in (embeds, embeds[:, :4]))
    assert relative_error(whole[:, :4], np.array(begun)) < 0.02
