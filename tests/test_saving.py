"""A model written as a checkpoint folder: its files are those of its weights, and no others."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import edit_json
from training_runs import TINY

from mlx_lfm2vl import saving
from mlx_lfm2vl.arrays import save_arrays
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.disk_space import FULL
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.saving import REPORT, save_checkpoint


def test_what_is_written_answers_as_what_was_loaded(checkpoint, tmp_path):
    model, processor = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "new")
    again, _ = load(tmp_path / "new")
    ids = processor(user_message("Hello", [])).input_ids
    np.testing.assert_array_equal(again(ids), model(ids))


LEFT_OVER = ["adapter_config.json", "quantize_config.json", "trainer_state.json"]
LEFT_OVER += ["consolidated.safetensors.index.json", "pytorch_model.bin.index.json"]


def test_only_what_describes_the_new_weights_is_written(checkpoint, tmp_path):
    for name in (REPORT, *LEFT_OVER, "LICENSE.txt"):
        (checkpoint / name).write_text("{}")
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"old": "model.safetensors"}, "metadata": {"total_size": 1}})
    )
    for name in ("notes.txt", "adapters.safetensors"):
        (checkpoint / name).write_bytes(b"")
    model, _ = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "LICENSE.txt",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    written = mx.load(str(tmp_path / "new" / "model.safetensors"))
    assert set(index["weight_map"]) == set(written)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in written.values())


def test_a_template_in_a_folder_of_its_own_is_saved_and_companion_files_are_not(
    checkpoint, tmp_path
):
    (checkpoint / "additional_chat_templates").mkdir()
    template = checkpoint / "additional_chat_templates" / "default.jinja"
    (checkpoint / "chat_template.jinja").rename(template)
    (checkpoint / "._config.json").write_bytes(b"\0\5\x16\7")
    model, processor = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "new")
    assert load(tmp_path / "new")[1].template.source == processor.template.source
    assert not (tmp_path / "new" / "._config.json").exists()


def test_links_are_copied_as_files_and_private_files_are_not(checkpoint, tmp_path, caplog):
    (tmp_path / "private").write_text("secret")
    (checkpoint / "LICENSE-x").symlink_to(tmp_path / "private")
    (checkpoint / "LICENSE-y").symlink_to(checkpoint / "config.json")
    (checkpoint / "LICENSES").mkdir()
    model, _ = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "new")
    assert not (tmp_path / "new" / "LICENSE-x").exists()
    assert "not copied: " in caplog.text
    copied = tmp_path / "new" / "LICENSE-y"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (checkpoint / "config.json").read_bytes()


def test_the_type_of_the_weights_is_written_and_old_quantization_settings_are_not(
    checkpoint, tmp_path
):
    settings = {"bits": 4, "group_size": 64}
    edit_json(checkpoint / "config.json", quantization=settings, quantization_config=settings)
    model, _ = load(checkpoint, dtype="float16")
    save_checkpoint(model, checkpoint, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert {"quantization", "quantization_config"}.isdisjoint(config)
    types = [config[key] for key in ("dtype", "torch_dtype") if key in config]
    assert types == ["float16"]


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_type_stays_under_the_key_the_checkpoint_has(checkpoint, tmp_path, key):
    edit_json(checkpoint / "config.json", dtype=None, torch_dtype=None)
    edit_json(checkpoint / "config.json", **{key: "bfloat16"})
    model, _ = load(checkpoint, dtype="float32")
    save_checkpoint(model, checkpoint, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert {k: config[k] for k in ("dtype", "torch_dtype") if k in config} == {key: "float32"}


@pytest.mark.parametrize("flag", ["do_image_splitting", "use_thumbnail"])
def test_the_tiling_in_use_is_written(checkpoint, tmp_path, flag):
    model, _ = load(checkpoint)
    edit_json(checkpoint / "processor_config.json", **{f"image_processor__{flag}": False})
    save_checkpoint(model, checkpoint, tmp_path / "new")
    assert read_image_config(tmp_path / "new") == model.image_config


def test_an_existing_folder_is_replaced_only_when_told(checkpoint, tmp_path):
    model, _ = load(checkpoint)
    target = tmp_path / "new"
    save_checkpoint(model, checkpoint, target)
    (target / "config.json").write_text("{}")
    with pytest.raises(InputError, match="exists"):
        save_checkpoint(model, checkpoint, target)
    assert (target / "config.json").read_text() == "{}"
    save_checkpoint(model, checkpoint, target, overwrite=True)
    load(target)


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_the_reason_that_is_given():
    with pytest.raises(OSError, match="No space left on device"):
        save_arrays(Path("/dev/full"), {"a": mx.zeros(1000)}, {})


def test_a_full_disk_that_only_mlx_noticed_is_one_too(tmp_path, monkeypatch):
    def unable(*_):
        raise RuntimeError("[write] Unable to write 240433 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", unable)
    with pytest.raises(OSError, match="Unable to write") as caught:
        save_arrays(tmp_path / "a.safetensors", {"a": mx.zeros(1000)}, {})
    assert caught.value.errno in FULL


def test_too_little_space_is_said_before_a_checkpoint_is_written(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("mlx_lfm2vl.disk_space.free_bytes", lambda _: 1000)
    with pytest.raises(InputError, match="new will take .* kB and needs .* MB to be free, but onl"):
        saving.save_checkpoint(tiny[0], TINY, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


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
