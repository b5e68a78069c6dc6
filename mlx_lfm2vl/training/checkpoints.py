"""Checkpoints of a training run: written completely or not at all, and resumed exactly.

Each is an adapter, too, which `--adapter` takes.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_unflatten

from ..arrays import dtype_name, named_arrays, save_arrays
from ..checkpoint.json_file import read_json
from ..disk_space import check_space
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from ..options import DTYPES, DType, ImageOptions
from ..prompt.data_files import find_data
from ..whole_folder import new_folder
from .settings import TrainSettings

OPTIMIZER, RUN = "optimizer.safetensors", "run.json"
IDENTIFYING = 16  # elements of every parameter that enter the model's fingerprint
# The saved state belongs to these. Everything else may be changed when a run goes on.
FIXED = ("model", "dtype", "method", "parts", "optimizer", "rank", "scale", "special_tokens")
FIXED += ("drafter", "answers")
log = logging.getLogger(__name__)
Settings = TypeVar("Settings", bound=TrainSettings)
Model = TypeVar("Model", bound=nn.Module)


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
    folder: Path,
    step: int,
    save: Callable[[Path], None],
    optimizer: optim.Optimizer,
    run: Mapping[str, Any],
) -> None:
    """Write `folder/step-N` completely or not at all, even if the process is killed.

    Args:
        folder: holds all checkpoints of the run.
        step: updates done so far, which determine the position in the data.
        save: writes an adapter with everything that is trained.
        optimizer: its state is stored.
        run: settings and identity of the run, which `load_state` compares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    for left in folder.glob(".step-*.partial"):  # left by a killed run
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    with new_folder(final, overwrite=False) as partial:
        save(partial)
        save_arrays(partial / OPTIMIZER, named_arrays(optimizer.state), {"format": "mlx"})
        (partial / RUN).write_text(json.dumps({"step": step, **run}, indent=2) + "\n")
    for old in sorted(folder.glob("step-*"))[: -run["keep"]]:
        shutil.rmtree(old)


def check_room(
    output: Path, model: nn.Module, optimizer: optim.Optimizer, settings: TrainSettings
) -> None:
    """Check that the disk has room for the files of a run, before it begins.

    Args:
        output: folder of the run.
        model: its trainable parameters are what the run writes.
        optimizer: initialized, so its state is as large as it will be.
        settings: of the run.

    Raises:
        InputError: there is too little free space.
    """
    weights = _nbytes(model.trainable_parameters())
    # The newest is written before the oldest is deleted.
    most = min(settings.keep + 1, -(-settings.steps // settings.save_every))
    there = len(list((output / "checkpoints").glob("step-*")))
    checkpoint = weights + _nbytes(optimizer.state)
    # The last adapter and the best one.
    check_space(output, max(most - there, 1) * checkpoint + 2 * weights)


def _nbytes(tree: Any) -> int:
    return sum(array.nbytes for array in named_arrays(tree).values())


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return max(folder.glob("step-*"), default=None)


def saved_settings(checkpoint: Path, kind: type[Settings]) -> tuple[Settings, DType]:
    """Return the settings of the run that wrote a checkpoint, and its model's number type.

    Args:
        checkpoint: of a run.
        kind: of the settings.

    Raises:
        CheckpointError: they are missing or broken.
    """
    saved = read_json(checkpoint / RUN)
    names = [field.name for field in fields(kind)]
    try:
        values = {name: saved[name] for name in names}
        values["parts"] = tuple(values["parts"])
        values["image_options"] = ImageOptions(**values["image_options"])
        return kind(**values), DTYPES[DTYPES.index(saved["dtype"])]
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CheckpointError(f"{checkpoint / RUN} is not of this version: {error}") from None


def start_of(checkpoint: Path) -> str:
    """Return the mark of the adapter that a checkpoint's run started from; empty if from none."""
    return str(read_json(checkpoint / RUN).get("adapter") or "")


def load_state(
    checkpoint: Path,
    model: Model,
    optimizer: optim.Optimizer,
    run: Mapping[str, Any],
    load: Callable[[Model, Path], None],
) -> int:
    """Restore model and optimizer in place.

    Args:
        checkpoint: written by `save_state`.
        model: that is trained.
        optimizer: its state is replaced.
        run: settings and identity of this run.
        load: restores the model from the checkpoint's folder.

    Returns:
        The number of updates done.

    Raises:
        InputError: the checkpoint's run had settings that its state does not fit.
        CheckpointError: a file is missing or broken.
    """
    saved = read_json(checkpoint / RUN)
    step = saved.pop("step")
    run = json.loads(json.dumps(run))
    changed = sorted(key for key in {*saved, *run} if saved.get(key) != run.get(key))
    values = [f"{key} was {saved.get(key)!r}" for key in changed if key in FIXED]
    if values:
        raise InputError(
            f"cannot resume with other settings ({', '.join(values)}): use these, or another "
            "--output"
        )
    if changed:
        log.warning("the run goes on with other settings than before: %s", ", ".join(changed))
    load(model, checkpoint)
    state = _load(checkpoint / OPTIMIZER)
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
