"""What a model has read, as files of the disk cache.

- A prompt is cut where its reading is; see `prefix.cuts`. Each segment is a file: its keys and
  values, and the convolutions' windows at its end. A chat so writes every token once. Files that
  hold all up to an end would write the first image again with every turn.
- A file's name is a hash of the name before it and of the segment's tokens and image. The chain
  begins with the model's fingerprint. A name therefore stands for one content.
- The features of an image are a file of their own.
"""

import hashlib
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..model.cache import Cache
from ..model.conv_window import Window
from ..model.lfm2vl import Lfm2VL
from .cache_file import Arrays
from .disk_store import DiskStore
from .fingerprint import fingerprint
from .prefix import Prefix, cuts

Snapshots = dict[int, list[Window]]


class SavedPrefixes:
    """The part of a disk cache that belongs to one model.

    A model that changes needs another object.
    """

    def __init__(self, disk: DiskStore, model: Lfm2VL) -> None:
        self._disk = disk
        self._root = fingerprint(model)
        self._end_ids = model.config.eos_token_ids
        self._make_cache = model.make_cache
        self._about = {"model": model.name}

    def common(self, prefix: Prefix, kv_bits: int) -> int:
        """Return how many positions of a prompt have files, from the first on."""
        return max((end for end, _ in self._found(prefix, kv_bits)), default=0)

    def load(
        self, prefix: Prefix, beyond: int, kv_bits: int
    ) -> tuple[int, Cache, Snapshots] | None:
        """Return what files hold of the beginning of a prompt.

        Args:
            prefix: the prompt.
            beyond: positions that are known without files.
            kv_bits: of the cache.

        Returns:
            The number of positions, their cache, and the windows at the ends of segments; None if
            it is no more than is known.
        """
        found = self._found(prefix, kv_bits)
        if not found or found[-1][0] <= beyond:
            return None
        parts: list[Arrays] = []
        ends, names = zip(*found, strict=True)
        for number, name in enumerate(names):
            part = self._disk.read(name)
            if part is None:
                # What follows is not read, so nobody knows what happened to it.
                for later in names[number + 1 :]:
                    self._disk.refuse(later, "it follows a damaged file")
                break
            parts.append(part)
        if not parts or ends[len(parts) - 1] <= beyond:
            return None
        try:
            cache = self._joined(parts, ends[len(parts) - 1], kv_bits)
            snapshots = {
                end: [tuple(part[name] for name in names) for names in cache.window_names]
                for end, part in zip(ends, parts, strict=False)
            }
        except (KeyError, ValueError) as error:
            for name in names[: len(parts)]:
                self._disk.refuse(name, str(error))
            return None
        self._disk.touch(names)
        return cache.offset, cache, snapshots

    def save(self, prefix: Prefix, cache: Cache, snapshots: Snapshots) -> None:
        """Write what a cache has read, as far as there are no files of it."""
        begin, names = 0, list[str]()
        for end, name in self._names(prefix, cache.kv_bits):
            if end > cache.offset or end not in snapshots:
                break
            if not self._disk.has(name):
                about = {**self._about, "tokens": str(end - begin), "up_to": str(end)}
                if not self._disk.write(name, _part(cache, begin, end, snapshots[end]), about):
                    break
            names.append(name)
            begin = end
        self._disk.touch(names)

    def features(self, key: bytes) -> mx.array | None:
        """Return the features of an image by its `image_key`, or None."""
        name = self._image_name(key)
        found = self._disk.read(name)
        if found is None:
            return None
        self._disk.touch([name])
        return found.get("features")

    def save_features(self, key: bytes, features: mx.array) -> None:
        """Write the features of an image if there is no file of them."""
        name = self._image_name(key)
        if not self._disk.has(name):
            about = {**self._about, "tokens": str(features.shape[0])}
            self._disk.write(name, {"features": features}, about)

    def _image_name(self, key: bytes) -> str:
        return f"image-{hashlib.blake2b(self._root + key, digest_size=20).hexdigest()}.safetensors"

    def _names(self, prefix: Prefix, kv_bits: int) -> list[tuple[int, str]]:
        """Return the end of each segment and the name of its file."""
        begin, names = 0, list[tuple[int, str]]()
        link = self._root + bytes([kv_bits])
        images = dict(zip((end for _, end in prefix.spans), prefix.keys, strict=True))
        firsts = {end: first for first, end in prefix.spans}
        for end in cuts(prefix.ids, prefix.spans, self._end_ids):
            found = hashlib.blake2b(link, digest_size=20)
            place = firsts.get(end, end)
            found.update(np.asarray([end - begin, end - place], np.int64).data)
            found.update(np.asarray(prefix.ids[begin:end], np.int64).data)
            found.update(images.get(end, b""))
            begin, link = end, found.digest()
            names.append((end, f"keys-{link.hex()}.safetensors"))
        return names

    def _found(self, prefix: Prefix, kv_bits: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for end, name in self._names(prefix, kv_bits):
            if not self._disk.has(name):
                break
            found.append((end, name))
        return found

    def _joined(self, parts: Sequence[Arrays], end: int, kv_bits: int) -> Cache:
        """Return the cache of consecutive segments.

        Raises:
            ValueError: they do not fit together, or not the model.
        """
        empty = self._make_cache(kv_bits)
        windows = {name for names in empty.window_names for name in names}
        state = dict(parts[-1])
        for name in state.keys() - windows if len(parts) > 1 else ():
            state[name] = mx.concatenate([part[name] for part in parts], axis=2)
        cache = Cache.from_state(state, {**empty.meta_state, "offset": str(end)})
        mx.eval(cache.arrays)
        return cache


def _part(cache: Cache, begin: int, end: int, windows: Sequence[Window]) -> Arrays:
    """Return the arrays of one segment, by the names of `Cache.state`."""
    arrays: Arrays = {}
    for names, window in zip(cache.window_names, windows, strict=True):
        arrays |= zip(names, window, strict=True)
    for name, array in cache.state.items():
        if name not in arrays:
            arrays[name] = array[:, :, begin:end]
    return arrays
