"""Adapters of mlx-lm and mlx-vlm: with and without keys, and mlx-vlm's first format."""

import json

import mlx.core as mx
import numpy as np
import pytest
from adapter_cases import ADAPTERS, TINY, logits
from conftest import edit_json, load_tensors

from mlx_lfm2vl.adapters.apply import apply_adapters
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load

LAYERS = {"feed_forward.w1": (16, 32), "feed_forward.w2": (32, 16)}  # inputs, outputs
BLOCK = "language_model.model.layers"


def factors(blocks, *, prefix: str = BLOCK, names=("lora_a", "lora_b")) -> dict[str, mx.array]:
    """Random factors of rank 2 of the feed-forward layers of some blocks."""
    found = {}
    for block in blocks:
        for path, (inputs, outputs) in LAYERS.items():
            mx.random.seed(block)
            found[f"{prefix}.{block}.{path}.{names[0]}"] = mx.random.normal((inputs, 2))
            found[f"{prefix}.{block}.{path}.{names[1]}"] = mx.random.normal((2, outputs)) * 0.1
    return found


def write(folder, tensors, config, file: str = "adapters.safetensors"):
    folder.mkdir()
    mx.save_safetensors(str(folder / file), tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def settings(**more) -> dict:
    return {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 5.0, **more}}


@pytest.fixture
def expected(tmp_path, model_and_processor):
    """Logits with the factors of blocks 1 and 2."""
    model, processor = model_and_processor
    keys = [f"{BLOCK}.{i}.{path}" for i in (1, 2) for path in LAYERS]
    apply_adapters(model, [(write(tmp_path / "a", factors([1, 2]), settings(keys=keys)), 1.0)])
    return logits(model, processor)


def check(folder, expected) -> None:
    model, processor = load(TINY, dtype="float32", adapter=folder)
    np.testing.assert_array_equal(logits(model, processor), expected)


def test_keys_within_the_last_blocks_are_read(tmp_path, expected):
    config = {**settings(keys=list(LAYERS)), "num_layers": 2}
    check(write(tmp_path / "b", factors([1, 2]), config), expected)
    with pytest.raises(CheckpointError, match="incomplete: it has no .*layers.1.feed_forward.w1"):
        check(write(tmp_path / "c", factors([2]), config), expected)


def test_the_tensors_name_the_layers_if_there_are_no_keys(tmp_path, expected):
    for number, prefix in enumerate((BLOCK, "model.layers", "language_model.layers")):
        tensors = factors([1, 2], prefix=prefix)
        check(write(tmp_path / f"b{number}", tensors, settings(dropout=None)), expected)


def test_all_linear_layers_of_the_last_blocks_are_needed_without_keys(
    tmp_path, model_and_processor
):
    config = {**settings(), "num_layers": 1}
    folder = write(tmp_path / "b", factors([2]), config)
    with pytest.raises(CheckpointError, match="incomplete: it has no .*layers.2.conv.in_proj"):
        apply_adapters(model_and_processor[0], [(folder, 1.0)])


def test_the_first_format_of_mlx_vlm_is_read(tmp_path, expected):
    tensors = factors([1, 2], names=("A", "B"))
    old = {"rank": 2, "alpha": 10.0, "dropout": 0.1}  # a scale of alpha / rank
    check(write(tmp_path / "b", tensors, old, "weights.safetensors"), expected)


def test_a_magnitude_without_dora_is_refused(tmp_path, model_and_processor):
    tensors = {**factors([2]), f"{BLOCK}.2.feed_forward.w1.m": mx.ones((32,))}
    with pytest.raises(CheckpointError, match=r"w1\.m, which only DoRA has"):
        apply_adapters(model_and_processor[0], [(write(tmp_path / "b", tensors, settings()), 1.0)])


def test_an_adapted_embedding_is_refused_by_its_name(tmp_path, model_and_processor):
    path = "language_model.model.embed_tokens"
    tensors = {f"{path}.lora_a": mx.ones((365, 2)), f"{path}.lora_b": mx.ones((2, 16))}
    folder = write(tmp_path / "b", tensors, settings(keys=[path]))
    with pytest.raises(CheckpointError, match="embed_tokens, which is not a linear layer"):
        apply_adapters(model_and_processor[0], [(folder, 1.0)])


def test_a_rank_that_the_factors_do_not_have_is_refused(tmp_path, model_and_processor):
    folder = write(tmp_path / "b", factors([2]), settings())
    edit_json(folder / "adapter_config.json", lora_parameters__rank=3)
    with pytest.raises(CheckpointError, match="or rank 3"):
        apply_adapters(model_and_processor[0], [(folder, 1.0)])


def test_convolutions_trained_in_full_are_read_in_both_layouts(tmp_path, model_and_processor):
    saved = load_tensors(ADAPTERS / "saved_connector" / "adapter_model.safetensors")
    value = mx.array(saved["base_model.model.model.language_model.layers.0.conv.conv.weight"])
    name = f"{BLOCK}.0.conv.conv.weight"
    for number, laid_out in enumerate((value, value.transpose(0, 2, 1))):
        folder = write(tmp_path / f"{number}", {name: laid_out}, {"fine_tune_type": "full"})
        model, _ = model_and_processor
        apply_adapters(model, [(folder, 1.0)])
        assert mx.array_equal(model.layers[0].conv.conv.weight, value.transpose(0, 2, 1))
