"""Merging an adapter into quantized layers: measured, said, and kept when told."""

import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import golden, relative_error
from pictures import make_picture
from training_runs import perturb, write_rows
from weights import quantized

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.quantize.merging import MergeLoss
from mlx_lfm2vl.training.adapters import (
    adapted_paths,
    add_adapter,
    fuse_adapter,
    load_adapter,
    quantized_bases,
    save_adapter,
    without_adapter,
)

SETTINGS = {"rank": 4, "scale": 1.0, "dropout": 0.0}


def make_base(folder: Path, mode: str = "affine") -> Path:
    """A tiny checkpoint with a quantized decoder."""
    shutil.copytree(golden("untied_sharded_bf16").folder, folder)
    quantized(folder, lambda path: 4 if "language_model.model.layers" in path else None, mode)
    return folder


def make_adapter(base: Path, folder: Path, size: float = 1.0, method: str = "lora") -> Path:
    """An adapter on the quantized layers."""
    model, _ = load(base, dtype="float32")
    paths = adapted_paths(model, ["language"])
    add_adapter(model, paths, dora=method == "dora", **SETTINGS)
    perturb(model)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = module.lora_b * size
    settings = {"fine_tune_type": method, "num_layers": 0}
    save_adapter(model, folder, {**settings, "lora_parameters": {**SETTINGS, "keys": paths}})
    return folder


def adapted(base: Path, adapter: Path):
    model, processor = load(base, dtype="float32")
    load_adapter(model, adapter)
    return model, processor


def logits(model, processor) -> np.ndarray:
    inputs = processor(user_message("What is this?", [make_picture(30, 45, 1)]))
    return np.array(model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes))


@pytest.fixture
def rows(tmp_path) -> Path:
    """A folder of three conversations."""
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = []
    for number in range(3):
        make_picture(30, 30 + number, number).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "prompt": "Which?", "answer": f"number {number}"})
    write_rows(folder / "rows.jsonl", lines)
    return folder


def divergences(text: str) -> tuple[float, float]:
    """What merging lost and what the adapter had changed, as `fuse` prints them."""
    found = re.search(r"changes answers by KL (\S+), the adapter by (\S+) \(3 prompts\)", text)
    assert found
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_the_loss_is_said_and_learned_rounding_keeps_most(mode, rows, tmp_path, capsys):
    base = make_base(tmp_path / "base", mode)
    adapter = make_adapter(base, tmp_path / "adapter")
    arguments = ["-m", str(base), "--adapter", str(adapter), "--calibration", str(rows)]
    assert fuse([*arguments, "--output", str(tmp_path / "nearest")]) == 0
    said = capsys.readouterr().err
    assert "--dequantize keeps all of it, --learned most of it at the same size" in said
    nearest, learnt = divergences(said)
    assert fuse([*arguments, "--output", str(tmp_path / "learned"), "--learned"]) == 0
    learned, same = divergences(capsys.readouterr().err)
    assert same == learnt
    assert learned < nearest / 3
    one, other = (load(tmp_path / name, dtype="float32")[0] for name in ("nearest", "learned"))
    shapes = [{n: (v.shape, v.dtype) for n, v in named_arrays(m).items()} for m in (one, other)]
    assert shapes[0] == shapes[1]
    assert any(name.endswith(".scales") for name in shapes[0])


def test_a_merge_that_loses_the_adapter_says_so(rows, tmp_path, capsys):
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", size=0.02)
    arguments = ["-m", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert fuse([*arguments, "--calibration", str(rows)]) == 0
    said = capsys.readouterr().err
    lost, learnt = divergences(said)
    assert lost > learnt
    assert "note: little of the adapter is left" in said
    assert fuse([*arguments, "--overwrite", "--dequantize"]) == 0
    assert "KL" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_without_quantizing_nothing_is_lost(method, mode, tmp_path):
    base = make_base(tmp_path / "base", mode)
    adapter = make_adapter(base, tmp_path / "adapter", method=method)
    model, processor = adapted(base, adapter)
    wanted = logits(model, processor)
    fuse_adapter(model, dequantize=True)
    assert relative_error(logits(model, processor), wanted) < 1e-5
    types = {value.dtype for value in named_arrays(model.parameters()).values()}
    assert types == {mx.float32}


def test_too_much_is_lost_if_the_base_is_nearer_than_what_was_learned():
    assert MergeLoss(learnt=0.052, lost=0.030, kept=0.007).is_too_much
    assert MergeLoss(learnt=0.01, lost=0.02, kept=0.03).is_too_much
    assert not MergeLoss(learnt=1.58, lost=0.01, kept=1.4).is_too_much


def test_an_adapter_can_be_taken_out_for_a_while(tmp_path):
    base = make_base(tmp_path / "base")
    model, processor = adapted(base, make_adapter(base, tmp_path / "adapter"))
    wanted, plain = logits(model, processor), logits(*load(base, dtype="float32"))
    assert set(quantized_bases(model)) == set(adapted_paths(load(base)[0], ["language"]))
    with without_adapter(model):
        np.testing.assert_array_equal(logits(model, processor), plain)
    np.testing.assert_array_equal(logits(model, processor), wanted)


def test_the_hub_layout_unpacks_everything(tmp_path, capsys):
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    arguments = ["-m", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "hub")]
    assert fuse([*arguments, "--layout", "hub"]) == 2
    assert "add --dequantize" in capsys.readouterr().err
    assert fuse([*arguments, "--layout", "hub", "--dequantize"]) == 0
    model, processor = load(tmp_path / "hub", dtype="float32")
    assert not any(name.endswith(".scales") for name in named_arrays(model.parameters()))
    assert relative_error(logits(model, processor), logits(*adapted(base, adapter))) < 1e-5


def test_options_without_effect_are_refused(tmp_path, capsys):
    base = golden("untied_sharded_bf16").folder
    adapter = make_adapter(base, tmp_path / "adapter")
    arguments = ["-m", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    for extra, message in (
        (["--learned"], "for an adapter on quantized layers"),
        (["--calibration", str(tmp_path)], "for an adapter on quantized layers"),
        (["--learned", "--dequantize"], "remove one of the two"),
    ):
        assert fuse([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err
