"""Loading a drafter for a model that is loaded."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from .arrays import mlx_dtype, named_arrays
from .checkpoint.config import ModelConfig
from .checkpoint.drafter_config import DrafterConfig, is_drafter, read_drafter_config
from .checkpoint.find import find_drafter
from .checkpoint.json_file import read_optional_json
from .checkpoint.lazy_tensors import open_tensors
from .checkpoint.names import check_names
from .checkpoint.tensors import weight_files
from .device_thread import on_device
from .errors import CheckpointError
from .loading import cast_floats, check_dtypes, quantize_like
from .model.drafter import DraftModel
from .model.lfm2vl import Lfm2VL
from .options import DType

# Some exports hold copies of the target's tables, which are those of the loaded target.
SHARED = ("embed_tokens.", "lm_head.")


def load_drafter(
    drafter: str | Path,
    model: Lfm2VL,
    *,
    revision: str | None = None,
    update: bool = False,
    dtype: DType | None = None,
) -> DraftModel:
    """Load a DSpark drafter, which proposes tokens that the model then verifies.

    Args:
        drafter: a folder or a repo id such as `LiquidAI/LFM2.5-VL-3B-DSpark`, or "demo" for the
            built-in model's.
        model: the target, from `load`.
        revision: branch, tag or commit of a repo.
        update: download a newer commit of the repo, if there is one.
        dtype: of arrays that are not packed; None takes that of the model's embedding.

    Returns:
        The drafter, in evaluation mode with all weights in memory.

    Raises:
        InputError: `drafter` is neither a folder nor a repo id.
        CheckpointError: the drafter is broken, of another kind, or of another target.
        NetworkError: the drafter cannot be downloaded.
    """
    folder, config = find_pair(drafter, model.config, model.name, revision=revision, update=update)
    try:
        return on_device(_load, folder, config, model, dtype)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), str(drafter))) from None


def find_pair(
    drafter: str | Path,
    target: ModelConfig,
    name: str,
    *,
    revision: str | None = None,
    update: bool = False,
) -> tuple[Path, DrafterConfig]:
    """Find a drafter, and check by its configuration that it was made for a model.

    Args:
        drafter: see `load_drafter`.
        target: configuration of the model.
        name: of the model, for errors.
        revision: see `load_drafter`.
        update: see `load_drafter`.

    Returns:
        The drafter's folder and configuration.

    Raises:
        Lfm2VLError: see `load_drafter`.
    """
    folder = find_drafter(str(drafter), revision, update=update)
    try:
        if not is_drafter(read_optional_json(folder / "config.json")):
            raise CheckpointError(
                f"{folder} is a model, not a drafter; a drafter has dflash_config"
            )
        config = read_drafter_config(folder)
        check_pair(config, target, name)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), str(drafter))) from None
    return folder, config


def check_pair(config: DrafterConfig, target: ModelConfig, name: str) -> None:
    """Check that a drafter was made for a model of this shape.

    MLX does not check the bounds of gathers, so a drafter with a smaller table would read garbage.

    Raises:
        CheckpointError: it was not.
    """
    text = target.text
    pairs = {
        "hidden_size": (config.hidden_size, text.hidden_size),
        "vocab_size": (config.vocab_size, text.vocab_size),
        "num_target_layers": (config.num_target_layers, len(text.layer_types)),
    }
    for key, (own, expected) in pairs.items():
        if own != expected:
            raise CheckpointError(
                f"the drafter is of another model: its {key} is {own}, expected {expected} "
                f"for {name or 'this model'}"
            )


def _load(folder: Path, config: DrafterConfig, model: Lfm2VL, dtype: DType | None) -> DraftModel:
    drafter = open_drafter(folder, config)
    target = mlx_dtype(dtype) if dtype else model.language_model.embedding_norm.weight.dtype
    weights = named_arrays(drafter.parameters())
    drafter.load_weights([(name, cast_floats(value, target)) for name, value in weights.items()])
    try:
        mx.eval(drafter.parameters())
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {error}") from None
    return drafter


def open_drafter(folder: Path, config: DrafterConfig) -> DraftModel:
    """Build a drafter with the tensors of a folder, which are read when they are needed.

    Args:
        folder: of the drafter.
        config: from its `config.json`.

    Returns:
        The drafter in evaluation mode, in the number types of its files.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape or type.
    """
    weights: dict[str, mx.array] = {}
    for path in weight_files(folder):
        for name, value in open_tensors(path).items():
            ours = name.removeprefix("model.")
            if ours in weights:
                raise CheckpointError(f"{folder} holds {ours} twice, expected once")
            weights[ours] = value
    weights = {name: value for name, value in weights.items() if not name.startswith(SHARED)}
    drafter = DraftModel(config)
    quantize_like(drafter, weights, config.quantization or {})
    expected = {name: value.shape for name, value in named_arrays(drafter.parameters()).items()}
    unused = () if config.has_confidence else ("confidence_head.",)
    for name in check_names(expected, {k: v.shape for k, v in weights.items()}, set(unused)):
        del weights[name]
    check_dtypes(drafter, weights)
    drafter.load_weights(list(weights.items()))
    drafter.eval()
    return drafter
