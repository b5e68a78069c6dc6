"""Several adapters with weights: the changes add up, as merging them by hand does."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from adapter_cases import ADAPTERS, TINY, edited, greedy, logits
from conftest import golden, load_tensors, relative_error
from weights import quantized

from mlx_lfm2vl.adapters.apply import apply_adapters
from mlx_lfm2vl.adapters.choice import find_adapters, split_weight
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load

LORA, PATTERNS = ADAPTERS / "lora", ADAPTERS / "patterns"  # both change in_proj and w1


def scale_of(case: str, path: str, rank: int) -> float:
    """What the config of a golden adapter says about one layer."""
    if case == "lora":
        return 8 / 4
    alpha = 6 if path.endswith("conv.in_proj") else 3 if path.endswith(("w1", "w2")) else 4
    return alpha / rank**0.5  # rsLoRA


def add_by_hand(weights: dict[str, np.ndarray], folder: Path, factor: float) -> None:
    """Add an adapter's changes to the weights of a checkpoint, with NumPy alone."""
    tensors = load_tensors(folder / "adapter_model.safetensors")
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            weights[f"{path}.weight"] += factor * scale_of(folder.name, path, len(a)) * (b @ a)


def test_the_sum_of_two_adapters_is_the_one_merged_by_hand(tmp_path):
    weights = load_tensors(TINY / "model.safetensors")
    add_by_hand(weights, LORA, 1)
    add_by_hand(weights, PATTERNS, -0.5)
    fused = tmp_path / "fused"
    both = ["--adapter", str(LORA), "--adapter", f"{PATTERNS}:-0.5"]
    arguments = ["--model", str(TINY), *both, "--output", str(fused), "--dtype", "float32"]
    assert fuse(arguments) == 0
    model, _ = load(fused, dtype="float32")
    found = named_arrays(model.parameters())
    for name, value in weights.items():
        value = value.transpose(0, 2, 1) if name.endswith("conv.conv.weight") else value
        np.testing.assert_allclose(found[name.removeprefix("model.")], value, atol=2e-6)


def test_python_and_the_command_give_the_same_sum(capsys):
    adapters = [LORA, (str(PATTERNS), 0.5)]
    model, processor = load(TINY, dtype="float32", adapter=adapters)
    expected = processor.tokenizer.decode(greedy(model, processor, "new_names", "text_only", 5))
    prompt = golden("new_names").messages("text_only")[0]["content"][0]["text"]
    options = ["--model", str(TINY), "--max-tokens", "5", "--temperature", "0"]
    given = ["--adapter", str(LORA), "--adapter", f"{PATTERNS}:0.5"]
    assert generate([*options, *given, "--prompt", prompt]) == 0
    assert capsys.readouterr().out.strip("\n") == expected.strip("\n")


def test_an_adapter_of_weight_0_changes_nothing(model_and_processor):
    model, processor = model_and_processor
    before = logits(model, processor)
    apply_adapters(model, [(LORA, 0.0), (ADAPTERS / "saved_connector", 0.0)])
    assert relative_error(logits(model, processor), before) < 1e-6


def test_whole_parameters_are_weighted_by_their_difference(model_and_processor):
    model, _ = model_and_processor
    name = "multi_modal_projector.linear_1.weight"
    before = np.array(named_arrays(model.parameters())[name])
    case = ADAPTERS / "saved_connector"
    saved = load_tensors(case / "adapter_model.safetensors")[f"base_model.model.model.{name}"]
    apply_adapters(model, [(case, 0.25)])
    after = np.array(named_arrays(model.parameters())[name])
    np.testing.assert_allclose(after, before + 0.25 * (saved - before), atol=1e-6)


@pytest.mark.parametrize("choices", [[("dora", 0.5)], [("dora", 1.0), ("all_linear", 1.0)]])
def test_dora_is_neither_weighted_nor_added_to_another(choices, model_and_processor):
    folders = [(ADAPTERS / name, weight) for name, weight in choices]
    with pytest.raises(InputError, match="dora is a DoRA adapter, .* fuse it first"):
        apply_adapters(model_and_processor[0], folders)


def test_dora_goes_with_an_adapter_of_other_layers(model_and_processor):
    model, processor = model_and_processor
    apply_adapters(model, [(ADAPTERS / "dora", 1.0)])
    alone = logits(model, processor)
    again, _ = load(TINY, dtype="float32", adapter=[ADAPTERS / "dora", ADAPTERS / "rslora"])
    assert relative_error(logits(again, processor), alone) > 1e-2


def test_a_module_saved_as_a_whole_replaces_a_quantized_layer(tmp_path, wide):
    folder = shutil.copytree(wide, tmp_path / "quantized")
    quantized(folder, lambda path: 4 if "multi_modal_projector" in path else None)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    model, processor = load(folder, dtype="float32")
    layer = model.multi_modal_projector.linear_2
    outputs, inputs = layer.weight.shape[0], layer.weight.shape[1] * 32 // layer.bits
    value = mx.random.normal((outputs, inputs)) * 0.1
    mx.save_safetensors(
        str(adapter / "adapters.safetensors"), {"multi_modal_projector.linear_2.weight": value}
    )
    (adapter / "adapter_config.json").write_text('{"fine_tune_type": "full"}')
    apply_adapters(model, [(adapter, 1.0)])
    assert mx.array_equal(model.multi_modal_projector.linear_2.weight, value)
    assert np.isfinite(logits(model, processor)).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", 1.0)),
        ("a:0.5", ("a", 0.5)),
        ("me/a:-1e-1", ("me/a", -0.1)),
        ("C:/a", ("C:/a", 1.0)),
        (":3", (":3", 1.0)),
    ],
)
def test_a_weight_stands_behind_a_colon(text, expected):
    assert split_weight(text) == expected


def test_a_folder_with_a_colon_in_its_name_has_no_weight(tmp_path):
    folder = edited(LORA, tmp_path / "lora:0.5")
    assert find_adapters(str(folder)) == [(folder, 1.0)]
    assert find_adapters((folder, 2)) == [(folder, 2.0)]
    assert find_adapters([(folder, 2), folder]) == [(folder, 2.0), (folder, 1.0)]


@pytest.mark.parametrize("text", ["lora:half", "lora:", "lora:nan", "lora:inf"])
def test_a_weight_that_is_no_number_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edited(LORA, tmp_path / "lora")
    with pytest.raises(InputError, match="weight"):
        find_adapters(text)


def test_a_parameter_that_the_model_lacks_is_refused(tmp_path, model_and_processor):
    copy = edited(
        ADAPTERS / "biases", tmp_path / "copy", lambda name: name.replace("layer_norm1", "norm_1")
    )
    with pytest.raises(CheckpointError, match="norm_1.bias .* does not fit the model"):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])


def test_a_config_that_is_no_object_is_refused(tmp_path, model_and_processor):
    copy = edited(LORA, tmp_path / "copy")
    (copy / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list, expected a JSON object"):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])
    (copy / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="it is not an adapter"):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])
