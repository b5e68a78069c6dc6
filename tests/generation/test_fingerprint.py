"""Models that compute different things have different fingerprints, and equal ones the same."""

import os
import shutil

import mlx.core as mx
import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.generation import fingerprint as module
from mlx_lfm2vl.generation.fingerprint import content_fingerprint, fingerprint
from mlx_lfm2vl.loading import load


def loaded(folder, dtype="float32"):
    return load(folder, dtype=dtype)[0]


def test_a_checkpoint_loaded_again_has_the_same_one(checkpoint):
    assert fingerprint(loaded(checkpoint)) == fingerprint(loaded(checkpoint))


def test_the_name_by_which_it_is_called_does_not_matter(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    assert fingerprint(loaded(".")) == fingerprint(loaded(checkpoint))


def test_checkpoints_and_number_types_differ():
    folders = [golden(name).folder for name in ("new_names", "old_names", "odd_constants")]
    found = {fingerprint(loaded(folder)) for folder in folders}
    found |= {fingerprint(loaded(folders[0], dtype)) for dtype in ("float16", "bfloat16")}
    assert len(found) == 5


def test_one_byte_of_the_file_is_enough(checkpoint):
    before = fingerprint(loaded(checkpoint))
    path = checkpoint / "model.safetensors"
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert fingerprint(loaded(checkpoint)) != before


def test_a_copy_on_another_machine_has_the_same_content(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert content_fingerprint(loaded(copy)) == content_fingerprint(loaded(checkpoint))
    assert fingerprint(loaded(copy)) != fingerprint(loaded(checkpoint))
    other = loaded(golden("odd_constants").folder)
    assert content_fingerprint(other) != content_fingerprint(loaded(checkpoint))


def test_a_fine_tune_under_the_same_name_differs(checkpoint, tmp_path):
    before = fingerprint(loaded(checkpoint))
    shutil.copytree(checkpoint, tmp_path / "copy")
    shutil.rmtree(checkpoint)
    (tmp_path / "copy").rename(checkpoint)
    assert fingerprint(loaded(checkpoint)) != before


def test_settings_count(checkpoint):
    before = fingerprint(loaded(checkpoint))
    edit_json(checkpoint / "config.json", text_config__norm_eps=1e-3)
    assert fingerprint(loaded(checkpoint)) != before


def test_weights_changed_in_memory_count():
    model = loaded(golden("new_names").folder)
    before = fingerprint(model)
    norm = model.language_model.embedding_norm
    norm.weight = norm.weight + 1e-6
    assert fingerprint(model) != before


@pytest.mark.parametrize("shape", [(70, 64), (8, 96, 32), (3, 2048)])
def test_a_row_of_a_large_array_cannot_change_unseen(monkeypatch, shape):
    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    array = mx.random.normal(shape)
    before = module._sample(array)
    assert before.size < array.nbytes
    rows = array.reshape(-1, shape[-1])
    for row in range(rows.shape[0]):
        changed = rows + (mx.arange(rows.shape[0]) == row)[:, None]
        assert not mx.array_equal(module._sample(changed.reshape(shape)), before)


def test_a_column_of_a_large_array_cannot_change_unseen(monkeypatch):
    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    array = mx.random.normal((70, 64))
    before = module._sample(array)
    for column in range(64):
        changed = array + (mx.arange(64) == column)
        assert not mx.array_equal(module._sample(changed), before)


@pytest.mark.parametrize("name", ["FORMAT", "__version__", "PREFILL_CHUNK", "MAX_PATCHES", "GPU"])
def test_versions_and_kernels_count(tiny, monkeypatch, name):
    before = fingerprint(tiny[0])
    monkeypatch.setattr(module, name, "other")
    assert fingerprint(tiny[0]) != before
