"""Checkpoints of a training run: written completely or not at all, and resumed exactly."""

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

from ..arrays import dtype_name, named_arrays, save_arrays
from ..checkpoint.json_file import read_json
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from ..prompt.data_files import find_data
from ..whole_folder import new_folder

KEPT = 2  # number of newest checkpoints kept on disk
IDENTIFYING = 16  # elements of every parameter that enter the model's fingerprint


def identify(model: Lfm2VL, data: Path) -> dict[str, str]:
    """Fingerprints of a model, its number type and its training data.

    Args:
        model: before it is made trainable; the first elements of each parameter are hashed.
        data: what the run was given; the bytes of its data files are hashed.
    """
    rows = hashlib.sha256()
    for file in find_data(data):
        rows.update(file.read_bytes())
    weights = named_arrays(model.parameters())
    begun = [weights[name].flatten()[:IDENTIFYING].view(mx.uint8) for name in sorted(weights)]
    return {
        "model": hashlib.sha256(np.array(mx.concatenate(begun)).tobytes()).hexdigest()[:16],
        "dtype": dtype_name(model.language_model.embedding_norm.weight.dtype),
        "data": rows.hexdigest()[:16],
    }


def identify_adapter(folder: Path) -> str:
    """Return a fingerprint of the adapter that a run starts from."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def save_state(
    folder: Path, step: int, model: nn.Module, optimizer: optim.Optimizer, run: dict[str, Any]
) -> None:
    """Write `folder/step-N` completely or not at all, even if the process is killed.

    Args:
        folder: holds all checkpoints of the run.
        step: updates done so far, which determine the position in the data.
        model: its trainable parameters are stored.
        optimizer: its state is stored.
        run: settings and identity of the run, which `load_state` compares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    for left in folder.glob(".step-*.partial"):  # left by a killed run
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    with new_folder(final, overwrite=False) as partial:
        _save(partial / "weights.safetensors", named_arrays(model.trainable_parameters()))
        _save(partial / "optimizer.safetensors", named_arrays(optimizer.state))
        (partial / "run.json").write_text(json.dumps({"step": step, **run}, indent=2) + "\n")
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def _save(path: Path, arrays: dict[str, mx.array]) -> None:
    save_arrays(path, arrays, {"format": "mlx"})


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return max(folder.glob("step-*"), default=None)


def load_state(
    checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer, run: dict[str, Any]
) -> int:
    """Restore model and optimizer in place; returns the number of updates done.

    Raises:
        InputError: the checkpoint's run had other settings.
        CheckpointError: a file is missing or broken.
    """
    saved = read_json(checkpoint / "run.json")
    step = saved.pop("step")
    run = json.loads(json.dumps(run))
    changed = sorted(key for key in {*saved, *run} if saved.get(key) != run.get(key))
    if changed:
        values = ", ".join(f"{key} was {saved.get(key)!r}" for key in changed)
        raise InputError(
            f"cannot resume with other settings ({values}): use these, or another --output"
        )
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
