"""What names a checkpoint, what is fetched from the Hub, and what the cache may hold."""

import shutil

import pytest
from conftest import golden

from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.errors import CheckpointError, InputError, NetworkError
from mlx_lfm2vl.loading import load


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("no/such/folder", InputError, "neither a folder nor a repo id"),
        ("nowhere", InputError, "neither a folder nor a repo id"),
        ("./missing", InputError, "neither a folder nor a repo id"),
        (__file__, InputError, "is a file"),
        ("nobody/nothing-at-all", NetworkError, "not in the local cache, .* HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_no_model_is_said(model, error, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(error, match=message):
        load(model)


def cached_repo(home, source, *, without=()) -> str:
    """Put a folder into a Hub cache as a finished download would be."""
    snapshot = home / "hub" / "models--me--tiny" / "snapshots" / "abc"
    shutil.copytree(source, snapshot, ignore=lambda *_: list(without))
    refs = home / "hub" / "models--me--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    return "me/tiny"


def test_a_complete_local_copy_is_used_without_asking_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = golden("new_names").folder
    repo = cached_repo(tmp_path, source)
    assert find_checkpoint(repo).name == "abc"
    assert load(repo)[0].config.image_token_id == 5


def test_what_a_local_copy_lacks_is_named(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = golden("new_names").folder
    repo = cached_repo(tmp_path, source, without=["model.safetensors"])
    assert find_checkpoint(repo, with_weights=False).name == "abc"
    with pytest.raises(NetworkError, match="lacks model.safetensors, .* HF_HUB_OFFLINE is set"):
        find_checkpoint(repo)


def test_a_cache_that_another_program_filled_partly_is_not_taken_as_complete(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    without = ["processor_config.json", "tokenizer.json"]
    repo = cached_repo(tmp_path, golden("new_names").folder, without=without)
    with pytest.raises(NetworkError, match="lacks processor_config.json, tokenizer.json, which"):
        find_checkpoint(repo)


def test_messages_about_a_repo_name_the_repo(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = cached_repo(tmp_path, golden("new_names").folder)
    (tmp_path / "hub/models--me--tiny/snapshots/abc/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="^me/tiny/model.safetensors is empty"):
        load(repo)


def test_a_folder_has_no_revision(checkpoint):
    with pytest.raises(InputError, match="has no revision"):
        load(checkpoint, revision="main")


@pytest.mark.parametrize("model", ["x" * 5000, "~nosuchuser/x", "a\0b"])
def test_unusable_paths_are_one_line(model):
    with pytest.raises(InputError, match="not a usable path|neither a folder"):
        load(model)


def test_a_folder_around_a_checkpoint_or_an_adapter_is_called_so(checkpoint):
    tmp_path = checkpoint.parent
    around = tmp_path / "models--me--tiny"
    (around / "snapshots").mkdir(parents=True)
    checkpoint.rename(around / "snapshots" / "abc")
    with pytest.raises(CheckpointError, match="did you mean .*snapshots/abc"):
        find_checkpoint(str(around))
    with pytest.raises(CheckpointError, match="did you mean .*snapshots/abc"):
        find_checkpoint(str(around / "snapshots"))
    (around / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it is an adapter, which goes to --adapter"):
        find_checkpoint(str(around))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="it has no config.json"):
        find_checkpoint(str(empty))
