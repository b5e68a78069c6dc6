"""What `--layout hub` writes is what transformers wrote: tensors bit for bit, settings by value.

`tools/check_hub_layout.py` reads it with transformers itself.
"""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import CASES, GOLDEN, edit_json, golden
from conversions import convert
from weights import hub_name, quantized

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.checkpoint.names import our_name
from mlx_lfm2vl.checkpoint.tensors import detect_layout, read_header, weight_files
from mlx_lfm2vl.commands.convert import main
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.saving import save_checkpoint


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def tensors(folder: Path) -> dict[str, tuple]:
    """Type, shape and bytes of each tensor, under the names of published repositories."""
    found = {}
    for path in weight_files(folder):
        for name, value in mx.load(str(path)).items():
            data = np.array(mx.contiguous(value).reshape(-1).view(mx.uint8)).tobytes()
            found[hub_name(our_name(name))] = (value.dtype, value.shape, data)
    return found


def names(folder: Path) -> set[str]:
    return {name for path in weight_files(folder) for name in read_header(path)[0]}


@pytest.mark.parametrize("case", CASES)
def test_the_way_back_gives_the_tensors_of_the_source(case, tmp_path):
    source = golden(case).folder
    convert(source, tmp_path / "mlx")
    convert(tmp_path / "mlx", tmp_path / "hub", layout="hub", max_shard_bytes=20_000)
    assert tensors(tmp_path / "hub") == tensors(source)
    assert names(tmp_path / "hub") == set(tensors(source))
    assert len(weight_files(tmp_path / "hub")) > 1
    assert {read_header(path)[1]["format"] for path in weight_files(tmp_path / "hub")} == {"pt"}
    assert not detect_layout(tmp_path / "hub").is_mlx


def test_published_names_are_those_of_the_first_revisions(tmp_path):
    source = golden("old_names").folder
    convert(source, tmp_path / "hub", layout="hub")
    assert names(tmp_path / "hub") == names(source)


@pytest.mark.parametrize("case", CASES)
def test_settings_mean_what_they_meant(case, tmp_path):
    source = golden(case).folder
    convert(source, tmp_path / "hub", layout="hub")
    assert read_image_config(tmp_path / "hub") == read_image_config(source)
    model, _ = load(source)
    written = read_model_config(tmp_path / "hub")
    assert written == model.config
    assert not (tmp_path / "hub" / "preprocessor_config.json").exists()


def test_settings_have_the_keys_of_transformers_and_its_values(tmp_path):
    source = golden("new_names").folder
    convert(source, tmp_path / "mlx")
    edit_json(tmp_path / "mlx" / "config.json", quantization=None)
    convert(tmp_path / "mlx", tmp_path / "hub", layout="hub")
    ours, theirs = (read(folder, "config.json") for folder in (tmp_path / "hub", source))
    final = {"block_auto_adjust_ff_dim", "block_multiple_of", "full_attn_idxs"}  # see below
    for section in ("text_config", "vision_config"):
        for key in theirs[section].keys() - final - {"intermediate_size"}:
            assert ours[section][key] == theirs[section][key], key
    for key in theirs.keys() - {"text_config", "vision_config"}:
        assert ours[key] == theirs[key], key
    assert ours["text_config"]["block_auto_adjust_ff_dim"] is False
    width = load(source)[0].language_model.layers[0].feed_forward.w1.weight.shape[0]
    assert ours["text_config"]["intermediate_size"] == width
    for name in ("processor_config.json", "generation_config.json"):
        theirs = read(source, name)
        assert theirs.keys() <= read(tmp_path / "hub", name).keys()
    processor = read(source, "processor_config.json")["image_processor"]
    written = read(tmp_path / "hub", "processor_config.json")["image_processor"]
    assert processor.keys() <= written.keys()
    changed = {key for key in processor if written[key] != processor[key]}
    assert changed <= {"image_processor_type", "return_row_col_info", "size"}


def test_legacy_settings_become_those_that_transformers_reads(tmp_path):
    convert(golden("old_names").folder, tmp_path / "hub", layout="hub")
    config = read(tmp_path / "hub", "config.json")
    assert config["model_type"] == "lfm2_vl"
    assert config["image_token_id"] == 5
    assert config["projector_use_layernorm"] is True
    assert config["dtype"] == "bfloat16"
    gone = {"auto_map", "image_token_index", "torch_dtype", "vision_feature_layer"}
    assert gone.isdisjoint(config)
    assert read(tmp_path / "hub", "processor_config.json")["image_processor"]["resample"] == 3


def test_the_end_token_is_named_where_transformers_looks(tmp_path):
    convert(golden("odd_constants").folder, tmp_path / "hub", layout="hub")
    generation = read(tmp_path / "hub", "generation_config.json")
    assert generation["eos_token_id"] == load(tmp_path / "hub")[0].config.eos_token_ids[0]


def test_layers_that_do_not_run_are_neither_written_nor_counted(checkpoint, tmp_path):
    edit_json(checkpoint / "config.json", vision_feature_layer=-2)
    convert(checkpoint, tmp_path / "hub", layout="hub")
    assert read(tmp_path / "hub", "config.json")["vision_config"]["num_hidden_layers"] == 1
    assert not any("encoder.layers.1." in name for name in names(tmp_path / "hub"))
    load(tmp_path / "hub")


def test_a_saved_model_is_what_a_conversion_writes(tmp_path):
    source = GOLDEN / "untied_sharded_bf16" / "checkpoint"
    model, _ = load(source, dtype="bfloat16")
    save_checkpoint(model, source, tmp_path / "saved", layout="hub")
    convert(source, tmp_path / "hub", layout="hub")
    assert tensors(tmp_path / "saved") == tensors(tmp_path / "hub")
    for name in ("config.json", "processor_config.json", "generation_config.json"):
        assert read(tmp_path / "saved", name) == read(tmp_path / "hub", name)


def test_a_quantized_model_is_unpacked_when_told(tmp_path, capsys):
    folder = Path(shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "wide"))
    quantized(folder, lambda path: 4 if "language_model.model.layers" in path else None)
    command = ["-m", str(folder), "--output", str(tmp_path / "hub"), "--layout", "hub"]
    for extra, advice in ((["--bits", "4"], "remove one of the two"), ([], "add --dequantize")):
        assert main([*command, *extra]) == 2
        line = capsys.readouterr().err
        assert "transformers cannot read weights that MLX has packed; " + advice in line
    assert main([*command, "--text-only"]) == 2
    assert "mlx-lm's files" in capsys.readouterr().err
    assert main([*command, "--dequantize", "--no-report"]) == 0
    assert not any(name.endswith(".scales") for name in names(tmp_path / "hub"))
    assert "quantization" not in read(tmp_path / "hub", "config.json")
    model, _ = load(folder)
    save_checkpoint(model, folder, tmp_path / "saved", layout="hub")
    assert names(tmp_path / "saved") == names(tmp_path / "hub")
