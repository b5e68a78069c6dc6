"""A file of the disk cache is read whole, or not at all."""

import mlx.core as mx
import pytest

from mlx_lfm2vl.generation import cache_file
from mlx_lfm2vl.generation.cache_file import decode, encode, read_about, write_new

ARRAYS = {
    "a": mx.arange(24, dtype=mx.float32).reshape(2, 3, 4),
    "b": mx.arange(5).astype(mx.bfloat16),
    "c": mx.arange(12, dtype=mx.float32).astype(mx.float16).reshape(4, 3)[:, 1:],
}


def written(**about: str) -> bytes:
    return b"".join(encode(ARRAYS, {"name": "x", **about}))


def with_checksum(data: bytes) -> bytes:
    """The same content, as somebody would write it who knows the format."""
    begin = 8 + len(cache_file.START)
    rest = data[begin + cache_file.DIGITS :]
    return data[:begin] + cache_file._checksum([data[:8], rest]) + rest


def test_arrays_come_back_bit_by_bit():
    arrays, about = decode(written(model="m"))
    assert (about["name"], about["model"]) == ("x", "m")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert mx.array_equal(arrays[name], array)


def test_other_programs_can_read_it(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(written())
    assert (8 + int.from_bytes(written()[:8], "little")) % 8 == 0  # where the arrays begin
    tensors = mx.load(str(path))
    assert all(mx.array_equal(tensors[name], array) for name, array in ARRAYS.items())


def test_a_change_of_any_byte_is_found():
    data = written()
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 4
        with pytest.raises(ValueError, match="damaged|no file of the cache"):
            decode(bytes(broken))


def test_any_other_length_is_found():
    data = written()
    for end in range(len(data)):
        with pytest.raises(ValueError, match="damaged|no file of the cache"):
            decode(data[:end])
    with pytest.raises(ValueError, match="damaged"):
        decode(data + b"\0")


def test_another_version_is_not_read(monkeypatch):
    monkeypatch.setattr(cache_file, "FORMAT", "0")
    data = written()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="another version"):
        decode(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"F32"', b'"F64"'),
        (b'"shape":[2,3,4]', b'"shape":[2,3,9]'),
        (b'"shape":[2,3,4]', b'"shape":"none" '),
        (b'"data_offsets":[0,96]', b'"data_offzets":[0,96]'),
        (b"[0,96]", b"[0,95]"),
        (b'{"dtype":"BF16"', b'[{"dtype":"BF1"'),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_in_one_way(old, new):
    data = written()
    assert data.count(old) == 1
    with pytest.raises(ValueError, match=r"\w"):
        decode(with_checksum(data.replace(old, new)))


def test_a_header_longer_than_any_of_ours_is_not_parsed():
    data = (2**21).to_bytes(8, "little") + written()[8:]
    with pytest.raises(ValueError, match="its header is too long"):
        decode(with_checksum(data))


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "x", [b"other"])
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_what_a_file_says_of_itself_is_at_its_beginning():
    data = written(model="m", tokens="7")
    assert read_about(data[:-100])["tokens"] == "7"
    for other in (b"", b"\0" * 50, b"x" * 500, data[:60]):
        with pytest.raises(ValueError, match=r"\w"):
            read_about(other)
