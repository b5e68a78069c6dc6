"""The list of checkpoints: what is in the cache, what fits, and removing."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from hub_caches import PLACE, Terminal, put

from mlx_lfm2vl import cli
from mlx_lfm2vl.checkpoint.aliases import PUBLISHED
from mlx_lfm2vl.commands import models

SMALL = "LiquidAI/LFM2.5-VL-450M"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with one of our models and another program's."""
    monkeypatch.setattr(PLACE, str(tmp_path / "hub"))
    put(tmp_path / "hub", SMALL, "lfm2_vl", 60_000_000)
    put(tmp_path / "hub", "other/llama", "llama", 1000)
    return tmp_path / "hub"


def test_our_checkpoints_are_listed_with_size_and_place(cache, capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    here, there = out.split("to download")
    assert SMALL in here
    assert "0.1 GB" in here
    assert str(cache / "models--LiquidAI--LFM2.5-VL-450M") in here
    assert "llama" not in out
    assert all(model.repo in there for model in PUBLISHED if model.repo != SMALL)
    assert f"{SMALL} " not in there


def test_no_cache_is_an_empty_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PLACE, str(tmp_path / "none"))
    assert cli.main(["models"]) == 0
    assert "\n  none\n" in capsys.readouterr().out


@pytest.mark.parametrize(("memory", "fitting"), [(8.6, 4), (16.0, 6), (2.0, 0), (0.0, 0)])
def test_what_fits_the_memory_is_said(memory, fitting, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PLACE, str(tmp_path / "none"))
    monkeypatch.setattr(models, "memory_gigabytes", lambda: memory)
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("  fits") for line in lines) == fitting
    assert sum("too large" in line for line in lines) == (6 - fitting if memory else 0)


def test_a_checkpoint_is_removed_after_a_question(cache, monkeypatch, capsys):
    folder = cache / "models--LiquidAI--LFM2.5-VL-450M"
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert cli.main(["models", "--remove", "450m"]) == 1
        assert "nothing was deleted" in capsys.readouterr().err
        assert folder.exists()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli.main(["models", "--remove", "450m"]) == 0
    assert not folder.exists()
    assert (cache / "models--other--llama").exists()


def test_without_a_terminal_only_yes_removes(cache, monkeypatch, capsys):
    folder = cache / "models--LiquidAI--LFM2.5-VL-450M"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["models", "--remove", SMALL]) == 2
    assert "or with --yes" in capsys.readouterr().err
    assert folder.exists()
    assert cli.main(["models", "--remove", SMALL, "--yes"]) == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remove", "LFM2.5-VL-450M"], f"is not in the cache; did you mean {SMALL}?"),
        (["--remove", "other/llama", "--yes"], "other/llama is not in the cache"),
        (["--yes"], "with --remove only"),
    ],
)
def test_only_what_is_listed_is_removed(arguments, message, cache, capsys):
    assert cli.main(["models", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert len(list(cache.iterdir())) == 2


def test_a_download_that_was_cut_off_is_not_listed_like_a_whole_one(cache, checkpoint, capsys):
    assert cli.main(["models"]) == 0
    assert "0.1 GB  not complete: the next use of it downloads the rest" in capsys.readouterr().out
    (snapshot,) = (cache / "models--LiquidAI--LFM2.5-VL-450M" / "snapshots").iterdir()
    for file in checkpoint.iterdir():
        (snapshot / file.name).unlink(missing_ok=True)
        shutil.copy(file, snapshot)
    edited = json.loads((snapshot / "config.json").read_text()) | {"model_type": "lfm2_vl"}
    (snapshot / "config.json").write_text(json.dumps(edited))
    assert cli.main(["models"]) == 0
    assert "not complete" not in capsys.readouterr().out
