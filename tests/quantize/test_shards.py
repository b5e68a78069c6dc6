"""Shards: of the size asked for, readable by others, and read back."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conversions import convert, logits_of

from mlx_lfm2vl.checkpoint.tensors import read_header, weight_files
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.quantize import conversion
from mlx_lfm2vl.quantize.shards import Entry, plan_shards, verify_shards, write_shards


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


def entries(*names: str) -> list[Entry]:
    return [Entry(name, "F16", (1, 3)) for name in names]  # six bytes


def write(folder: Path, shards: list[list[Entry]]) -> dict[str, int]:
    arrays = (mx.full(e.shape, 1, mx.float16) for shard in shards for e in shard)
    return write_shards(folder, shards, arrays, {"format": "mlx"})


@pytest.mark.parametrize("length", range(1, 9))
def test_data_begins_at_a_multiple_of_eight(tmp_path, length):
    write(tmp_path, [entries("n" * length, "last")])
    tensors, _ = read_header(tmp_path / "model.safetensors")
    begin = tensors["n" * length].offset
    assert begin % 8 == 0
    assert tensors["last"].offset == begin + 6


def test_files_are_filled_to_the_limit_and_groups_stay_together():
    a, b, c, d = entries("a", "b", "c", "d")
    assert plan_shards([[a], [b], [c]], 12) == [[a, b], [c]]
    assert plan_shards([[a], [b], [c]], 11) == [[a], [b], [c]]
    assert plan_shards([[a], [b, c], [d]], 12) == [[a], [b, c], [d]]
    assert plan_shards([[a, b, c], [d]], 12) == [[a, b, c], [d]]  # larger than any file may be


def test_a_planned_tensor_that_is_missing_is_noticed(tmp_path):
    planned = [entries("a", "b")]
    checksums = write(tmp_path, planned)
    verify_shards(tmp_path, planned, checksums)
    write(tmp_path, [entries("a")])
    with pytest.raises(CheckpointError, match="does not hold the tensors that were planned"):
        verify_shards(tmp_path, planned, checksums)


def test_an_array_that_was_not_planned_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="a is .*, expected"):
        write_shards(tmp_path, [entries("a")], iter([mx.zeros((3, 1), mx.float16)]), {})


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
