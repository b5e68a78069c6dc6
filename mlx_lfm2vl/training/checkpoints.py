"""Checkpoints of a run: written whole or not at all, and enough to go on exactly."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_unflatten

from ..arrays import dtype_name, named_arrays
from ..checkpoint.json_file import read_json
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from ..whole_folder import new_folder

KEPT = 2  # newest checkpoints that stay on disk
IDENTIFYING = 16  # elements of every parameter that a run remembers its model by


def identify(model: Lfm2VL, data: Path) -> dict[str, str]:
    """What tells a model and its data from others of the same sizes, as part of a run.

    Args:
        model: before it is made trainable; the first elements of its weights are hashed.
        data: a file; its bytes are hashed.
    """
    weights = named_arrays(model.parameters())
    begun = [weights[name].flatten()[:IDENTIFYING].view(mx.uint8) for name in sorted(weights)]
    return {
        "model": hashlib.sha256(np.array(mx.concatenate(begun)).tobytes()).hexdigest()[:16],
        "dtype": dtype_name(model.language_model.embedding_norm.weight.dtype),
        "data": hashlib.sha256(data.read_bytes()).hexdigest()[:16],
    }


def save_state(
    folder: Path, step: int, model: nn.Module, optimizer: optim.Optimizer, run: dict[str, Any]
) -> None:
    """Write `folder/step-N`, whole or not at all: `kill -9` leaves no half one.

    Args:
        folder: of all checkpoints of the run.
        step: updates done so far; the data order follows from it.
        model: its trainable parameters are stored.
        optimizer: its state is stored.
        run: what the run was asked to do; compared by `load_state`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    for left in folder.glob(".step-*.partial"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    with new_folder(final, overwrite=False) as partial:
        _save(partial / "weights.safetensors", named_arrays(model.trainable_parameters()))
        _save(partial / "optimizer.safetensors", named_arrays(optimizer.state))
        (partial / "run.json").write_text(json.dumps({"step": step, **run}, indent=2) + "\n")
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def _save(path: Path, arrays: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(path), arrays, {"format": "mlx"})


def newest(folder: Path) -> Path | None:
    """The last complete checkpoint of a run."""
    return max(folder.glob("step-*"), default=None)


def load_state(
    checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer, run: dict[str, Any]
) -> int:
    """Put a run back to where it was; returns the number of updates done.

    Raises:
        InputError: the run was asked to do something else then.
        CheckpointError: a file is missing or broken.
    """
    saved = read_json(checkpoint / "run.json")
    step = saved.pop("step")
    run = json.loads(json.dumps(run))
    changed = sorted(key for key in {*saved, *run} if saved.get(key) != run.get(key))
    if changed:
        values = ", ".join(f"{key} was {saved.get(key)!r}" for key in changed)
        raise InputError(f"cannot resume with other settings ({values}); use another output folder")
    weights = _load(checkpoint / "weights.safetensors")
    model.load_weights(list(weights.items()), strict=False)
    state = _load(checkpoint / "optimizer.safetensors")
    optimizer.state = tree_unflatten(list(state.items()))
    mx.eval(model.parameters(), optimizer.state)
    return step


def _load(path: Path) -> dict[str, mx.array]:
    try:
        arrays = mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    assert isinstance(arrays, dict)
    return arrays
