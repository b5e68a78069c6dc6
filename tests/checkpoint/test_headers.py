"""A damaged safetensors header ends in an error of ours, whatever the damage."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl.checkpoint.tensors import MAX_HEADER_BYTES, read_header
from mlx_lfm2vl.errors import CheckpointError

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADER = {"__metadata__": {"format": "pt"}, "a": ENTRY, "b": {**ENTRY, "data_offsets": [24, 48]}}
DATA = bytes(48)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("headers") / "model.safetensors"


def written(path: Path, header: Any, data: bytes = DATA) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_header_says_where_every_tensor_is(path):
    tensors, metadata = read_header(written(path, HEADER))
    assert metadata == {"format": "pt"}
    assert [(t.dtype, t.shape) for t in tensors.values()] == [("F32", (2, 3))] * 2
    assert tensors["b"].offset == path.stat().st_size - 24


def test_a_file_one_byte_short_is_cut_off_and_one_byte_long_is_not(path):
    with pytest.raises(CheckpointError, match="is cut off"):
        read_header(written(path, HEADER, DATA[:-1]))
    read_header(written(path, HEADER, DATA + b"\0"))


def test_tensors_that_share_bytes_are_refused(path):
    for span in ([0, 24], [8, 32], [20, 44]):
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            read_header(written(path, {"a": ENTRY, "b": {**ENTRY, "data_offsets": span}}))
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [24, 24]}
    assert len(read_header(written(path, {**HEADER, "c": empty}))[0]) == 3


def test_the_longest_header_is_refused_before_it_is_read(path):
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)  # a sparse file
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_header(path)
    path.unlink()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(key=st.sampled_from([*ENTRY, None]), value=JSON)
@pytest.mark.slow
def test_any_value_in_an_entry_is_read_or_refused(path, key, value):
    entry = value if key is None else {**ENTRY, key: value}
    with contextlib.suppress(CheckpointError):
        read_header(written(path, {**HEADER, "a": entry}))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(JSON)
def test_any_header_is_read_or_refused(path, header):
    with contextlib.suppress(CheckpointError):
        read_header(written(path, header))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(at=st.integers(0, 400), new=st.binary(max_size=4), cut=st.integers(0, 8))
def test_any_changed_bytes_are_read_or_refused(path, at, new, cut):
    written(path, HEADER)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + new + whole[at + cut :])
    with contextlib.suppress(CheckpointError):
        read_header(path)
