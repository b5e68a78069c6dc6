"""The adapters that a caller asks for: folders or repositories, each with a weight."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ..checkpoint.find import find_adapter
from ..checkpoint.json_file import shown
from ..errors import InputError

AdapterSource = str | Path | tuple[str | Path, float]


def find_adapters(
    sources: AdapterSource | Sequence[AdapterSource] | None,
) -> list[tuple[Path, float]]:
    """Return the folder and the weight of each adapter; download those that are on the Hub.

    Args:
        sources: a folder, or a repo id on the Hub; with a weight as a pair, or behind a colon as in
            "plants:0.5"; or several of these.

    Raises:
        InputError: there is no such folder, or a weight is not a number.
        CheckpointError: a repo does not exist, or holds no adapter.
        NetworkError: a repo cannot be downloaded.
    """
    if sources is None:
        return []
    is_one = isinstance(sources, str | Path) or _is_pair(sources)
    chosen = [sources] if is_one else sources
    return [_find(source) for source in cast(Sequence[AdapterSource], chosen)]


def _is_pair(sources: object) -> bool:
    return (
        isinstance(sources, tuple)
        and len(sources) == 2
        and isinstance(sources[1], int | float)
        and not isinstance(sources[1], bool)
    )


def _find(source: AdapterSource) -> tuple[Path, float]:
    if isinstance(source, tuple):
        name, weight = source
    else:
        name, weight = split_weight(source) if isinstance(source, str) else (source, 1.0)
    if not math.isfinite(weight):
        raise InputError(f"the weight of {name} is {weight}, expected a number")
    return find_adapter(str(name)), float(weight)


def split_weight(text: str) -> tuple[str, float]:
    """Split `NAME:WEIGHT`; a name without a weight, or one that exists, has weight 1.

    Raises:
        InputError: what follows the colon is not a number.
    """
    name, colon, weight = text.rpartition(":")
    if not colon or not name or Path(text).exists() or "/" in weight:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        problem = f"{shown(text)} ends in {shown(weight)}, expected a weight such as :0.5"
        raise InputError(problem) from None
