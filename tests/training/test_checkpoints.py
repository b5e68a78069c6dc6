"""Checkpoints of a run: on the disk before they have a name, few, and refused when broken."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.training.adapters import FULLY_TRAINED, load_trained, save_adapter
from mlx_lfm2vl.training.checkpoints import check_room, load_state, newest, save_state
from mlx_lfm2vl.training.settings import TrainSettings

RUN = {"seed": 1, "keep": 2, "parts": ("language",)}


def saver(model):
    return partial(save_adapter, model, settings=dict(FULLY_TRAINED))


@pytest.fixture
def learner() -> tuple[nn.Module, optim.Optimizer]:
    model, optimizer = nn.Linear(3, 2), optim.AdamW(learning_rate=0.1)
    optimizer.init(model.trainable_parameters())
    return model, optimizer


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path, learner, synced):
    save_state(tmp_path, 7, saver(learner[0]), learner[1], RUN)
    unfinished = tmp_path / ".step-0000007.partial"
    files = {"adapters.safetensors", "adapter_config.json", "optimizer.safetensors", "run.json"}
    assert {str(unfinished / name) for name in files} <= set(synced[:-2])
    assert synced[-2:] == [str(unfinished), str(tmp_path)]
    assert {path.name for path in (tmp_path / "step-0000007").iterdir()} == files


def test_the_newest_two_checkpoints_stay(tmp_path, learner):
    assert newest(tmp_path) is None
    for step in (8, 9, 10, 11):
        save_state(tmp_path, step, saver(learner[0]), learner[1], RUN)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-0000010", "step-0000011"]
    assert newest(tmp_path) == tmp_path / "step-0000011"


def test_a_checkpoint_restores_weights_and_optimizer(tmp_path, learner):
    model, optimizer = learner
    optimizer.update(model, {"weight": mx.ones((2, 3)), "bias": mx.ones(2)})
    saved, moment = mx.array(model.weight), mx.array(optimizer.state["weight"]["m"])
    save_state(tmp_path, 1, saver(model), optimizer, RUN)
    optimizer.update(model, {"weight": mx.ones((2, 3)), "bias": mx.ones(2)})
    assert not mx.array_equal(model.weight, saved)
    assert load_state(tmp_path / "step-0000001", model, optimizer, RUN, load_trained) == 1
    assert mx.array_equal(model.weight, saved)
    assert mx.array_equal(optimizer.state["weight"]["m"], moment)
    assert optimizer.state["step"].item() == 1


@pytest.mark.parametrize("name", ["adapters.safetensors", "optimizer.safetensors"])
def test_a_broken_checkpoint_is_named(tmp_path, learner, name):
    save_state(tmp_path, 1, saver(learner[0]), learner[1], RUN)
    (tmp_path / "step-0000001" / name).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=f"{name} (is not|cannot be read)"):
        load_state(tmp_path / "step-0000001", *learner, RUN, load_trained)


@pytest.mark.parametrize(
    ("steps", "there", "written"), [(10, 0, 1), (11, 0, 2), (500, 0, 3), (500, 1, 2), (500, 2, 1)]
)
def test_there_must_be_room_for_the_checkpoints_that_will_be_there(
    tmp_path, learner, monkeypatch, steps, there, written
):
    model, optimizer = learner
    asked = []
    monkeypatch.setattr(
        "mlx_lfm2vl.training.checkpoints.check_space", lambda *given: asked.append(given)
    )
    for step in range(there):
        save_state(tmp_path / "checkpoints", step, saver(model), optimizer, RUN)
    check_room(tmp_path, model, optimizer, TrainSettings(steps=steps, save_every=10))
    weights = 4 * (2 * 3 + 2)
    moments = 2 * weights + optimizer.state["step"].nbytes + optimizer.state["learning_rate"].nbytes
    assert asked == [(tmp_path, written * (weights + moments) + 2 * weights)]


def test_a_run_begins_only_with_room_for_its_checkpoints(tmp_path, learner, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.disk_space.free_bytes", lambda _: 1000)
    with pytest.raises(InputError, match="out will take 172 bytes and needs 67.1 MB to be free"):
        check_room(tmp_path / "out", *learner, TrainSettings(steps=10, save_every=10))
