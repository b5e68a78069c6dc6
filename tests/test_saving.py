"""Saved checkpoints: their type and tiling are written down, and a failed save changes nothing."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import edit_json
from training_runs import TINY

from mlx_lfm2vl import saving
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load


def test_the_config_says_which_type_was_saved(tmp_path):
    model, _ = load(TINY, dtype="float16")
    saving.save_checkpoint(model, TINY, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


def test_a_failed_save_leaves_an_existing_checkpoint_as_it_was(tmp_path, monkeypatch, tiny):
    target = Path(shutil.copytree(TINY, tmp_path / "kept"))
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_weights", full_disk)
    with pytest.raises(InputError, match="cannot be written"):
        saving.save_checkpoint(tiny[0], TINY, target, overwrite=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_repaired_tiling_is_written_down(tmp_path):
    from weights import rewrite

    from mlx_lfm2vl.checkpoint.names import mlx_name

    source = Path(shutil.copytree(TINY, tmp_path / "source"))
    rewrite(source, mlx_name, transpose=True, metadata={"format": "mlx"})
    edit_json(source / "processor_config.json", image_processor__do_image_splitting=False)
    model, processor = load(source, dtype="float32")
    assert processor.image_config.do_image_splitting  # a published mistake, undone
    saving.save_checkpoint(model, source, tmp_path / "saved")
    assert load(tmp_path / "saved")[1].image_config == processor.image_config
