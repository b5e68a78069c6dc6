"""A drafter that is converted: packed as the conversions on the Hub, and the same drafter."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_tensors
from conversions import convert_command
from drafters import DRAFTERS, make_target

from mlx_lfm2vl.commands.convert import main
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.loading import load


def test_a_drafter_is_packed_as_the_conversions_on_the_hub_are(tmp_path, capsys):
    golden = load_tensors(DRAFTERS / "quantized" / "model.safetensors")
    plain = shutil.copytree(DRAFTERS / "quantized", tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    scheme = config.pop("quantization")
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    packed = mx.load(str(plain / "model.safetensors"))
    weights = {name: value for name, value in packed.items() if ".scales" not in name}
    weights = {name: value for name, value in weights.items() if ".biases" not in name}
    for name in [name for name in packed if name.endswith(".scales")]:
        path = name.removesuffix(".scales")
        parts = [packed[f"{path}.{part}"] for part in ("weight", "scales", "biases")]
        weights[f"{path}.weight"] = mx.dequantize(*parts, scheme["group_size"], scheme["bits"])
    mx.save_safetensors(str(plain / "model.safetensors"), weights)
    target = tmp_path / "packed"
    assert main([*convert_command(plain, target), "--bits", str(scheme["bits"])]) == 0
    assert "packed: 0." in capsys.readouterr().err
    written = load_tensors(target / "model.safetensors")
    assert written.keys() == golden.keys()
    assert {name: (v.dtype, v.shape) for name, v in written.items()} == {
        name: (v.dtype, v.shape) for name, v in golden.items()
    }
    assert json.loads((target / "config.json").read_text())["quantization"] == scheme
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        if f"{path}.scales" in written:
            arrays = mx.quantize(weight, scheme["group_size"], scheme["bits"])
            for part, value in zip(("weight", "scales", "biases"), arrays, strict=True):
                np.testing.assert_array_equal(written[f"{path}.{part}"], np.array(value))
        else:
            np.testing.assert_array_equal(written[name], np.array(weight))
    model, _ = load(make_target(tmp_path / "target", "quantized"))
    assert load_drafter(target, model).config.quantization == scheme


def test_a_cast_drafter_holds_the_type_asked_for(tmp_path):
    target = tmp_path / "half"
    assert main([*convert_command(DRAFTERS / "tied", target), "--dtype", "bfloat16"]) == 0
    assert {value.dtype for value in mx.load(str(target / "model.safetensors")).values()} == {
        mx.bfloat16
    }
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("tied", ["--bits", "4", "--vision-bits", "8"], "--vision-bits does not apply"),
        ("tied", ["--bits", "4", "--learned"], "--learned does not apply"),
        ("tied", ["--text-only"], "--text-only does not apply"),
        ("tied", ["--layout", "hub"], "--layout hub does not apply"),
        ("tied", ["--recipe", "mixed_4_6"], "--recipe does not apply"),
        ("tied", ["--dequantize"], "--dequantize does not apply"),
        ("tied", ["--bits", "4", "--group-size", "128"], "has rows of whole groups of 128"),
        ("quantized", ["--bits", "4"], "the drafter is quantized"),
    ],
)
def test_what_makes_no_sense_for_a_drafter_is_refused(name, arguments, said, tmp_path, capsys):
    target = tmp_path / "q"
    assert main([*convert_command(DRAFTERS / name, target), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not target.exists()


def test_layers_without_whole_groups_are_named_and_kept(tmp_path, capsys):
    target = tmp_path / "q"
    assert main([*convert_command(DRAFTERS / "tied", target), "--bits", "8"]) == 0
    assert "a row is no whole number of groups: fc, layers.0" in capsys.readouterr().err
    written = mx.load(str(target / "model.safetensors"))
    packed = {name.removesuffix(".scales") for name in written if name.endswith(".scales")}
    assert packed == {
        f"layers.{i}.{name}" for i in range(2) for name in ("self_attn.o_proj", "mlp.down_proj")
    }
