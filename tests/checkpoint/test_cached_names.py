"""Checkpoints in the Hub library's cache are found without that library, where it has them."""

import importlib.util
from pathlib import Path

import pytest
from hub_caches import put
from huggingface_hub import constants

from mlx_lfm2vl.checkpoint.cached_names import cached_folder, cached_names, hub_cache

VARIABLES = ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": ""},
        {"XDG_CACHE_HOME": "/x", "HF_HOME": "~/h"},
        {"HF_HOME": "$XDG_CACHE_HOME/h", "XDG_CACHE_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"},
        {"HF_HUB_CACHE": "~/new", "HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_the_cache_is_where_the_hub_library_has_it(monkeypatch, settings):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = importlib.util.spec_from_file_location("fresh_constants", constants.__file__)
    assert found
    assert found.loader
    fresh = importlib.util.module_from_spec(found)
    found.loader.exec_module(fresh)
    assert hub_cache() == Path(fresh.HF_HUB_CACHE)


def test_checkpoints_of_the_family_are_told_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "missing"))
    assert cached_names() == []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    ours = ["LiquidAI/LFM2-VL-450M", "LiquidAI/LFM2.5-VL-3B", "me/my-lfm2-vl-4bit"]
    others = ["LiquidAI/LFM2-350M", "LiquidAI/LFM2-VL-1.6B-GGUF", "LiquidAI/LFM2.5-VL-3B-DSpark"]
    for repo in (*ours, *others):
        folder = put(tmp_path, repo, "lfm2_vl", 1)
    (tmp_path / "datasets--me--lfm2-vl").mkdir()
    assert cached_names() == ours
    assert cached_folder("me/missing-lfm2-vl") is None
    copy = cached_folder("LiquidAI/LFM2-VL-450M")
    assert copy
    assert (copy / "config.json").exists()
    (folder / "refs" / "main").write_text("../..")
    assert cached_folder(others[-1]) is None
