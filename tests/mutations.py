"""Random damage to files, the same for the same seed, and bounds on what hostile input takes."""

import contextlib
import copy
import random
import resource
import sys
import time
from collections.abc import Iterator
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


MAX_SECONDS = 10  # of the processor, on all its cores, for one case
MAX_BYTES = 2e9  # of memory


def peak_bytes() -> float:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Bounds:
    """Times the cases of a fuzz target, and remembers the most that one took."""

    def __init__(self) -> None:
        self.cases, self.seconds, self.growth = 0, 0.0, 0.0
        self.slowest: Any = None

    @contextlib.contextmanager
    def case(self, label: Any) -> Iterator[None]:
        """Fail if the body raises, or takes more than a case may; the failure names the case."""
        begun, before = time.process_time(), peak_bytes()
        try:
            yield
        except BaseException as error:
            error.add_note(f"case {label}")
            raise
        seconds, growth = time.process_time() - begun, peak_bytes() - before
        assert seconds < MAX_SECONDS, label
        assert growth < MAX_BYTES, label
        if seconds > self.seconds:
            self.seconds, self.slowest = seconds, label
        self.growth = max(self.growth, growth)
        self.cases += 1

    def summary(self) -> str:
        return (
            f"{self.cases} cases, at most {self.seconds:.2f} CPU seconds (case {self.slowest}), "
            f"memory of the process {peak_bytes() / 1e9:.2f} GB, "
            f"at most {self.growth / 1e6:.0f} MB of it in one case"
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
