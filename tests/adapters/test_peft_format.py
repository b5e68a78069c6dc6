"""Adapters of PEFT give peft's own logits and tokens, and what is not implemented is refused."""

import time

import mlx.core as mx
import numpy as np
import pytest
from adapter_cases import ADAPTERS, CASES, TINY, edited, greedy, logits
from conftest import golden, load_tensors, relative_error

from mlx_lfm2vl.adapters.apply import apply_adapters
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load

PROMPTS = ("small", "text_only")
WEIGHTS = "adapter_model.safetensors"


def check(model, processor, case: str, expected) -> None:
    base = CASES[case]["base"]
    for prompt in PROMPTS:
        found = logits(model, processor, base, prompt)
        assert relative_error(found, expected[f"{case}.{prompt}.logits"]) < 1e-4
        tokens = expected[f"{case}.{prompt}.greedy"].tolist()
        assert greedy(model, processor, base, prompt) == tokens


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_gives_the_logits_and_tokens_of_peft(case, expected):
    folder = golden(CASES[case]["base"]).folder
    model, processor = load(folder, dtype="float32", adapter=ADAPTERS / case)
    check(model, processor, case, expected)


@pytest.mark.parametrize("case", ["dora", "all_linear", "saved_embedding", "adapted_head"])
def test_a_fused_adapter_gives_the_tokens_of_peft(case, expected, tmp_path):
    base = golden(CASES[case]["base"]).folder
    arguments = ["--adapter", str(ADAPTERS / case), "--output", str(tmp_path / "fused")]
    assert fuse(["--model", str(base), *arguments, "--dtype", "float32"]) == 0
    check(*load(tmp_path / "fused", dtype="float32"), case, expected)


def as_a_state_dict(name: str) -> str:
    """Return a name with the adapter's own name in it, and the tower's name of older files."""
    for part in ("lora_A", "lora_B"):
        name = name.replace(f"{part}.weight", f"{part}.mine.weight")
    name = name.replace("lora_magnitude_vector", "lora_magnitude_vector.mine.weight")
    return name.replace(".vision_tower.", ".vision_tower.vision_model.")


def as_saved_modules(name: str) -> str:
    """Return a name as in a state dict of a model with whole modules to save."""
    return name.replace("projector.linear", "projector.modules_to_save.mine.linear")


@pytest.mark.parametrize(
    ("case", "rename"),
    [
        ("lora", as_a_state_dict),
        ("dora", as_a_state_dict),
        ("biases", as_a_state_dict),
        ("saved_connector", as_saved_modules),
    ],
)
def test_older_names_and_those_of_a_state_dict_are_read(
    case, rename, tmp_path, model_and_processor
):
    model, processor = model_and_processor
    copy = edited(ADAPTERS / case, tmp_path / "copy", rename)
    assert set(load_tensors(copy / WEIGHTS)) != set(load_tensors(ADAPTERS / case / WEIGHTS))
    apply_adapters(model, [(copy, 1.0)])
    again, _ = load(TINY, dtype="float32", adapter=ADAPTERS / case)
    np.testing.assert_array_equal(logits(model, processor), logits(again, processor))


def test_an_adapter_of_the_decoder_alone_is_read(tmp_path, model_and_processor):
    """One trained on a text model has shorter names, and only layers of the decoder."""
    model, processor = model_and_processor
    copy = edited(
        ADAPTERS / "patterns", tmp_path / "copy", lambda name: name.replace("language_model.", "")
    )
    apply_adapters(model, [(copy, 1.0)])
    again, _ = load(TINY, dtype="float32", adapter=ADAPTERS / "patterns")
    np.testing.assert_array_equal(logits(model, processor), logits(again, processor))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "'IA3' is not supported, only LORA"),
        ({"peft_type": ["LORA"]}, "is not supported, only LORA"),
        ({"lora_bias": True}, "'lora_bias' is set, which is not supported"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out' is set"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices' is set"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication' is set"),
        ({"use_qalora": True}, "'use_qalora' is set"),
        ({"from_the_future": 3}, "'from_the_future' is set"),
        ({"ensure_weight_tying": True}, "'ensure_weight_tying' is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
        ({"init_lora_weights": ["pissa"]}, "changes the base weights"),
        ({"bias": "some"}, "bias 'some' is not supported"),
        ({"r": 5}, "does not fit the model or rank 5"),
        ({"r": "4"}, "r is '4', expected int"),
        ({"lora_alpha": None, "alpha_pattern": {"w1": "2"}}, "w1 is '2', expected float"),
        ({"alpha_pattern": [1]}, "alpha_pattern is missing or not"),
        ({"rank_pattern": {"w1": 3}}, "does not fit the model or rank 3"),
        ({"use_dora": True}, "it has no lora_magnitude of"),
        ({"target_modules": ["w1", "q_proj"]}, "in_proj', which its target_modules do not name"),
        (
            {"target_modules": ["w1", "w3", "q_proj", "in_proj"]},
            "incomplete: it has nothing of .*w3",
        ),
        ({"target_modules": 7}, "target_modules is 7"),
        ({"modules_to_save": ["multi_modal_projector"]}, "multi_modal_projector' in modules_to_sa"),
        ({"modules_to_save": ["classifier"]}, "'classifier' in modules_to_save it has no tensors"),
        ({"layers_to_transform": {"a": 1}}, "layers_to_transform is not a list"),
        ({"layers_to_transform": [0]}, "which its target_modules do not name"),
        ({"layers_pattern": [[]]}, "layers_pattern is not a list"),
        ({"lora_dropout": 1.5}, "lora_dropout"),
    ],
)
def test_what_is_not_implemented_or_contradicts_the_tensors_is_refused(
    settings, message, tmp_path, model_and_processor
):
    copy = edited(ADAPTERS / "lora", tmp_path / "copy", **settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        apply_adapters(model_and_processor[0], [(copy, 1.0)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: None if "layers.1.self_attn.q_proj.lora_B" in name else name, "no lora_B of"),
        (lambda name: None if "layers.2.feed" in name else name, "incomplete: it has nothing of"),
        (lambda name: name.replace("layers.2.", "layers.7."), "not a linear layer of this model"),
        (lambda name: name.replace("lora_A.weight", "lora_embedding_A"), "adapters change linear"),
        (lambda name: name.replace("w1.lora_A", "w1.lora_C"), "which is not supported"),
        (lambda name: name.replace("w1.lora_A.", "w1.x."), "no lora_A of"),
    ],
)
def test_an_adapter_whose_tensors_are_not_those_of_its_layers_is_refused(
    rename, message, tmp_path, model_and_processor
):
    copy = edited(ADAPTERS / "lora", tmp_path / "copy", rename)
    with pytest.raises(CheckpointError, match=message):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.astype(mx.int32), "holds mlx.core.int32, expected floats"),
        (lambda value: value[:, :5], "does not fit"),
        (lambda value: value.flatten(), "does not fit"),
    ],
)
def test_tensors_of_another_type_or_shape_are_refused(
    change, message, tmp_path, model_and_processor
):
    copy = edited(ADAPTERS / "lora", tmp_path / "copy")
    tensors = {name: mx.array(value) for name, value in load_tensors(copy / WEIGHTS).items()}
    first = min(name for name in tensors if "lora_A" in name)
    tensors[first] = change(tensors[first])
    mx.save_safetensors(str(copy / WEIGHTS), tensors)
    with pytest.raises(CheckpointError, match=message):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])


def test_pickles_are_never_read(tmp_path, model_and_processor):
    copy = edited(ADAPTERS / "lora", tmp_path / "copy")
    (copy / WEIGHTS).rename(copy / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="a pickle file.*save it again with save_pretrained"):
        apply_adapters(model_and_processor[0], [(copy, 1.0)])


@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern", "target_modules"])
@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", ".*" * 40 + "x", "(?P<a>.)(?P=a)", "("])
def test_expressions_that_might_take_for_ever_are_not_matched(
    key, pattern, tmp_path, model_and_processor
):
    value = pattern if key == "target_modules" else {pattern: 4}
    copy = edited(ADAPTERS / "lora", tmp_path / "copy", **{key: value})
    begun = time.process_time()
    if key == "target_modules":  # then the tensors alone say what is adapted
        assert apply_adapters(model_and_processor[0], [(copy, 1.0)])
    else:
        with pytest.raises(CheckpointError, match="the pattern .* cannot be used"):
            apply_adapters(model_and_processor[0], [(copy, 1.0)])
    assert time.process_time() - begun < 2
