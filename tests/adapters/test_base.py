"""An adapter knows its base: a quantized copy is fine, a fine-tune is noted, another is refused."""

import json
import shutil

import mlx.core as mx
import pytest
from adapter_cases import ADAPTERS, TINY, edited
from conftest import edit_json
from weights import quantized

from mlx_lfm2vl.adapters.apply import apply_adapters
from mlx_lfm2vl.adapters.base import describe_base
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL


@pytest.fixture
def trained(tmp_path, wide):
    """An adapter of one layer that was trained on the checkpoint `wide`."""
    model, _ = load(wide, dtype="float32")
    folder = tmp_path / "adapter"
    folder.mkdir()
    path = "language_model.model.layers.0.feed_forward.w1"
    inputs, outputs = model.config.text.hidden_size, model.config.text.feed_forward_size
    factors = {"lora_a": mx.ones((inputs, 1)), "lora_b": mx.ones((1, outputs))}
    named = {f"{path}.{key}": value for key, value in factors.items()}
    mx.save_safetensors(str(folder / "adapters.safetensors"), named)
    settings = {"rank": 1, "scale": 1.0, "dropout": 0.0, "keys": [path]}
    config = {"lora_parameters": settings, "base": describe_base(model, "LiquidAI/Wide")}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def notes(model: Lfm2VL, folder, caplog, name: str = "LiquidAI/Wide") -> list[str]:
    apply_adapters(model, [(folder, 1.0)], name)
    return caplog.messages


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_base_itself_is_taken_in_any_type(dtype, trained, wide, caplog):
    assert notes(load(wide, dtype=dtype)[0], trained, caplog) == []
    assert describe_base(load(wide)[0], str(wide))["name"] == "checkpoint"  # not its place


def test_a_quantized_copy_is_taken(trained, wide, tmp_path, caplog):
    folder = shutil.copytree(wide, tmp_path / "quantized")
    quantized(folder, lambda path: 4 if "layers" in path else None)
    assert notes(load(folder)[0], trained, caplog) == []


@pytest.mark.parametrize("part", ["norm", "w1"])
def test_a_fine_tune_of_the_base_is_noted(part, trained, wide, caplog):
    model, _ = load(wide, dtype="float32")
    if part == "norm":
        model.language_model.embedding_norm.weight *= 1.03
    else:
        model.layers[0].feed_forward.w1.weight *= 1.05
    (note,) = notes(model, trained, caplog, "me/tuned")
    assert "was trained on LiquidAI/Wide, and me/tuned has other weights" in note


def test_another_model_of_the_same_shapes_is_refused(trained, wide):
    model, _ = load(wide, dtype="float32")
    norm = model.language_model.embedding_norm
    norm.weight = mx.random.normal(norm.weight.shape) + 1
    with pytest.raises(CheckpointError, match="trained on LiquidAI/Wide, and other is another mod"):
        apply_adapters(model, [(trained, 1.0)], "some/where/other")
    edit_json(trained / "adapter_config.json", base=None)
    apply_adapters(model, [(trained, 1.0)], "some/where/other")


@pytest.mark.parametrize("base", [7, {"name": 7}, {"norms": "x"}, {"norms": [["x"], [None]]}])
def test_a_damaged_description_tells_nothing(base, trained, wide, caplog):
    edit_json(trained / "adapter_config.json", base=base)
    assert notes(load(wide)[0], trained, caplog) == []


@pytest.mark.parametrize(
    ("base", "model", "is_noted"),
    [
        ("LiquidAI/LFM2.5-VL-450M", "450m", False),
        ("LiquidAI/LFM2.5-VL-450M", "/data/LFM2.5-VL-450M-4bit", False),
        ("unsloth/lfm2.5-vl-450m", "LiquidAI/LFM2.5-VL-450M", False),
        ("LiquidAI/LFM2-VL-450M", "450m", True),
        ("/home/someone/secret/run 3", "demo", True),
        (None, "demo", False),
        (["x"], "demo", False),
    ],
)
def test_a_name_alone_is_noted_if_it_differs(base, model, is_noted, tmp_path, caplog):
    copy = edited(ADAPTERS / "lora", tmp_path / "copy", base_model_name_or_path=base)
    found = notes(load(TINY)[0], copy, caplog, model)
    assert bool(found) == is_noted
    assert all("cannot be told" in note and "secret" not in note for note in found)
