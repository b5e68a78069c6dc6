"""Learned quantization: packed as MLX packs, and better than rounding to nearest."""

from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from pictures import make_picture

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.packing import Scheme
from mlx_lfm2vl.commands.convert import main
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.samples import Sample
from mlx_lfm2vl.quantize.float_rounding import ONES, Grid
from mlx_lfm2vl.quantize.learned_rounding import learn_rounding, learnable_paths
from mlx_lfm2vl.quantize.loss_report import compare, observe
from mlx_lfm2vl.quantize.rounding import learn_packed, pack, restored, round_to_nearest
from mlx_lfm2vl.saving import save_checkpoint

LAYERS = (
    "vision_tower.encoder.layers.0.mlp.fc1",
    "multi_modal_projector.linear_1",
    "language_model.layers.0.conv.in_proj",
    "language_model.layers.1.self_attn.q_proj",
    "language_model.layers.2.feed_forward.w2",
)


FLOATS = (Scheme(4, 32, "mxfp4"), Scheme(8, 32, "mxfp8"), Scheme(4, 16, "nvfp4"))


@pytest.fixture(scope="module")
def dense(wide):
    return load(wide, dtype="float32")


def drawn(processor, numbers):
    """Samples with one image each; the last four ids count as the answer."""
    made = []
    for n in numbers:
        inputs = processor(user_message(f"What is number {n}?", [make_picture(40 + 8 * n, 90, n)]))
        is_answer = np.arange(len(inputs.input_ids)) >= len(inputs.input_ids) - 4
        made.append(Sample(inputs.input_ids, is_answer, inputs.pixel_values, inputs.spatial_shapes))
    return made


def inputs_of_layers(model, samples) -> dict[str, mx.array]:
    """What the dense model gives each of LAYERS, (N, D)."""
    seen = {path: [] for path in LAYERS}

    class Tap(nn.Module):
        def __init__(self, layer, inputs):
            super().__init__()
            self.layer, self.inputs = layer, inputs

        def __call__(self, x):
            self.inputs.append(x.flatten(0, -2))
            return self.layer(x)

    modules = dict(model.named_modules())
    layers = [(path, modules[path]) for path in LAYERS]
    taps = [(path, Tap(layer, seen[path])) for path, layer in layers]
    model.update_modules(tree_unflatten(taps))
    for sample in samples:
        mx.eval(model(sample.input_ids, sample.pixel_values, sample.spatial_shapes))
    model.update_modules(tree_unflatten(layers))
    return {path: mx.concatenate(inputs) for path, inputs in seen.items()}


@pytest.fixture(scope="module")
def seen_and_unseen(dense):
    """Samples to learn from and samples held back, each with what they give the layers."""
    model, processor = dense
    both = drawn(processor, range(4)), drawn(processor, (6, 7))
    return [(samples, inputs_of_layers(model, samples)) for samples in both]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_packed_as_mlx_packs_them(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 64)).astype(np.uint8)
    codes[:, :2] = 0, 2**bits - 1  # so that MLX finds a scale of 1
    packed = mx.array(pack(codes, bits))
    one, zero = mx.ones((5, 2)), mx.zeros((5, 2))
    restored = mx.dequantize(packed, one, zero, 32, bits)
    np.testing.assert_array_equal(np.array(restored), codes)
    assert packed.shape == mx.quantize(mx.array(codes.astype(np.float32)), 32, bits)[0].shape


def output_errors(weight, scheme, seed) -> tuple[float, float]:
    """||X(W - Wq)ᵀ|| of a weight that learns from random inputs X, and rounded to nearest."""
    mx.random.seed(seed)
    seen = mx.random.normal((1 + 50 * (seed % 2), weight.shape[1]))
    gap = np.zeros(weight.shape[::-1], np.float32)
    learned = learn_packed(weight, np.array(seen.T @ seen), gap, scheme, mx.float16)
    nearest = round_to_nearest(weight.astype(mx.float16), scheme)
    changes = [weight - restored(packed, scheme, mx.float32) for packed in (learned, nearest)]
    learned, nearest = (mx.linalg.norm(seen @ change.T).item() for change in changes)
    return learned, nearest


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_weight_learns_to_put_out_less_error(bits):
    for seed in range(10):
        learned, nearest = output_errors(mx.random.normal((2, 64)), Scheme(bits, 32), seed)
        assert learned < nearest


@pytest.mark.parametrize("scheme", FLOATS, ids=lambda scheme: scheme.mode)
def test_a_weight_of_small_floats_learns_to_put_out_less_error(scheme):
    for seed in range(10):
        learned, nearest = output_errors(mx.random.normal((2, 64)), scheme, seed)
        assert learned < nearest


@pytest.mark.parametrize("scheme", FLOATS, ids=lambda scheme: scheme.mode)
def test_small_floats_are_the_values_that_mlx_reads(scheme):
    grid = Grid(scheme)
    assert (np.diff(grid.values) > 0).all()
    codes, values = np.resize(grid.codes, 256), np.resize(grid.values, 256)
    scales = mx.full((1, 256 // scheme.group_size), ONES[scheme.mode], dtype=mx.uint8)
    packed = mx.array(pack(codes[None], scheme.bits)), scales
    np.testing.assert_array_equal(np.array(restored(packed, scheme, mx.float32))[0], values)
    exact = grid.values[grid.nearest(grid.values * 1.001)]
    np.testing.assert_array_equal(exact, grid.values)
    assert grid.values[grid.nearest(np.array([-1e9, 1e9]))].tolist() == [values.min(), values.max()]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_weight_that_rounding_to_nearest_keeps_exactly_stays_exact(bits):
    scheme = Scheme(bits, 32)
    for seed in range(10):
        weight = mx.random.normal((2, 64))
        for _ in range(3):
            packed = round_to_nearest(weight.astype(mx.float16), scheme)
            weight = restored(packed, scheme, mx.float32)
        assert output_errors(weight, scheme, seed) == (0, 0)


@pytest.mark.parametrize(
    ("path", "bits"),
    [
        *((path, 3) for path in LAYERS),
        (LAYERS[0], 4),
        *(pytest.param(path, 4, marks=pytest.mark.slow) for path in LAYERS[1:]),
    ],
)
def test_a_layer_puts_out_less_error_than_rounded_to_nearest(dense, seen_and_unseen, path, bits):
    model, _ = dense
    scheme = Scheme(bits, 64)
    (samples, seen), (_, unseen) = seen_and_unseen
    learned = learn_rounding(model, {path: scheme}, samples, dtype=mx.float32)
    assert set(learned) == {path}
    weight = named_arrays(model.parameters())[f"{path}.weight"]
    plain = mx.quantize(weight, scheme.group_size, bits)
    assert [a.shape for a in learned[path]] == [a.shape for a in plain]
    assert [a.dtype for a in learned[path]] == [a.dtype for a in plain]
    changes = [
        weight - mx.dequantize(*packed, **asdict(scheme)) for packed in (learned[path], plain)
    ]
    for inputs, share in ((seen, 0.8), (unseen, 1.0)):
        ours, nearest = (mx.linalg.norm(inputs[path] @ change.T).item() for change in changes)
        assert ours < share * nearest


@pytest.mark.slow
def test_the_whole_model_stays_nearer_to_its_source(wide, dense):
    model, processor = dense
    schemes = {path: Scheme(3, 64) for path in learnable_paths(model, everything(model))}
    before = {name: np.array(value) for name, value in named_arrays(model.parameters()).items()}
    learned = learn_rounding(model, schemes, drawn(processor, range(3)), dtype=mx.float32)
    again = learn_rounding(model, schemes, drawn(processor, range(3)), dtype=mx.float32)
    assert set(learned) == set(schemes)
    for path, arrays in learned.items():
        for one, other in zip(arrays, again[path], strict=True):
            assert mx.array_equal(one, other), path
    for name, value in named_arrays(model.parameters()).items():
        np.testing.assert_array_equal(value, before[name])
    plain = {path: mx.quantize(mx.array(before[f"{path}.weight"]), 64, 3) for path in schemes}
    unseen = drawn(processor, (7, 8))
    source = [observe(model, sample) for sample in unseen]
    losses = []
    for packed in (learned, plain):
        other, _ = load(wide, dtype="float32")
        weights = [
            (f"{path}.weight", mx.dequantize(*arrays, 64, 3)) for path, arrays in packed.items()
        ]
        other.load_weights(weights, strict=False)
        quality = compare(source, lambda n, other=other: observe(other, unseen[n]))
        losses.append((quality["text"]["kl"], quality["image"]["kl"]))
    assert losses[0] < losses[1]
    assert losses[0][1] < losses[1][1]


def everything(model):
    return {path: Scheme(3, 64) for path, _ in model.named_modules()}


def test_images_are_part_of_what_is_learned(dense):
    model, processor = dense
    path = "language_model.layers.0.feed_forward.w1"
    first, second = ([processor(user_message("What?", [make_picture(64, 96, n)]))] for n in (1, 2))
    assert first[0].input_ids == second[0].input_ids
    one, other = (
        learn_rounding(model, {path: Scheme(3, 64)}, samples, dtype=mx.float32)[path]
        for samples in (first, second)
    )
    assert not mx.array_equal(one[0], other[0])


def test_layers_undo_the_rounding_of_the_embedding(dense):
    model, processor = dense
    path, embedding = "language_model.layers.0.conv.in_proj", "language_model.embed_tokens"
    samples = drawn(processor, [1])
    alone, after = (
        learn_rounding(model, {path: Scheme(3, 64), **more}, samples, dtype=mx.float32)
        for more in ({}, {embedding: Scheme(2, 64)})
    )
    assert set(alone) == set(after) == {path}
    assert not mx.array_equal(alone[path][0], after[path][0])


def test_nothing_to_learn_is_an_error(dense):
    model, processor = dense
    samples = drawn(processor, [1])
    for schemes in ({}, {"language_model.embed_tokens": Scheme(4, 32)}):
        with pytest.raises(InputError, match="nothing to learn"):
            learn_rounding(model, schemes, samples, dtype=mx.float32)


@pytest.fixture
def photos(tmp_path):
    """A folder of small pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        make_picture(50, 60 + 8 * number, number).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_the_command_learns_at_the_same_size_and_loses_less(wide, photos, tmp_path):
    import json

    reports = {}
    for name, extra in (("plain", []), ("learned", ["--learned"])):
        target = tmp_path / name
        options = ["--bits", "3", "--vision-bits", "3", "--projector-bits", "3", *extra]
        options += ["--calibration", str(photos)]
        assert main(["--model", str(wide), "--output", str(target), *options]) == 0
        reports[name] = json.loads((target / "quantization_report.json").read_text())
    plain, learned = reports["plain"], reports["learned"]
    assert learned["sizes"] == plain["sizes"]
    assert learned["quality"]["text"]["kl"] < plain["quality"]["text"]["kl"]
    assert learned["settings"] == f"{plain['settings']}; rounding learned on sample images"


def test_a_packed_source_cannot_be_learned_from(wide, tmp_path, capsys):
    eight, four = tmp_path / "eight", tmp_path / "four"
    options = ["--no-report", "--bits"]
    assert main(["--model", str(wide), "--output", str(eight), *options, "8"]) == 0
    capsys.readouterr()
    arguments = ["--model", str(eight), "--output", str(four), *options, "4", "--learned"]
    assert main(arguments) == 2
    assert "needs a source that is not quantized" in capsys.readouterr().err


@pytest.mark.slow
def test_scales_have_the_type_of_the_matrices_and_not_of_the_norms(wide, photos, tmp_path):
    model, _ = load(wide, dtype="float16")
    norm = model.language_model.embedding_norm
    norm.weight = norm.weight.astype(mx.float32)
    save_checkpoint(model, wide, tmp_path / "mixed")
    target = tmp_path / "q"
    arguments = ["--model", str(tmp_path / "mixed"), "--output", str(target), "--no-report"]
    assert main([*arguments, "--bits", "4", "--learned", "--calibration", str(photos)]) == 0
    loaded, _ = load(target, dtype="float16")
    assert loaded.language_model.layers[0].conv.in_proj.scales.dtype == mx.float16
