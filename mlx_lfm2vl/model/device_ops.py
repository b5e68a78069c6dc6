"""Operations that run differently on a GPU and on a CPU."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import mlx.core as mx

GPU = mx.metal.is_available()  # on a CPU, mx.compile would run g++, which takes seconds

Function = TypeVar("Function", bound=Callable[..., Any])


def fused(function: Function) -> Function:
    """On a GPU, fuse a function of element-wise operations into one kernel for all shapes."""
    return cast(Function, mx.compile(function, shapeless=True)) if GPU else function


def traced(function: Function) -> Function:
    """On a GPU, build a function's graph once per set of shapes instead of at every call.

    Arrays that are not arguments of the function keep their values of the first call.
    """
    return cast(Function, mx.compile(function)) if GPU else function


LOG2_E = 1.4426950408889634
# 2**f for f from -0.5 to 0.5, lowest power first: relative error 7.5e-8.
_POWERS = (1.0000001, 0.69314694, 0.2402212, 0.055507135, 0.009675541, 0.0013276457)
# A float32 between 2**23 and 2**24 has no fraction bits. Adding 1.5 * 2**23 to a small number, even
# a negative one, gives a sum in that range. The sum is therefore rounded to an integer, and its
# lowest bits hold the rounded number.
_ROUNDER = 1.5 * 2**23
_EXPONENT_BIAS = 127  # float32 stores the exponent plus this in bits 23 to 30
FEW = 6000  # numbers, of which MLX's own exp takes less time than a dozen operations


def _split(x: mx.array) -> tuple[mx.array, mx.array]:
    """Split numbers into the nearest integer and a rest from -0.5 to 0.5.

    Args:
        x: float32 from -126 to 126.

    Returns:
        `x + _ROUNDER + _EXPONENT_BIAS`, whose lowest nine bits are the integer plus the bias; and
        the rest. For 2.3 these bits are 2 + 127 = 129, and the rest is 0.3.
    """
    whole = x + (_ROUNDER + _EXPONENT_BIAS)
    return whole, x - (whole - (_ROUNDER + _EXPONENT_BIAS))


def _power_of_two(whole: mx.array) -> mx.array:
    """Return 2 to the power of the integers of `_split`.

    The shift moves their lowest bits, which include the bias, to the exponent of a float32 and
    drops all others. For 2.3 the exponent bits become 129, which is 2**(129 - 127) = 4.
    """
    return mx.left_shift(whole.view(mx.int32), 23).view(mx.float32)


@mx.custom_function
def _exp_by_parts(x: mx.array) -> mx.array:
    """Return exp of float32 numbers, within 3e-7 of MLX's own exp (relative, as below).

    Both differ from the true value by up to 3e-7 between -1 and 1, and by up to 4e-6 near 87.
    exp(x) = 2**(x * log2(e)) = 2**whole * 2**rest, where a polynomial gives 2**rest. MLX's CPU
    build computes exp one number at a time, but these operations on many. Numbers outside -87 to 87
    are clipped.
    """
    whole, rest = _split(mx.clip(x, -87, 87) * LOG2_E)
    power = mx.array(_POWERS[-1])
    for factor in _POWERS[-2::-1]:
        power = power * rest + factor
    return power * _power_of_two(whole)


@_exp_by_parts.vjp  # pyright: ignore[reportUntypedFunctionDecorator]
def _exp_gradient(_x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def exp(x: mx.array) -> mx.array:
    """Return exp of floats in the way that is fastest on the device.

    On a CPU many float32 numbers are clipped to -87 to 87; `_exp_by_parts` says how exact the
    result is.
    """
    if GPU or x.dtype != mx.float32 or x.size < FEW:
        return mx.exp(x)
    return cast(mx.array, _exp_by_parts(x))
