"""Counting how often the host waits for the device.

The host cannot queue work while it waits, so every wait can leave the GPU idle. One wait per token
is needed to read the token.
"""

import collections
import sys
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

CALLS = ("eval", "synchronize")  # in mlx.core; async_eval only queues work
READS = [
    "item",
    "tolist",
    "__int__",
    "__float__",
    "__complex__",
    "__bool__",
    "__index__",
    "__repr__",
    "__str__",
    "__format__",
    "__contains__",
    "__array__",
    "__dlpack__",
    "__buffer__",
]
# NumPy reads arrays through the buffer protocol, without a method that could be watched.
NUMPY = [
    "array",
    "asarray",
    "ascontiguousarray",
    "asanyarray",
    "copy",
    "stack",
    "concatenate",
    "where",
    "nonzero",
    "argmax",
    "sum",
    "allclose",
    "array_equal",
]


class HostSyncs:
    """Context manager that counts the calls that wait for the value of an `mx.array`.

    It misses calls from code that imported one of the functions by name earlier.

    Attributes:
        count: function -> number of calls.
        places: function and the line that called it -> number of calls.
    """

    def __init__(self) -> None:
        self.count: collections.Counter[str] = collections.Counter()
        self.places: collections.Counter[str] = collections.Counter()
        self._originals: list[tuple[Any, str, Any]] = []
        self._inside = False  # np.asarray(x) may call x.__array__(), which is the same wait

    def __enter__(self) -> "HostSyncs":
        for name in CALLS:
            self._watch(mx, "mx", name, lambda _args: True)
        for name in READS:
            self._watch(mx.array, "mx.array", name, lambda _args: True)
        for name in NUMPY:
            self._watch(np, "np", name, _holds_array)
        return self

    def __exit__(self, *_exception: object) -> None:
        for owner, name, original in self._originals:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    @property
    def total(self) -> int:
        return self.count.total()

    def _watch(self, owner: Any, prefix: str, name: str, waits: Callable[[tuple], bool]) -> None:
        if not hasattr(owner, name):
            return
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not waits(args):
                return function(*args, **kwargs)
            caller = sys._getframe(1)
            label = f"{prefix}.{name}"
            self.count[label] += 1
            self.places[f"{label} {caller.f_code.co_filename}:{caller.f_lineno}"] += 1
            self._inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False

        # On exit, inherited methods are deleted from the class and its own are restored.
        self._originals.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, watched)


def _holds_array(args: Sequence[Any]) -> bool:
    return any(
        isinstance(arg, mx.array) or (isinstance(arg, (list, tuple)) and _holds_array(arg))
        for arg in args
    )
