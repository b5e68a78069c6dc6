"""A result as JSON and back, with nothing lost, for programs that ask another process.

`Result.to_dict` is for people and scripts: it rounds, and adds what follows from the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..generation.result import Result, Timings
from ..images.geometry import ImagePlan
from ..options import Sampling


def result_to_json(result: Result) -> dict[str, Any]:
    """Return every field of a result as plain data."""
    rounds = {str(length): count for length, count in result.rounds.items()}
    return {**asdict(result), "rounds": rounds}


def result_from_json(data: Mapping[str, Any]) -> Result:
    """Return the result that `result_to_json` was given.

    Raises:
        KeyError: a field is missing.
        TypeError: there is a field that this version does not know.
    """
    given = {
        **data,
        "images": [_plan(plan) for plan in data["images"]],
        "sampling": Sampling(**data["sampling"]),
        "timings": Timings(**data["timings"]),
        "rounds": {int(length): count for length, count in data["rounds"].items()},
    }
    return Result(**given)


def _plan(data: Mapping[str, Any]) -> ImagePlan:
    sizes = {name: tuple(data[name]) for name in ("size", "grid", "canvas")}
    thumbnail = data["thumbnail"] and tuple(data["thumbnail"])
    return ImagePlan(**{**data, **sizes, "thumbnail": thumbnail})
