"""Short names, and the name that somebody may have meant."""

import re

import pytest
from pages import README

from mlx_lfm2vl.checkpoint.aliases import ALIASES, PUBLISHED, full_name, similar_name
from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.errors import CheckpointError, InputError


@pytest.mark.parametrize("alias", ["450m", "450M", "1.6b", "3B"])
def test_a_size_names_the_newest_checkpoint(alias):
    assert full_name(alias) == f"LiquidAI/LFM2.5-VL-{alias.upper()}"


def test_other_names_stay():
    for name in ("demo", "me/450m", "./450m", "450"):
        assert full_name(name) == name


def test_published_sizes_are_those_of_the_readme():
    rows = README.table("| repository | parameters | memory, 16 bits | memory, 4 bits (estimate) |")
    for names, _, memory, _ in rows:
        sizes = re.findall(r"\d\.\d", memory)
        for name, size in zip(["LFM2-VL", "LFM2.5-VL"], sizes * 2, strict=False):
            end = re.findall(r"LFM2-VL(-[\w.]+)", names)[0]
            (published,) = [model for model in PUBLISHED if model.repo.endswith(f"/{name}{end}")]
            assert published.gigabytes == float(size)
    assert len(PUBLISHED) == 2 * len(rows) == 2 * len(ALIASES)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("LFM2.5-VL-450M", "LiquidAI/LFM2.5-VL-450M"),
        ("lfm2-vl-1.6b", "LiquidAI/LFM2-VL-1.6B"),
        ("liquidai/lfm2.5-vl-450m", "LiquidAI/LFM2.5-VL-450M"),
        ("https://huggingface.co/LiquidAI/LFM2-VL-3B", "LiquidAI/LFM2-VL-3B"),
        ("https://huggingface.co/me/mine/tree/main", "me/mine"),
        ("Demo", "demo"),
        ("dmeo", "demo"),
        ("450mb", "450m"),
    ],
)
def test_the_nearest_name_is_found(typed, meant):
    assert similar_name(typed) == meant


@pytest.mark.parametrize("typed", ["nowhere", "gpt", ""])
def test_what_is_like_no_name_has_no_nearest(typed):
    assert similar_name(typed) is None


def test_a_misspelt_model_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="neither a folder nor a repo id; did you mean demo"):
        find_checkpoint("dmeo")
    with pytest.raises(InputError, match="did you mean LiquidAI/LFM2.5-VL-450M"):
        find_checkpoint("LFM2.5-VL-450M")


def test_a_folder_of_photos_is_no_checkpoint(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(CheckpointError, match="there is no checkpoint in .*: it has no config"):
        find_checkpoint(str(tmp_path))
