"""Training that goes on from an adapter, and what a written adapter says about its base."""

import json

import mlx.core as mx
import numpy as np
import pytest
from adapter_cases import ADAPTERS, logits
from conftest import edit_json, load_tensors, relative_error
from training_runs import TINY, losses_of, run

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.training.adapters import load_adapter, make_trainable, save_adapter
from mlx_lfm2vl.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("case", "method"),
    [("lora", "lora"), ("patterns", "lora"), ("dora", "dora"), ("saved_connector", "lora")],
)
def test_an_adapter_of_peft_is_where_training_starts(
    case, method, tmp_path, model_and_processor, expected
):
    """Written again without a step, it is the same in our format, with one rank for all layers."""
    model, processor = model_and_processor
    settings = TrainSettings(method=method)
    config = make_trainable(model, settings, start=ADAPTERS / case, name="tiny/new_names")
    model.eval()
    want = expected[f"{case}.small.logits"]
    assert relative_error(logits(model, processor), want) < 1e-4
    save_adapter(model, tmp_path / "again", config)
    again, _ = load(TINY, dtype="float32", adapter=tmp_path / "again")
    np.testing.assert_allclose(
        logits(again, processor), logits(model, processor), rtol=1e-5, atol=1e-5
    )


@pytest.fixture
def expected() -> dict[str, np.ndarray]:
    return load_tensors(ADAPTERS / "expected.safetensors")


def test_training_goes_on_from_an_adapter(data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    rate = ["--learning-rate", "1e-2"]
    assert run(data, first, "--steps", "6", *rate) == 0
    assert run(data, second, "--steps", "1", *rate, "--adapter", str(first)) == 0
    assert losses_of(second)[0] < losses_of(first)[0]
    tensors = [load_tensors(folder / "adapters.safetensors") for folder in (first, second)]
    assert tensors[0].keys() == tensors[1].keys()
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in (first, second)]
    for config in configs:
        config["lora_parameters"]["keys"].sort()
    assert configs[0] == configs[1]


def test_all_that_an_adapter_of_peft_holds_is_trained(data, tmp_path):
    output = tmp_path / "out"
    start = ["--adapter", str(ADAPTERS / "saved_connector"), "--learning-rate", "1e-2"]
    assert run(data, output, "--steps", "2", *start) == 0
    trained = load_tensors(output / "adapters.safetensors")
    begun = load_tensors(ADAPTERS / "saved_connector" / "adapter_model.safetensors")
    name = "multi_modal_projector.linear_1.weight"
    assert not np.array_equal(trained[name], begun[f"base_model.model.model.{name}"])
    model, processor = load(TINY, dtype="float32")
    load_adapter(model, output)
    assert mx.array_equal(model.multi_modal_projector.linear_1.weight, mx.array(trained[name]))


@pytest.mark.parametrize(("case", "method"), [("dora", "lora"), ("lora", "full")])
def test_another_method_than_that_of_the_adapter_is_refused(case, method, model_and_processor):
    trained = "dora" if case == "dora" else "lora"
    with pytest.raises(InputError, match=f"was trained with {trained}: use --method {trained}"):
        make_trainable(model_and_processor[0], TrainSettings(method=method), start=ADAPTERS / case)


def test_a_run_resumes_only_from_the_same_start(data, tmp_path, capsys):
    output = tmp_path / "out"
    start = ["--adapter", str(ADAPTERS / "lora")]
    assert run(data, output, "--steps", "1", *start) == 0
    assert run(data, output, "--steps", "2", "--resume", *start) == 0
    assert run(data, output, "--steps", "3", "--resume") == 0
    whole = tmp_path / "whole"
    assert run(data, whole, "--steps", "3", "--save-every", "1", "--keep", "9", *start) == 0
    assert losses_of(output) == losses_of(whole)
    assert run(data, output, "--steps", "4", "--resume", "--adapter", str(output)) == 2
    assert "cannot resume from another --adapter than the run began with" in capsys.readouterr().err


def test_an_adapter_says_what_it_was_trained_on(data, tmp_path, capsys):
    from mlx_lfm2vl.commands.generate import main as generate

    output = tmp_path / "out"
    assert run(data, output, "--steps", "1") == 0
    base = json.loads((output / "adapter_config.json").read_text())["base"]
    assert base["name"] == "checkpoint"
    assert len(base["norms"]) == len(base["weights"]) == 2
    ask = ["--adapter", str(output), "--prompt", "x", "--max-tokens", "1"]
    assert generate(["--model", str(TINY), *ask]) == 0
    assert "note" not in capsys.readouterr().err
    edit_json(output / "adapter_config.json", base__norms=[[9.0] * 16] * 2)
    assert generate(["--model", str(TINY), *ask]) == 1
    assert "was trained on checkpoint, and checkpoint is another model" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_adapter_has_the_names_of_mlx_lm_if_that_is_asked_for(
    method, data, tmp_path, model_and_processor, capsys
):
    text, output = ["--text-only", "--method", method], tmp_path / "out"
    assert run(data, tmp_path / "no", "--steps", "1", *text) == 2
    assert "--text-only needs --parts language" in capsys.readouterr().err
    assert run(data, output, "--steps", "2", *text, "--parts", "language") == 0
    tensors = load_tensors(output / "adapters.safetensors")
    assert tensors
    assert all(name.startswith("model.") for name in tensors)
    model, processor = model_and_processor
    before = logits(model, processor)
    load_adapter(model, output)
    assert relative_error(logits(model, processor), before) > 1e-5
