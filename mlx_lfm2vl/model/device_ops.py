"""What is computed in another way on a GPU than on a CPU."""

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


# 2**f for f from -0.5 to 0.5, lowest power first: relative error 7.5e-8.
_POWERS = (1.0000001, 0.69314694, 0.2402212, 0.055507135, 0.009675541, 0.0013276457)
_TO_INTEGER = 1.5 * 2**23 + 127  # added to a float32, leaves its integer part, plus the bias, last


@mx.custom_function
def _exp_by_parts(x: mx.array) -> mx.array:
    """exp of float32 from -87 to 87 (beyond, of the nearer end), to 2e-7.

    MLX's CPU build computes exp one number at a time; these are operations on many.
    """
    x = mx.clip(x, -87, 87) * 1.4426950408889634
    integer = x + _TO_INTEGER
    fraction = x - (integer - _TO_INTEGER)
    power = mx.array(_POWERS[-1])
    for factor in _POWERS[-2::-1]:
        power = power * fraction + factor
    return power * mx.left_shift(integer.view(mx.int32), 23).view(mx.float32)


@_exp_by_parts.vjp
def _exp_gradient(_x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def exp(x: mx.array) -> mx.array:
    """exp, by the fastest way the device has; see `_exp_by_parts` for float32 on a CPU."""
    return mx.exp(x) if GPU or x.dtype != mx.float32 else cast(mx.array, _exp_by_parts(x))
