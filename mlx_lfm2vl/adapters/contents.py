"""What an adapter changes, without the names and settings of the program that wrote it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.json_file import shown
from ..checkpoint.lazy_tensors import open_tensors
from ..errors import CheckpointError

CONFIG = "adapter_config.json"
MAX_RANK = 2**14


@dataclass(frozen=True)
class Update:
    """A low-rank change of one linear layer: its weight plus scale * (a @ b).T.

    Attributes:
        a: (inputs, rank).
        b: (rank, outputs).
        scale: factor on the product.
        magnitude: (outputs,) norms that the rows of the changed weight get (DoRA), or None.
    """

    a: mx.array
    b: mx.array
    scale: float
    magnitude: mx.array | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An adapter under our names.

    Attributes:
        folder: it was read from.
        updates: by the path of the layer.
        values: parameters that it replaces as a whole, by name.
        dropout: share of the inputs dropped while training it.
        is_full: whether the values come from full training, not from PEFT.
        base: what its files say about the model it was trained on; see `base.py`.
    """

    folder: Path
    updates: dict[str, Update]
    values: dict[str, mx.array]
    dropout: float = 0.0
    is_full: bool = False
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def is_dora(self) -> bool:
        return any(update.magnitude is not None for update in self.updates.values())


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Return the tensors of an adapter's file under their own names.

    Raises:
        CheckpointError: the file is missing, broken or empty, or holds anything but floats.
    """
    if not path.exists():
        raise CheckpointError(f"{path.parent} has no {path.name}")
    weights = open_tensors(path)
    if not weights:
        raise CheckpointError(f"{path} holds no tensors")
    for name, value in weights.items():
        if not mx.issubdtype(value.dtype, mx.floating) or value.dtype == mx.float64:
            raise CheckpointError(
                f"{path.parent}: {shown(name)} holds {value.dtype}, expected floats"
            )
    return weights


def check_pair(folder: Path, path: str, a: mx.array, b: mx.array, rank: int) -> None:
    """Check that two factors are matrices of the rank that the config gives their layer."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != rank or b.shape[0] != rank:
        raise CheckpointError(
            f"{folder}: the factors of {path} are {list(a.shape)} and {list(b.shape)}, which does "
            f"not fit the model or rank {rank}"
        )
