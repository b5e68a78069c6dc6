"""Fixtures of the tests of training."""

from pathlib import Path

import pytest
from pictures import make_picture
from training_runs import TINY, write_rows

from mlx_lfm2vl.loading import load


@pytest.fixture
def model_and_processor():
    """A fresh tiny model, free to change."""
    return load(TINY, dtype="float32")


@pytest.fixture(autouse=True)
def plotted(monkeypatch) -> list[Path]:
    """The plots that runs ask for. They are not drawn: that takes as long as a short run."""
    pictures = []
    monkeypatch.setattr(
        "mlx_lfm2vl.training.plot.plot_log",
        lambda _log, picture, *_: pictures.append(picture),
    )
    return pictures


@pytest.fixture
def data(tmp_path) -> Path:
    """Ten pictures, each with an answer of its own."""
    rows = []
    for i in range(10):
        make_picture(20 + i, 30 - i, i).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "prompt": "Which?", "answer": f"no. {i * 37 % 100}"})
    return write_rows(tmp_path / "data.jsonl", rows)


@pytest.fixture
def few(data) -> Path:
    """The first two of them: enough to validate with, where any loss will do."""
    lines = data.read_text().splitlines(keepends=True)
    path = data.with_name("few.jsonl")
    path.write_text("".join(lines[:2]))
    return path
