"""Safetensors files of a checkpoint: damaged, missing or foreign ones are named."""

import json
import shutil
import struct

import mlx.core as mx
import pytest
from conftest import golden

from mlx_lfm2vl.checkpoint.tensors import weight_files
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def nonsense(path):
    path.write_bytes(b"hello" * 100)


def empty(path):
    path.write_bytes(b"")


def long_header(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "is cut off"),
        (nonsense, "not a safetensors file"),
        (empty, "is empty: download it again"),
        (long_header, "not a safetensors file"),
    ],
)
def test_damaged_files_are_named(checkpoint, damage, message):
    damage(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        load(checkpoint)


def test_missing_weights_and_shards_are_named(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no weights.*pytorch_model\.bin is not read"):
        load(checkpoint)
    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "shards")
    shard = weight_files(folder)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shard.name}"):
        load(folder)


BESIDE = ["adapters.safetensors", "adapter_model.safetensors", "consolidated.safetensors"]


@pytest.mark.parametrize("name", [*BESIDE, "optimizer.safetensors"])
def test_what_lies_beside_the_weights_is_not_read_and_said(checkpoint, name, caplog):
    mx.save_safetensors(str(checkpoint / name), {"model.extra": mx.zeros(3)})
    load(checkpoint)
    assert caplog.messages == [f"model.safetensors is read, not {name}"]


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "._model.safetensors"])
def test_what_cannot_be_weights_is_not_mentioned(checkpoint, name, caplog):
    (checkpoint / name).write_bytes(b"\0\5\x16\7")
    load(checkpoint)
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["weights.safetensors", "consolidated.safetensors"])
def test_weights_of_another_name_are_read_if_there_are_no_others(checkpoint, name):
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    (checkpoint / "optimizer.safetensors").write_bytes(b"")
    assert [path.name for path in weight_files(checkpoint)] == [name]


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (["adapter_model.safetensors"], "adapter_model.safetensors is an adapter: give its folder"),
        (["a.gguf", "._b.bin"], "a.gguf is not read, only safetensors files"),
        (["optimizer.pt", "pytorch_model.bin"], r"pytorch_model\.bin is not read"),
        (["optimizer.pt"], r"optimizer\.pt is not read"),
        ([".DS_Store"], r"\(\*\.safetensors\); to download it again"),
    ],
)
def test_a_folder_without_weights_says_what_it_has_instead(checkpoint, there, message):
    (checkpoint / "model.safetensors").unlink()
    for name in there:
        (checkpoint / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"no weights.*{message}"):
        weight_files(checkpoint)


def name_in_index(folder, files):
    """Write an index that says that the weights are in these files, in turn."""
    names = mx.load(str(folder / "model.safetensors"))
    index = {"weight_map": {name: files[i % len(files)] for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("single", ["model.safetensors", "weights.safetensors"])
def test_an_index_left_over_beside_whole_weights_is_not_used(checkpoint, single, caplog):
    name_in_index(checkpoint, ["model-00001-of-00002.safetensors"])
    (checkpoint / "model.safetensors").rename(checkpoint / single)
    load(checkpoint)
    note = f"{single} is read, not the files that model.safetensors.index.json names"
    assert caplog.messages == [note]


def test_the_single_file_is_read_if_an_index_names_it_with_others_that_are_missing(checkpoint):
    name_in_index(checkpoint, ["model.safetensors", "model-2.safetensors"])
    load(checkpoint)


def test_missing_shards_are_one_short_line(checkpoint):
    shards = [f"model-{number:05}-of-00015.safetensors" for number in range(1, 16)]
    name_in_index(checkpoint, shards)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks all 15 files that") as error:
        load(checkpoint)
    (checkpoint / shards[0]).write_bytes(b"x")
    message = f"lacks {shards[1]} and 13 more of the 15 files"
    with pytest.raises(CheckpointError, match=message) as other:
        load(checkpoint)
    for raised in (error, other):
        assert len(str(raised.value).replace(str(checkpoint), "")) < 260


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "weights.bin", 3])
def test_an_index_cannot_point_elsewhere(checkpoint, name):
    index = {"weight_map": {"model.a": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a file in the folder"):
        load(checkpoint)
