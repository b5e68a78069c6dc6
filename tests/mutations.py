"""Random damage to files, for tests that feed hostile checkpoints; the same for the same seed."""

import copy
import random
from typing import Any

import pytest

HOSTILE = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31 - 1,
    2**31,
    2**63,
    10**9,
    10**30,
    10**400,
    1e-320,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "x",
    "\ud800",
    "\0",
    "a" * 5000,
    "../../etc/passwd",
    [],
    {},
    [[]] * 3,
    [10**400] * 3,
    ["conv"] * 5,
    {"a": {"b": []}},
)


def seeds(short: int, long: int) -> Any:
    """A few cases in every run of the tests, and many with -m fuzz."""
    fuzz = (pytest.mark.fuzz, pytest.mark.timeout(7200))
    return pytest.mark.parametrize("cases", [short, pytest.param(long, marks=fuzz)])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found = []
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in entries:
        found += [(value, key), *places(inner)]
    return found


def damage_json(value: Any, draw: random.Random) -> None:
    """Change, remove or double one to three entries of a JSON value, in place."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        spots = places(value)
        if not spots:
            return
        container, key = draw.choice(spots)
        kind = draw.random()
        if kind < 0.15:
            del container[key]
        elif kind < 0.25:
            container[key] = [container[key]]
        elif kind < 0.35:
            container[key] = draw.choice(spots)[1]
        else:
            container[key] = copy.deepcopy(draw.choice(HOSTILE))  # no two places share a list


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """Cut, change, double or insert bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.randrange(100)]
        elif kind == 3:
            del changed[at : at + draw.randrange(1, 20)]
        else:
            changed[at:at] = draw.choice(
                (b"[" * 5000, b"9" * 400, b"\xff\xfe", b"null", b"\\ud800")
            )
    return bytes(changed)
