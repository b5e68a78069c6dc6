"""Checkpoints of a run: on the disk before they have a name, few, and refused when broken."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.training.adapters import FULLY_TRAINED
from mlx_lfm2vl.training.checkpoints import load_state, newest, save_state

RUN = {"seed": 1, "keep": 2, "parts": ("language",)}


@pytest.fixture
def learner() -> tuple[nn.Module, optim.Optimizer]:
    model, optimizer = nn.Linear(3, 2), optim.AdamW(learning_rate=0.1)
    optimizer.init(model.trainable_parameters())
    return model, optimizer


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path, learner, synced):
    save_state(tmp_path, 7, *learner, RUN, FULLY_TRAINED)
    partial = tmp_path / ".step-0000007.partial"
    files = {"adapters.safetensors", "adapter_config.json", "optimizer.safetensors", "run.json"}
    assert {str(partial / name) for name in files} <= set(synced[:-2])
    assert synced[-2:] == [str(partial), str(tmp_path)]
    assert {path.name for path in (tmp_path / "step-0000007").iterdir()} == files


def test_the_newest_two_checkpoints_stay(tmp_path, learner):
    assert newest(tmp_path) is None
    for step in (8, 9, 10, 11):
        save_state(tmp_path, step, *learner, RUN, FULLY_TRAINED)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-0000010", "step-0000011"]
    assert newest(tmp_path) == tmp_path / "step-0000011"


def test_a_checkpoint_restores_weights_and_optimizer(tmp_path, learner):
    model, optimizer = learner
    optimizer.update(model, {"weight": mx.ones((2, 3)), "bias": mx.ones(2)})
    saved, moment = mx.array(model.weight), mx.array(optimizer.state["weight"]["m"])
    save_state(tmp_path, 1, model, optimizer, RUN, FULLY_TRAINED)
    optimizer.update(model, {"weight": mx.ones((2, 3)), "bias": mx.ones(2)})
    assert not mx.array_equal(model.weight, saved)
    assert load_state(tmp_path / "step-0000001", model, optimizer, RUN) == 1
    assert mx.array_equal(model.weight, saved)
    assert mx.array_equal(optimizer.state["weight"]["m"], moment)
    assert optimizer.state["step"].item() == 1


@pytest.mark.parametrize("name", ["adapters.safetensors", "optimizer.safetensors"])
def test_a_broken_checkpoint_is_named(tmp_path, learner, name):
    save_state(tmp_path, 1, *learner, RUN, FULLY_TRAINED)
    (tmp_path / "step-0000001" / name).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=f"{name} (is not|cannot be read)"):
        load_state(tmp_path / "step-0000001", *learner, RUN)
