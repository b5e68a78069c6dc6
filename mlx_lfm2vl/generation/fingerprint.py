"""What tells one model from another on disk, in a few hundredths of a second.

What a model has read may be used again only by the same weights in the same layers, computed by the
same kernels. The fingerprint covers

- the checkpoint's and the adapter's files: inode, size, and the times of their last change, which
  a program cannot set back,
- every small array in full: all biases, norms and taps, and the factors of an adapter,
- one entry of every 1,024 of a large array, in another column each time, for weights that were
  changed in memory: training changes all entries of a matrix, or of some rows,
- the settings of every layer, such as the scale of an adapter or the bits of a quantization,
- the versions of MLX and of this package, the device, and how prompts and images are cut.

An entry of a large matrix that was changed in memory alone may be missed.
"""

import hashlib
import platform
from importlib.metadata import version
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import __version__
from ..arrays import named_arrays
from ..model.decode_step import PREFILL_CHUNK
from ..model.device_ops import GPU
from ..model.lfm2vl import MAX_PATCHES, Lfm2VL
from .cache_file import FORMAT

WHOLE_BYTES = 2**18  # arrays up to this size are hashed in full
RUN = 1024  # entries of a larger one, of which one is hashed
STRIDE = 389  # columns from one such entry to the next; a prime, so that all columns take part


def fingerprint(model: Lfm2VL) -> bytes:
    """Return 32 bytes that differ for models that compute different things."""
    device = mx.device_info()
    chip = device.get("architecture", device.get("device_name", platform.machine()))
    kernels = (version("mlx"), GPU, str(mx.default_device()), chip, PREFILL_CHUNK, MAX_PATCHES)
    found = hashlib.sha256(repr((FORMAT, __version__, kernels)).encode())
    found.update(repr((model.config, model.image_config, model.files)).encode())
    _add_layers(found, model)
    return found.digest()


def content_fingerprint(model: Lfm2VL) -> bytes:
    """Return 32 bytes that are the same on every machine, and for every copy of the files."""
    found = hashlib.sha256(repr((model.config, model.image_config)).encode())
    _add_layers(found, model)
    return found.digest()


def _add_layers(found: Any, model: Lfm2VL) -> None:
    """Add the settings and the entries of all layers to a hash."""
    found.update(repr(sorted(layer_settings(model))).encode())
    arrays = sorted(named_arrays(model.parameters()).items())
    samples = [_sample(array) for _, array in arrays]
    mx.eval(samples)
    for (name, array), sample in zip(arrays, samples, strict=True):
        found.update(repr((name, array.shape, str(array.dtype))).encode())
        found.update(np.asarray(sample).data)


def layer_settings(model: Lfm2VL) -> list[tuple[str, str, list[tuple[str, Any]]]]:
    """Return the path, the class and the settings of every layer.

    The attributes of the model itself, such as its name, change nothing that it computes.
    """
    modules = cast(list[tuple[str, nn.Module]], model.named_modules())
    return [
        (path, type(module).__qualname__, sorted(filter(_is_setting, vars(module).items())))
        for path, module in modules
        if path
    ]


def _is_setting(item: tuple[str, Any]) -> bool:
    return isinstance(item[1], bool | int | float | str)


def _sample(array: mx.array) -> mx.array:
    """Return entries of an array, as bytes: all of a small one, one of each run of a large one."""
    entries = array.reshape(-1)
    if array.nbytes > WHOLE_BYTES:
        run = min(array.shape[-1], RUN)
        numbers = mx.arange(array.size // run, dtype=mx.uint32)
        entries = entries[numbers * run + numbers * STRIDE % run]
    return entries.view(mx.uint8)
