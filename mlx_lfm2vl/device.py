"""Settings that depend on the chip: dtype, command buffer size, memory limits.

They rest on published measurements that we have not repeated. M1 and M2 have no bfloat16 matrix
products, and float16 reads prompts 20 to 34 % faster there. Ultra chips up to the M4 decode 5 to
13 % faster with long command buffers.
"""

import ctypes
import os
import re
import sys
from dataclasses import dataclass

import mlx.core as mx

from .errors import InputError, Lfm2VLError

OPS_PER_BUFFER = ("MLX_MAX_OPS_PER_BUFFER", "1000")  # MLX reads it when it first uses the GPU
DENORMALS_OFF = 0x8040  # MXCSR bits FTZ (results) and DAZ (operands)
CACHE_SHARE, SMALLEST_CACHE = 1 / 16, 256 * 2**20  # of memory, in bytes: the reusable buffers
WIRED_FROM = 0.4  # share of the GPU's working set from which on the weights are wired


_process: int | None = None  # that has used the device


@dataclass(frozen=True)
class Chip:
    """An Apple chip.

    Attributes:
        generation: 1 for an M1, 2 for an M2 and so on; 0 for any other processor.
        ultra: whether it is an Ultra, two chips in one.
    """

    generation: int = 0
    ultra: bool = False

    @property
    def half(self) -> mx.Dtype:
        """The 16-bit dtype in which the chip computes fastest."""
        return mx.float16 if 1 <= self.generation <= 2 else mx.bfloat16


@dataclass(frozen=True)
class Limits:
    """Memory limits in bytes; None keeps MLX's own.

    Attributes:
        cache: maximum freed memory that is kept for reuse.
        wired: maximum memory that is protected from being paged out.
    """

    cache: int | None = None
    wired: int | None = None


def read_chip() -> Chip:
    """Return this machine's chip; `Chip()` if it is not Apple's."""
    brand = re.match(r"Apple M(\d+)(?: (\w+))?", cpu_brand())
    return Chip(int(brand[1]), brand[2] == "Ultra") if brand else Chip()


def prepare_device(chip: Chip) -> None:
    """Configure MLX for the chip; call this before MLX computes anything.

    On Ultra chips up to the M4 it lengthens the command buffers, unless the environment sets their
    size. On x86-64 Linux it flushes denormal float32 numbers to zero, for the calling thread.

    Raises:
        Lfm2VLError: see `check_not_forked`.
    """
    global _process
    check_not_forked()
    _process = os.getpid()
    if chip.ultra and chip.generation <= 4:
        os.environ.setdefault(*OPS_PER_BUFFER)
    if sys.platform == "linux" and os.uname().machine == "x86_64":
        _flush_denormals()


def check_not_forked() -> None:
    """Check that the process that first used the device is this one.

    Raises:
        Lfm2VLError: this is a fork of it, in which MLX would wait forever for its threads.
    """
    if _process not in (None, os.getpid()):
        raise Lfm2VLError(
            "this process was forked from one that had used MLX, which cannot work: load the model "
            "after the fork, or start processes by the method 'spawn'"
        )


def _flush_denormals() -> None:
    """Start MLX's thread with denormal numbers off, and leave the calling thread as it was.

    Gradients are full of denormals, and each costs an Intel core about a hundred cycles. GPUs flush
    them too.
    """
    libm = ctypes.CDLL("libm.so.6")
    before, without = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()  # glibc's fenv_t
    libm.fegetenv(before)
    without[:] = before[:]
    without[7] |= DENORMALS_OFF
    libm.fesetenv(without)
    mx.eval(mx.zeros(1))  # starts MLX's thread, which inherits the setting
    libm.fesetenv(before)


def choose_limits(weight_bytes: int) -> Limits:
    """Choose memory limits for a model on this device; on a CPU, no limits.

    Args:
        weight_bytes: size of the model's weights.
    """
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
    """Set MLX's memory limits for the whole process.

    Raises:
        InputError: the wired limit exceeds what the GPU may use.
    """
    most = mx.device_info().get("max_recommended_working_set_size")
    if limits.wired is not None and isinstance(most, int) and limits.wired > most:
        raise InputError(
            f"the wired limit is {limits.wired / 1e9:.1f} GB, but this Mac's GPU may use at most "
            f"{most / 1e9:.1f} GB; lower it"
        )
    if limits.cache is not None:
        mx.set_cache_limit(limits.cache)
    if limits.wired is not None:
        mx.set_wired_limit(limits.wired)


def cpu_brand() -> str:
    """Return the processor's name on macOS, for example "Apple M2 Pro"; elsewhere ""."""
    if sys.platform != "darwin":
        return ""
    import ctypes

    brand = ctypes.create_string_buffer(128)
    size = ctypes.c_size_t(len(brand))
    found = ctypes.CDLL(None).sysctlbyname(
        b"machdep.cpu.brand_string", brand, ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return "" if found else brand.value.decode(errors="replace")
