"""Which model an adapter was trained on, and whether that is the model at hand.

A few numbers of the model stand in the adapter's config. Its norms are in no file quantized, so
they also tell a quantized copy from another model. Weights differ by rounding if their types do.
"""

import logging
import re
from pathlib import Path, PurePath
from typing import Any

import mlx.core as mx
import numpy as np

from ..arrays import named_arrays
from ..checkpoint.aliases import full_name
from ..checkpoint.json_file import shown
from ..errors import CheckpointError
from ..model.lfm2vl import Lfm2VL
from .contents import CONFIG, Adapter

logger = logging.getLogger(__name__)

SAMPLED = 16  # numbers of each tensor
NORMS = ("language_model.embedding_norm.weight", "vision_tower.post_layernorm.weight")
WEIGHTS = (
    "language_model.layers.0.feed_forward.w1.weight",
    "multi_modal_projector.linear_1.weight",
)
ROUNDING = 0.01  # difference, relative to the largest number, that a change of type can make
FINE_TUNED = 0.1  # the same for training that goes on from the base


def describe_base(model: Lfm2VL, name: str) -> dict[str, Any]:
    """Return what an adapter's config says about the model it is trained on.

    Args:
        model: before it is made trainable.
        name: repo id or folder; of a folder only its own name is kept.
    """
    weights = named_arrays(model.parameters())
    is_folder = bool(name) and Path(name).exists()
    return {
        "name": Path(name).resolve().name if is_folder else full_name(name),
        "norms": [_sample(weights[key]) for key in NORMS],
        "weights": [_sample(weights.get(key)) for key in WEIGHTS],
    }


def _sample(weight: mx.array | None) -> list[float]:
    """Return the first numbers of a tensor; none of a packed one."""
    if weight is None or not mx.issubdtype(weight.dtype, mx.floating):
        return []
    first = weight.flatten()[:SAMPLED].astype(mx.float32)
    return [float(f"{value:.5g}") for value in np.array(first).tolist()]


def check_base(adapter: Adapter, model: Lfm2VL, name: str) -> None:
    """Compare the base of an adapter with a model; note what is not known to be the same.

    Raises:
        CheckpointError: the base is another model, on which the answers would be wrong.
    """
    theirs = adapter.base.get("name")
    called = theirs if isinstance(theirs, str) and theirs else ""
    have = describe_base(model, name)
    norms = _difference(adapter.base.get("norms"), have["norms"])
    weights = _difference(adapter.base.get("weights"), have["weights"])
    if norms is not None and norms > FINE_TUNED:
        raise CheckpointError(
            f"{adapter.folder} was trained on {_short(called)}, and {_short(name)} is another "
            f"model; to use it all the same, remove base from its {CONFIG}"
        )
    if norms is not None:
        if max(norms, weights or 0.0) > ROUNDING:
            logger.warning(
                "%s was trained on %s, and %s has other weights, as after more training",
                adapter.folder,
                _short(called),
                _short(name),
            )
    elif called and name and not _same_name(called, name):
        logger.warning(
            "%s was made for %s; whether %s is that model cannot be told",
            adapter.folder,
            _short(called),
            _short(name),
        )


def _difference(theirs: Any, ours: list[list[float]]) -> float | None:
    """Return the largest relative difference of two samples, or None if nothing can be compared."""
    if not isinstance(theirs, list) or len(theirs) != len(ours):
        return None
    found = None
    for their, our in zip(theirs, ours, strict=True):
        if not their or not our:
            continue
        if not isinstance(their, list) or not all(
            type(x) in (int, float) and abs(x) < 1e30 for x in their
        ):
            return None
        if len(their) != len(our):
            return float("inf")
        largest = max(map(abs, our)) or 1.0
        distance = max(abs(x - y) for x, y in zip(their, our, strict=True)) / largest
        found = max(found or 0.0, distance)
    return found


def _same_name(one: str, other: str) -> bool:
    """Return whether two names end alike, or one adds to the other how it was converted."""
    a, b = (
        re.sub(r"[^a-z0-9.]", "", PurePath(full_name(text)).name.lower()) for text in (one, other)
    )
    return bool(a and b) and (a.startswith(b) or b.startswith(a))


def _short(name: str) -> str:
    """Return a model's name as a message shows it: of a path only the last part."""
    if not name:
        return "this model"
    text = name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else PurePath(name).name
    return text if text.isprintable() and len(text) < 80 else shown(text)
