"""Adapters: fresh ones change nothing, fused ones are the adapter, others read them."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import edit_json, golden, load_tensors, relative_error
from training_runs import ALL_PARTS, TINY, losses_of, perturb, prompt_logits, run

from mlx_lfm2vl import Sampling
from mlx_lfm2vl import generate as answered
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.generation.fingerprint import fingerprint
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.training.adapters import (
    adapted_paths,
    add_adapter,
    fuse_adapter,
    load_adapter,
    save_adapter,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """An adapter as a run writes it."""
    folder = tmp_path_factory.mktemp("written") / "out"
    model, _ = load(TINY, dtype="float32")
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": adapted_paths(model, ALL_PARTS)}
    add_adapter(model, parameters["keys"], dora=False, rank=4, scale=2.0, dropout=0.0)
    perturb(model)
    settings = {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": parameters}
    save_adapter(model, folder, settings)
    return folder


@pytest.fixture
def output(written, tmp_path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copytree(written, tmp_path / "out"))


@pytest.mark.parametrize("dora", [False, True])
def test_a_fresh_adapter_changes_nothing_and_a_fused_one_is_the_adapter(model_and_processor, dora):
    model, processor = model_and_processor
    before = prompt_logits(model, processor)
    add_adapter(model, adapted_paths(model, ALL_PARTS), dora=dora, rank=4, scale=2.0, dropout=0.0)
    assert relative_error(prompt_logits(model, processor), before) < 1e-5
    perturb(model)
    adapted = prompt_logits(model, processor)
    assert relative_error(adapted, before) > 1e-2
    fuse_adapter(model)
    assert relative_error(prompt_logits(model, processor), adapted) < 1e-5
    assert not any("lora" in name for name in named_arrays(model.parameters()))


def test_parts_choose_the_layers(model_and_processor):
    model, _ = model_and_processor
    for part, prefix in {
        "language": "language_model.",
        "connector": "multi_modal_projector.",
    }.items():
        assert {path.startswith(prefix) for path in adapted_paths(model, [part])} == {True}
    assert len(adapted_paths(model, ALL_PARTS)) == sum(
        len(adapted_paths(model, [part])) for part in ALL_PARTS
    )


def test_fusing_replaces_neither_the_adapter_nor_the_model(data, tmp_path, capsys, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    assert run(data, model / "adapter", "--steps", "1", model=model) == 0
    arguments = ["--model", str(model), "--adapter", str(model / "adapter"), "--overwrite"]
    assert fuse([*arguments, "--output", str(model)]) == 2
    assert "which is needed" in capsys.readouterr().err
    monkeypatch.chdir(model)
    assert fuse([*arguments, "--output", "."]) == 2
    shutil.move(model / "adapter", tmp_path)
    arguments[3] = str(tmp_path / "adapter")
    assert fuse([*arguments, "--output", "."]) == 2
    assert (model / "model.safetensors").exists()


def test_a_full_adapter_is_fused_without_mlx_lm(data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert run(data, output, "--method", "full", "--steps", "1") == 0
    for name in [name for name in sys.modules if name.startswith("mlx_lm.")] + ["mlx_lm"]:
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ["--model", str(TINY), "--adapter", str(output), "--output", str(tmp_path / "f")]
    assert fuse(arguments) == 0


def test_positions_are_those_of_the_adapter_also_after_an_answer(data, tmp_path):
    output = tmp_path / "out"
    options = ["--method", "full", "--parts", "vision", "--steps", "3", "--learning-rate", "0.1"]
    assert run(data, output, *options) == 0
    used, fresh = load(TINY)[0], load(TINY)[0]
    patches = mx.random.uniform(shape=(1, 16, used.config.vision.patch_size**2 * 3))
    used.encode_views(patches, (4, 4))
    for model in (used, fresh):
        load_adapter(model, output)
    assert mx.array_equal(used.encode_views(patches, (4, 4)), fresh.encode_views(patches, (4, 4)))


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_fuse_writes_the_type_asked_for(data, tmp_path, method):
    output, fused = tmp_path / "out", tmp_path / "fused"
    assert run(data, output, "--method", method, "--steps", "1") == 0
    arguments = ["--model", str(TINY), "--adapter", str(output), "--output", str(fused)]
    assert fuse([*arguments, "--dtype", "float16"]) == 0
    weights = mx.load(str(fused / "model.safetensors"))
    assert isinstance(weights, dict)
    assert {value.dtype for value in weights.values()} == {mx.float16}


@pytest.mark.slow
def test_a_quantized_base_is_trained_by_adapter_only(data, tmp_path, capsys):
    from weights import quantized

    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "wide")
    quantized(folder, lambda path: 4 if "language_model.model.layers" in path else None)
    assert run(data, tmp_path / "a", "--steps", "6", "--method", "full", model=folder) == 2
    assert "use --method lora or dora" in capsys.readouterr().err
    output = tmp_path / "b"
    assert run(data, output, "--steps", "10", "--learning-rate", "5e-3", model=folder) == 0
    assert losses_of(output)[-1] < losses_of(output)[0]
    for extra, dense in (([], False), (["--dequantize"], True)):
        fused = tmp_path / f"fused{dense}"
        arguments = ["--model", str(folder), "--adapter", str(output), "--output", str(fused)]
        assert fuse([*arguments, *extra]) == 0
        model, _ = load(fused)
        scales = [n for n in named_arrays(model.parameters()) if n.endswith(".scales")]
        assert bool(scales) != dense


def test_dora_refuses_bits_that_it_cannot_unpack(data, tmp_path, capsys):
    from weights import quantized

    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "wide")
    quantized(
        folder,
        lambda path: 6 if "language_model.model.layers" in path else None,
        overrides={"bits": 6},
    )
    options = ["--steps", "1", "--parts", "language"]
    assert run(data, tmp_path / "a", *options, "--method", "dora", model=folder) == 2
    assert "has 6 bits, which DoRA cannot train: use --method lora" in capsys.readouterr().err
    assert run(data, tmp_path / "a", *options, model=folder) == 0


def test_an_adapter_that_is_not_there_is_wrong_use(tmp_path, capsys):
    adapter = ["--model", str(TINY), "--adapter", str(tmp_path / "nope")]
    assert generate([*adapter, "--prompt", "x"]) == 2
    assert fuse([*adapter, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("nope does not exist") == 2
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_model_is_refused(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "1") == 0
    config = json.loads((output / "adapter_config.json").read_text())
    keys = [*config["lora_parameters"]["keys"], "language_model.layers.77.conv.in_proj"]
    edit_json(output / "adapter_config.json", lora_parameters__keys=keys)
    arguments = ["--model", str(TINY), "--adapter", str(output), "--prompt", "x"]
    assert generate(arguments) == 1
    assert "layers.77" in capsys.readouterr().err
    assert generate(["--model", str(TINY), "--adapter", str(tmp_path), "--prompt", "x"]) == 1
    assert "not an adapter" in capsys.readouterr().err
    (output / "adapter_config.json").unlink()
    assert generate(arguments) == 1
    assert "its run has not ended, --resume it" in capsys.readouterr().err


class TheirNames(nn.Module):
    """A model of ours with the module names of mlx-vlm."""

    def __init__(self, model) -> None:
        super().__init__()
        decoder, self.language_model = model.language_model, nn.Module()
        self.language_model.model = decoder
        self.multi_modal_projector = model.multi_modal_projector
        self.vision_tower = model.vision_tower

    @property
    def layers(self):
        return self.language_model.model.layers


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_adapters_travel_under_the_names_of_mlx_vlm(data, tmp_path, model_and_processor, method):
    from mlx_lm.tuner.utils import load_adapters

    output = tmp_path / "out"
    options = ["--steps", "1", "--learning-rate", "1e-2", "--warmup-steps", "0"]
    assert run(data, output, *options, "--method", method) == 0
    model, processor = model_and_processor
    before = prompt_logits(model, processor)
    theirs = TheirNames(model)
    load_adapters(theirs, str(output))
    known = named_arrays(theirs.parameters())
    assert set(mx.load(str(output / "adapters.safetensors"))) <= set(known)
    logits = prompt_logits(model, processor)
    assert relative_error(logits, before) > 1e-4
    ours, _ = load(TINY, dtype="float32")
    load_adapter(ours, output)
    np.testing.assert_array_equal(prompt_logits(ours, processor), logits)


def rename(output, change) -> None:
    """Write an adapter's tensors and keys again, under other names."""
    path = output / "adapters.safetensors"
    weights = {change(name): value for name, value in load_arrays(path).items()}
    mx.save_safetensors(str(path), weights)
    config = json.loads((output / "adapter_config.json").read_text())
    keys = [change(key) for key in config["lora_parameters"]["keys"]]
    edit_json(output / "adapter_config.json", lora_parameters__keys=keys)


def load_arrays(path):
    return {name: mx.array(value) for name, value in load_tensors(path).items()}


def test_adapters_are_read_under_our_names_and_mlx_lms_and_without_keys(
    data, tmp_path, model_and_processor
):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "2", "--parts", "language") == 0
    model, processor = model_and_processor
    load_adapter(model, output)
    expected = prompt_logits(model, processor)
    for change in (
        lambda name: name.replace("language_model.model.", "language_model."),
        lambda name: name.replace("language_model.", "model."),
    ):
        rename(output, change)
        again, _ = load(TINY, dtype="float32")
        load_adapter(again, output)
        np.testing.assert_array_equal(prompt_logits(again, processor), expected)
    edit_json(output / "adapter_config.json", lora_parameters__keys=None)
    again, _ = load(TINY, dtype="float32")
    load_adapter(again, output)
    np.testing.assert_array_equal(prompt_logits(again, processor), expected)


def test_an_adapter_with_tensors_missing_is_refused(output, model_and_processor):
    path = output / "adapters.safetensors"
    weights = load_arrays(path)
    first = min(name for name in weights if name.endswith("lora_a"))
    mx.save_safetensors(str(path), {k: v for k, v in weights.items() if k != first})
    with pytest.raises(CheckpointError, match="is incomplete: it has no .*lora_a"):
        load_adapter(model_and_processor[0], output)


def test_settings_of_an_adapter_are_typed(output, model_and_processor):
    config = output / "adapter_config.json"
    text = config.read_text()
    for key, value in [
        ("rank", 4.5),
        ("rank", 10**400),
        ("scale", "2"),
        ("scale", 10**400),
        ("scale", float("nan")),
        ("dropout", "0"),
        ("dropout", 1.0),
        ("keys", "all"),
        ("keys", [1]),
        ("rank", None),
    ]:
        config.write_text(text)
        edit_json(config, **{f"lora_parameters__{key}": value})
        with pytest.raises(CheckpointError, match=f"lora_parameters.*{key}"):
            load_adapter(model_and_processor[0], output)


def test_a_damaged_adapter_is_named(output, model_and_processor):
    path = output / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors is cut off"):
        load_adapter(model_and_processor[0], output)


def test_an_adapter_loaded_by_one_thread_answers_another(output, model_and_processor):
    load_adapter(model_and_processor[0], output)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(greedy_answer, *model_and_processor).result(timeout=60)
    assert answer == greedy_answer(*model_and_processor)


def greedy_answer(model, processor) -> list[int]:
    return answered(model, processor, "Hi", max_tokens=3, sampling=Sampling()).token_ids


def test_an_adapter_of_other_sizes_is_refused(output, model_and_processor):
    weights = load_tensors(output / "adapters.safetensors")
    cut = {name: mx.array(value[:, :1]) for name, value in weights.items()}
    mx.save_safetensors(str(output / "adapters.safetensors"), cut)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_adapter(model_and_processor[0], output)


def test_adapters_differ_by_their_factors_and_their_scale(tmp_path):
    found = set()
    for seed, scale in ((1, 2.0), (2, 2.0), (2, 4.0)):
        model = load(golden("new_names").folder)[0]
        paths = adapted_paths(model, ["language"])[:2]
        mx.random.seed(seed)
        add_adapter(model, paths, dora=False, rank=2, scale=scale, dropout=0.0)
        found.add(fingerprint(model))
        parameters = {"rank": 2, "scale": scale, "dropout": 0.0, "keys": paths}
        settings = {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": parameters}
        save_adapter(model, tmp_path / f"{seed} {scale}", settings)
    assert len(found) == 3
    for folder in tmp_path.iterdir():
        model = load(golden("new_names").folder)[0]
        load_adapter(model, folder)
        found.add(fingerprint(model))
    assert len(found) == 6
