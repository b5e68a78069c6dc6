"""Adapters from the Hub: only their own files are fetched, and a cached copy is used offline."""

import shutil
from pathlib import Path

import pytest
from adapter_cases import ADAPTERS, TINY, greedy
from hub_server import REPO, serving, use_hub

from mlx_lfm2vl.adapters.choice import find_adapters
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.errors import CheckpointError, InputError, NetworkError
from mlx_lfm2vl.loading import load


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the Hub library."""
    import huggingface_hub

    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def put(cache: Path, name: str, *, without: str = "") -> Path:
    """Put a golden adapter into the cache as me/NAME."""
    repo = cache / f"models--me--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    snapshot = Path(shutil.copytree(ADAPTERS / name, repo / "snapshots" / "abc"))
    if without:
        (snapshot / without).unlink()
    return snapshot


def test_a_cached_adapter_is_used_without_the_network(cache, expected):
    snapshot = put(cache, "rslora")
    assert find_adapters("me/rslora:0.5") == [(snapshot, 0.5)]
    model, processor = load(TINY, dtype="float32", adapter="me/rslora")
    tokens = greedy(model, processor, "new_names", "small")
    assert tokens == expected["rslora.small.greedy"].tolist()


def test_only_the_files_of_an_adapter_are_fetched(monkeypatch, tmp_path):
    folder = shutil.copytree(ADAPTERS / "lora", tmp_path / "repo")
    for name in ("adapter_model.bin", "model.safetensors", "README.md"):
        (folder / name).write_bytes(b"not wanted")
    files = ["adapter_config.json", "adapter_model.safetensors"]
    with serving(folder) as hub:
        use_hub(monkeypatch, hub.url, tmp_path)
        ((found, weight),) = find_adapters(f"{REPO}:0.5")
        assert (hub.paths(), weight) == (files, 0.5)
        assert sorted(path.name for path in found.iterdir()) == files
    assert find_adapters(REPO) == [(found, 1.0)]  # without the server


def test_a_repository_without_an_adapter_says_so(monkeypatch, tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "model.safetensors").write_bytes(b"x")
    with serving(tmp_path / "repo") as hub:
        use_hub(monkeypatch, hub.url, tmp_path)
        with pytest.raises(CheckpointError, match=f"{REPO} holds no adapter"):
            find_adapters(REPO)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_incomplete_cached_copy_is_not_taken(file, cache):
    put(cache, "lora", without=file)
    with pytest.raises((NetworkError, CheckpointError)):
        load(TINY, adapter="me/lora")


@pytest.mark.usefixtures("cache")
def test_what_is_neither_a_folder_nor_a_repo_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for name in ("nowhere", "./me/x", "a/b/c", str(tmp_path / "none")):
        with pytest.raises(InputError, match="does not exist"):
            find_adapters(name)
    with pytest.raises(InputError, match="is a file, expected the folder of an adapter"):
        find_adapters(str(tmp_path / "file"))
    with pytest.raises(InputError, match="does not exist|not a usable path") as caught:
        find_adapters("a\0b")
    assert "\0" not in str(caught.value)
    with pytest.raises(NetworkError, match="me/not-there"):
        find_adapters("me/not-there")
    asked = ["--model", str(TINY), "--prompt", "x", "--adapter", "me/not-there"]
    assert generate(asked) == 1
    assert capsys.readouterr().err.count("\n") == 1
