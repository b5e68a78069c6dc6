"""What a model has read, as files of the disk cache.

- A prompt is cut at the end of every image and message. Each segment is a file: its keys and
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

from ..model.cache import Cache, ConvCache, Window
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
        self._empty = model.make_cache()
        self._about = {"model": model.name}

    def common(self, prefix: Prefix) -> int:
        """Return how many positions of a prompt have files, from the first on."""
        return max((end for end, _ in self._found(prefix)), default=0)

    def load(self, prefix: Prefix, beyond: int) -> tuple[int, Cache, Snapshots] | None:
        """Return what files hold of the beginning of a prompt.

        Args:
            prefix: the prompt.
            beyond: positions that are known without files.

        Returns:
            The number of positions, their cache, and the windows at the ends of segments; None if
            it is no more than is known.
        """
        found = self._found(prefix)
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
            cache = self._joined(parts, ends[len(parts) - 1])
            snapshots = {end: self._windows(part) for end, part in zip(ends, parts, strict=False)}
        except (KeyError, ValueError) as error:
            for name in names[: len(parts)]:
                self._disk.refuse(name, str(error))
            return None
        self._disk.touch(names)
        return cache.offset, cache, snapshots

    def save(self, prefix: Prefix, cache: Cache, snapshots: Snapshots) -> None:
        """Write what a cache has read, as far as there are no files of it."""
        begin, names = 0, list[str]()
        for end, name in self._names(prefix):
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

    def _names(self, prefix: Prefix) -> list[tuple[int, str]]:
        """Return the end of each segment and the name of its file."""
        begin, link, names = 0, self._root, list[tuple[int, str]]()
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

    def _found(self, prefix: Prefix) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for end, name in self._names(prefix):
            if not self._disk.has(name):
                break
            found.append((end, name))
        return found

    def _joined(self, parts: Sequence[Arrays], end: int) -> Cache:
        """Return the cache of consecutive segments.

        Raises:
            ValueError: they do not fit together, or not the model.
        """
        state = dict(parts[-1])
        for name in state:
            if name.endswith((".keys", ".values")) and len(parts) > 1:
                state[name] = mx.concatenate([part[name] for part in parts], axis=2)
        cache = Cache.from_state(state, {**self._empty.meta_state, "offset": str(end)})
        mx.eval(cache.arrays)
        return cache

    def _windows(self, part: Arrays) -> list[Window]:
        taps = int(self._empty.meta_state["taps"])
        return [
            tuple(part[f"{i}.window.{k}"] for k in range(taps - 1))
            for i, layer in enumerate(self._empty.layers)
            if isinstance(layer, ConvCache)
        ]


def _part(cache: Cache, begin: int, end: int, windows: Sequence[Window]) -> Arrays:
    """Return the arrays of one segment, by the names of `Cache.state`."""
    arrays: Arrays = {}
    left = iter(windows)
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, ConvCache):
            arrays |= {f"{i}.window.{k}": row for k, row in enumerate(next(left))}
        else:
            keys, values = (array[:, :, begin:end] for array in layer.arrays)
            arrays |= {f"{i}.keys": keys, f"{i}.values": values}
    return arrays
