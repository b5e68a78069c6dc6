"""Compiling functions: on a GPU, where it saves launches and the host's time."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import mlx.core as mx

GPU = mx.metal.is_available()  # on a CPU compiling would start g++, which takes seconds

Function = TypeVar("Function", bound=Callable[..., Any])


def fused(function: Function) -> Function:
    """Make one kernel of a function of element-wise operations, for arrays of any shapes."""
    return cast(Function, mx.compile(function, shapeless=True)) if GPU else function


def traced(function: Function) -> Function:
    """Build a function's graph once for each set of shapes, and not at every call.

    Arrays that it does not take as arguments are kept as they are at the first call.
    """
    return cast(Function, mx.compile(function)) if GPU else function
