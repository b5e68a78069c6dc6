"""What suits the chip: number type, size of command buffers, memory limits.

Follows measurements by others, none of them ours: M1 and M2 have no matrix products in bfloat16,
and float16 reads prompts 20 to 34 % faster there; up to the M4 an Ultra decodes 5 to 13 % faster
with long command buffers.
"""

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass

import mlx.core as mx

from .errors import InputError

OPS_PER_BUFFER = ("MLX_MAX_OPS_PER_BUFFER", "1000")  # MLX reads it when it first uses the GPU
DENORMALS_OFF = 0x8040  # in the register MXCSR: of results and of operands
CACHE_SHARE, SMALLEST_CACHE = 1 / 16, 256 * 2**20  # of the memory, for buffers to be used again
WIRED_FROM = 0.4  # weights of this share of what the GPU may use are kept from being paged out


@dataclass(frozen=True)
class Chip:
    """An Apple chip.

    Attributes:
        generation: 1 for an M1 and so on; 0 if this is none of them.
        ultra: two chips in one.
    """

    generation: int = 0
    ultra: bool = False

    @property
    def half(self) -> mx.Dtype:
        """The 16-bit type in which it computes fastest."""
        return mx.float16 if 1 <= self.generation <= 2 else mx.bfloat16


@dataclass(frozen=True)
class Limits:
    """Bytes; None leaves what MLX has chosen.

    Attributes:
        cache: freed buffers that are kept to be used again.
        wired: memory that is kept from being paged out.
    """

    cache: int | None = None
    wired: int | None = None


def read_chip() -> Chip:
    """The chip of this Mac."""
    brand = re.match(r"Apple M(\d+)(?: (\w+))?", cpu_brand())
    return Chip(int(brand[1]), brand[2] == "Ultra") if brand else Chip()


def prepare_device(chip: Chip) -> None:
    """Before MLX is used: the size of command buffers, unless the environment says it.

    On an x86 processor under Linux, what is too small for a normal float32 becomes zero instead.
    """
    if chip.ultra and chip.generation <= 4:
        os.environ.setdefault(*OPS_PER_BUFFER)
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        _flush_denormals()


def _flush_denormals() -> None:
    """Start MLX's thread with denormal numbers off; the caller's own stay as they are.

    Gradients are full of them, and each costs an Intel core a hundred cycles. GPUs have them off.
    """
    libm = ctypes.CDLL("libm.so.6")
    before, without = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()  # glibc's fenv_t
    libm.fegetenv(before)
    without[:] = before[:]
    without[7] |= DENORMALS_OFF
    libm.fesetenv(without)
    mx.eval(mx.zeros(1))  # threads inherit it
    libm.fesetenv(before)


def choose_limits(weight_bytes: int) -> Limits:
    """What suits a model on this device; nothing on a CPU."""
    info = mx.device_info()
    memory = info.get("memory_size")
    working_set = info.get("max_recommended_working_set_size")
    if not isinstance(memory, int) or not isinstance(working_set, int):
        return Limits()
    return Limits(
        cache=max(SMALLEST_CACHE, int(memory * CACHE_SHARE)),
        wired=working_set if weight_bytes > WIRED_FROM * working_set else None,
    )


def set_limits(limits: Limits) -> None:
    """Tell MLX; it holds for the process.

    Raises:
        InputError: more is to be wired than the GPU may use.
    """
    most = mx.device_info().get("max_recommended_working_set_size")
    if limits.wired is not None and isinstance(most, int) and limits.wired > most:
        raise InputError(
            f"the wired limit is {limits.wired / 1e9:.1f} GB, this Mac's GPU may use at most "
            f"{most / 1e9:.1f} GB"
        )
    if limits.cache is not None:
        mx.set_cache_limit(limits.cache)
    if limits.wired is not None:
        mx.set_wired_limit(limits.wired)


def cpu_brand() -> str:
    """Such as "Apple M2 Pro"; empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    import ctypes

    brand = ctypes.create_string_buffer(128)
    size = ctypes.c_size_t(len(brand))
    found = ctypes.CDLL(None).sysctlbyname(
        b"machdep.cpu.brand_string", brand, ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return "" if found else brand.value.decode(errors="replace")
