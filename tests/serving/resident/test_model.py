"""When the files that a resident process has loaded are no longer what they were."""

import os

import pytest

from mlx_lfm2vl.serving.resident.model import stamp
from mlx_lfm2vl.serving.resident.place import Wanted


@pytest.mark.parametrize("kind", ["model", "adapter", "drafter"])
def test_a_change_of_any_file_shows(tmp_path, kind):
    folder = str(tmp_path)
    wanted = {
        "model": Wanted(folder),
        "adapter": Wanted("demo", adapters=(f"{folder}:0.5",)),
        "drafter": Wanted("demo", draft_model=folder),
    }[kind]
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    stamps = [stamp(wanted), stamp(wanted)]
    assert stamps[0] == stamps[1]
    os.utime(file, ns=(1, 1))
    stamps.append(stamp(wanted))
    file.write_bytes(b"longer")
    os.utime(file, ns=(1, 1))
    stamps.append(stamp(wanted))
    (tmp_path / "another").touch()
    stamps.append(stamp(wanted))
    assert len({str(each) for each in stamps}) == 4
