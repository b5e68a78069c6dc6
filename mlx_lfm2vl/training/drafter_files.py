"""A trained drafter on disk, in the layout of LiquidAI's -DSpark repos."""

import json
from pathlib import Path

import mlx.core as mx

from ..arrays import mlx_dtype, named_arrays, save_arrays
from ..checkpoint.drafter_config import drafter_values
from ..checkpoint.lazy_tensors import open_tensors
from ..errors import CheckpointError
from ..model.drafter import DraftModel
from ..options import DType

WEIGHTS = "model.safetensors"


def save_drafter(drafter: DraftModel, folder: Path, dtype: DType) -> None:
    """Write `config.json` and `model.safetensors` into a folder, which is made if there is none.

    Args:
        drafter: not quantized.
        folder: files of these names in it are replaced.
        dtype: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = drafter_values(drafter.config, dtype)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    weights = named_arrays(drafter.parameters())
    cast = {name: value.astype(mlx_dtype(dtype)) for name, value in weights.items()}
    save_arrays(folder / WEIGHTS, cast, {"format": "pt"})


def restore_drafter(drafter: DraftModel, folder: Path) -> None:
    """Restore the weights that `save_drafter` wrote, in place.

    Raises:
        CheckpointError: they are missing or broken, or of another shape.
    """
    found = open_tensors(folder / WEIGHTS)
    expected = named_arrays(drafter.parameters())
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            raise CheckpointError(
                f"{folder} is not of this run: {name} is missing, or another size"
            )
    drafter.load_weights([(name, found[name].astype(mx.float32)) for name in expected])
    mx.eval(drafter.parameters())
