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


LOG2_E = 1.4426950408889634
# 2**f for f from -0.5 to 0.5, lowest power first: relative error 7.5e-8.
_POWERS = (1.0000001, 0.69314694, 0.2402212, 0.055507135, 0.009675541, 0.0013276457)
# A float32 from 2**23 to 2**24 has no bits behind the point. Adding 1.5 * 2**23 to a small number
# therefore rounds it to an integer, and leaves that integer in the lowest bits of the sum.
_ROUNDER = 1.5 * 2**23
_EXPONENT_BIAS = 127  # float32 stores the power of two plus this, in bits 23 to 30


def _split(x: mx.array) -> tuple[mx.array, mx.array]:
    """Numbers as a whole and a rest from -0.5 to 0.5.

    Returns:
        `x + _ROUNDER + _EXPONENT_BIAS`, whose lowest bits are the whole plus the bias, and the
        rest. For 2.3 these bits are 129, and the rest is 0.3.
    """
    whole = x + (_ROUNDER + _EXPONENT_BIAS)
    return whole, x - (whole - (_ROUNDER + _EXPONENT_BIAS))


def _power_of_two(whole: mx.array) -> mx.array:
    """2 to the whole of `_split`: its lowest bits become the exponent, all others fall out."""
    return mx.left_shift(whole.view(mx.int32), 23).view(mx.float32)


@mx.custom_function
def _exp_by_parts(x: mx.array) -> mx.array:
    """exp of float32 from -87 to 87 (beyond, of the nearer end), to 2e-7.

    exp(x) = 2**(x * log2(e)) = 2**whole * 2**rest. MLX's CPU build computes exp one number at a
    time; these are operations on many.
    """
    whole, rest = _split(mx.clip(x, -87, 87) * LOG2_E)
    power = mx.array(_POWERS[-1])
    for factor in _POWERS[-2::-1]:
        power = power * rest + factor
    return power * _power_of_two(whole)


@_exp_by_parts.vjp
def _exp_gradient(_x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def exp(x: mx.array) -> mx.array:
    """exp, by the fastest way the device has; see `_exp_by_parts` for float32 on a CPU."""
    return mx.exp(x) if GPU or x.dtype != mx.float32 else cast(mx.array, _exp_by_parts(x))
