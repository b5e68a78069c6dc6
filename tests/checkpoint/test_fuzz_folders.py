"""Checkpoint folders damaged in several files at once, with fixed seeds, load or are refused."""

import contextlib
import json
import os
import random
import shutil
import struct
from pathlib import Path

from conftest import golden
from mutations import damage_bytes, damage_json, seeds

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load

SOURCES = [golden(name).folder for name in ("new_names", "untied_sharded_bf16", "old_names")]
BESIDE = ("x.safetensors", "model.safetensors", "model.safetensors.index.json")
DTYPES = ("F32", "BF16", "F16", "U32", "F64", "BOOL", "F8_E4M3", "F4", "C64", "", "f32")
FOREIGN_KEYS = ("quantization", "quantization_config", "lora_parameters", "rope_scaling")
ENTRIES = (
    {"bits": 4},
    {"bits": 4, "group_size": 64, "lm_head": {"bits": [8]}},
    {"mode": {}},
    [],
    7,
)


def damage_header(path: Path, draw: random.Random) -> None:
    """Change a header so that the file is still read up to its entries."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name, other = draw.choice(names), draw.choice(names)
    first, last = header[name]["data_offsets"]
    kind = draw.randrange(10)
    if kind == 0:
        header[name]["dtype"] = draw.choice(DTYPES)
    elif kind == 1:
        header[name]["data_offsets"] = header[other]["data_offsets"]
    elif kind == 2:
        header[name] |= {"shape": [0, *header[name]["shape"]], "data_offsets": [first, first]}
    elif kind == 3:
        header[name]["shape"] = header[name]["shape"][::-1] + [1] * draw.randrange(9)
    elif kind == 4:
        header[draw.choice([f"{name}s", f"model.{name}", "\0", "lm_head.weight"])] = header[name]
    elif kind == 5:
        header[name.replace("weight", "scales")] = header.pop(name)
    elif kind == 6:
        header["__metadata__"] = draw.choice([None, [], {"format": 1}, {"format": "x" * 10**5}])
    elif kind == 7:
        header[name]["data_offsets"] = [last, first]
    else:
        damage_json(header, draw)
    text = json.dumps(header).encode()
    length = draw.choice([len(text)] * 5 + [0, 2**63, 2**64 - 1, len(text) - 1, len(data)])
    path.write_bytes(struct.pack("<Q", length) + text + data[8 + len(header) :][-10_000:])


def damage_place(path: Path, folder: Path, draw: random.Random) -> None:
    """Put something else where a file was, or leave nothing."""
    others = sorted(other for other in folder.iterdir() if other != path)
    other, kind = draw.choice(others), draw.randrange(8)
    can_copy = other.is_file() and other.stat().st_size < 2**20
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(draw.choice([other.name, path.name, "/dev/zero", "../.."]))
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.write_bytes(b"")
    elif kind == 4 and can_copy:
        shutil.copyfile(other, path)
    elif kind == 5 and other.is_file():
        path.hardlink_to(other)
    elif kind == 6:
        path.touch()
        os.truncate(path, draw.choice([7, 2**23, 2**40]))  # without a byte on the disk


def damage_file(path: Path, folder: Path, draw: random.Random) -> None:
    is_json = path.suffix == ".json"
    kind = draw.random()
    if kind < 0.1:
        damage_place(path, folder, draw)
    elif path.suffix == ".safetensors" and kind < 0.8:
        damage_header(path, draw)
    elif is_json and path.name != "tokenizer.json" and kind < 0.8:
        values = json.loads(path.read_bytes())
        if draw.random() < 0.2:
            values[draw.choice(FOREIGN_KEYS)] = draw.choice(ENTRIES)
        damage_json(values, draw)
        path.write_text(json.dumps(values))
    else:
        data = path.read_bytes()
        path.write_bytes(damage_bytes(data[:6000], draw) + data[6000:])


@seeds(40, 10_000)
def test_folders_damaged_in_several_files_load_or_are_refused(tmp_path, capfd, bounds, cases):
    loaded = 0
    for case in range(cases):
        draw = random.Random(case)
        folder = tmp_path / "checkpoint"
        shutil.copytree(draw.choice(SOURCES), folder)
        files = sorted(folder.iterdir())
        if draw.random() < 0.05:
            with contextlib.suppress(shutil.SameFileError):
                shutil.copyfile(draw.choice(files), folder / draw.choice(BESIDE))
        for path in draw.sample(files, draw.choice((1, 1, 2, 3))):
            with contextlib.suppress(ValueError, OSError):  # damaged before, so left as it is
                damage_file(path, folder, draw)
        with bounds.case(case), contextlib.suppress(CheckpointError, InputError):
            _, processor = load(folder)
            processor([{"role": "user", "content": "Hello"}])
            loaded += 1
        assert capfd.readouterr().err == "", case
        shutil.rmtree(folder)
    assert cases / 20 < loaded < cases
