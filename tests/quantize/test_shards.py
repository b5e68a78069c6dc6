"""Shards: of the size asked for, readable by others, and read back."""

import mlx.core as mx
import numpy as np
import pytest
from conversions import convert, logits_of

from mlx_lfm2vl.checkpoint.tensors import read_header, weight_files
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.quantize import conversion


def test_small_shards_hold_the_same(wide, tmp_path):
    convert(wide, tmp_path / "one", bits=4)
    convert(wide, tmp_path / "many", bits=4, max_shard_bytes=10**5)
    files = weight_files(tmp_path / "many")
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 1.2e5 for path in files)
    np.testing.assert_array_equal(logits_of(tmp_path / "many"), logits_of(tmp_path / "one"))


def test_files_are_those_that_safetensors_reads(wide, tmp_path):
    from safetensors.numpy import load_file

    convert(wide, tmp_path / "q", bits=4, dtype="float32")
    (path,) = weight_files(tmp_path / "q")
    tensors, metadata = read_header(path)
    read = load_file(path)
    assert {name: value.shape for name, value in read.items()} == {
        name: info.shape for name, info in tensors.items()
    }
    assert metadata["format"] == "mlx"
    ours = dict(mx.load(str(path)))
    for name, value in read.items():
        np.testing.assert_array_equal(value, np.array(ours[name]))


def test_what_is_written_is_read_back(wide, tmp_path, monkeypatch):
    original = conversion.write_shards

    def flip_a_bit(folder, *arguments):
        checksums = original(folder, *arguments)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return checksums

    monkeypatch.setattr(conversion, "write_shards", flip_a_bit)
    with pytest.raises(CheckpointError, match="is not what was written"):
        convert(wide, tmp_path / "q")
    assert list(tmp_path.iterdir()) == []
