"""Image features of frozen parts: computed once, kept within a limit, never stale."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from pictures import make_picture
from training_runs import MIXED, TINY, dialogue, log_of, losses, losses_of, run

from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.training.adapters import adapted_paths, add_adapter, make_trainable
from mlx_lfm2vl.training.batches import make_batch
from mlx_lfm2vl.training.frozen import FrozenViews
from mlx_lfm2vl.training.loss import as_float, loss_sum, on_device
from mlx_lfm2vl.training.settings import TrainSettings
from mlx_lfm2vl.training.trainer import Trainer

VIEWS = 8  # of the conversations in MIXED


@pytest.fixture
def encoded(monkeypatch) -> list[mx.array]:
    """The patches of every view that the tower encodes, in order."""
    seen = []
    encode = Lfm2VL.encode_patches

    def noted(model, pixel_values, grid):
        seen.extend(pixel_values)
        return encode(model, pixel_values, grid)

    monkeypatch.setattr(Lfm2VL, "encode_patches", noted)
    return seen


def trained(folder: Path, gb: float, rows=MIXED, **changes) -> Trainer:
    """Train for two epochs, two conversations an update."""
    settings = TrainSettings(
        **{"parts": ("language",), "steps": 4, "batch_size": 2, "learning_rate": 1e-2, **changes}
    )
    model, processor = load(TINY, dtype="float32")
    mx.random.seed(0)
    make_trainable(model, settings)
    maker = SampleMaker(processor, {2})
    trainer = Trainer(model, maker, rows, settings, folder, validation=rows[:1], feature_gb=gb)
    trainer.train()
    return trainer


@pytest.mark.parametrize("parts", [("language",), ("language", "connector")])
def test_losses_do_not_depend_on_the_features_that_are_kept(tmp_path, parts):
    all_ = trained(tmp_path / "all", 1, parts=parts)
    assert all_.frozen.misses == VIEWS
    half = all_.frozen.nbytes // 2
    some = trained(tmp_path / "some", half / 1e9, parts=parts)
    none = trained(tmp_path / "none", 0, parts=parts)
    assert VIEWS < some.frozen.misses < none.frozen.misses == some.frozen.hits + some.frozen.misses
    assert 0 < some.frozen.nbytes <= half
    expected = log_of(tmp_path / "none")
    assert expected[-1]["kept_bytes"] == 0 < log_of(tmp_path / "some")[-1]["kept_bytes"]
    for name in ("all", "some"):
        for key in ("loss", "grad_norm"):
            log = log_of(tmp_path / name)
            assert [entry[key] for entry in log] == [entry[key] for entry in expected]
            assert log[-1]["validation_loss"] == expected[-1]["validation_loss"]


def test_a_view_in_several_conversations_is_encoded_once(tmp_path, encoded):
    picture = make_picture(13, 21, 1)
    rows = [dialogue(f"Question {n}?", f"Answer {n}.", picture.copy()) for n in range(4)]
    trained(tmp_path, 1, rows)
    assert len(encoded) == 1


def test_an_image_that_changes_on_disk_is_encoded_again(tmp_path):
    path = tmp_path / "image.png"
    make_picture(13, 21, 1).save(path)
    model, processor = load(TINY, dtype="float32")
    model.freeze()
    maker, frozen = SampleMaker(processor, {2}), FrozenViews(model, 10**9)
    rows = [dialogue("What?", "A cat.", str(path))]

    def loss() -> float:
        batch = make_batch([maker(row) for row in rows], model)
        return as_float(loss_sum(model, *on_device(batch, frozen), batch.grids, frozen.finish))

    before = loss()
    assert loss() == before
    make_picture(13, 21, 2).save(path)
    assert loss() == losses(model, maker, rows) != before
    assert frozen.misses == 2


@pytest.mark.parametrize("parts", [("vision",), ("language", "vision")])
def test_a_trained_tower_keeps_nothing(tmp_path, parts):
    trainer = trained(tmp_path, 1, parts=parts, steps=2)
    assert trainer.frozen.nbytes == trainer.frozen.misses == 0
    assert trainer.frozen.finish is Lfm2VL.encode_views


def test_a_tower_with_dropout_keeps_nothing_even_if_it_is_not_trained():
    model, _ = load(TINY, dtype="float32")
    paths = adapted_paths(model, ("vision",))
    add_adapter(model, paths, dora=False, rank=2, scale=1.0, dropout=0.5)
    model.freeze()
    assert FrozenViews(model, 10**9).finish is Lfm2VL.encode_views


def test_a_run_that_resumes_with_nothing_kept_has_the_same_losses(tmp_path, data):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "4", "--save-every", "2") == 0
    whole = losses_of(output)
    shutil.rmtree(output / "checkpoints" / "step-0000004")
    assert run(data, output, "--resume", "--feature-memory", "0") == 0
    assert losses_of(output) == whole
    assert [entry["kept_bytes"] > 0 for entry in log_of(output)] == [True] * 2 + [False] * 2


def test_a_limit_below_zero_is_refused(tmp_path, data, capsys):
    assert run(data, tmp_path / "out", "--feature-memory", "-1") == 2
    assert "--feature-memory is -1.0, expected 0 or more" in capsys.readouterr().err
