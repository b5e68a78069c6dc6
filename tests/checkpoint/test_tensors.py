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
        (empty, "not a safetensors file"),
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


def test_an_adapter_beside_the_weights_is_not_read_as_weights(checkpoint):
    mx.save_safetensors(str(checkpoint / "adapters.safetensors"), {"model.extra": mx.zeros(3)})
    assert [path.name for path in weight_files(checkpoint)] == ["model.safetensors"]
    load(checkpoint)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "weights.bin", 3])
def test_an_index_cannot_point_elsewhere(checkpoint, name):
    index = {"weight_map": {"model.a": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a file in the folder"):
        load(checkpoint)
