"""What was read before, kept for prompts that begin in the same way.

- A branch is a cache with the tokens and images that it has read. Several are kept, so that another
  conversation does not push an image out; the one unused for longest goes first.
- Snapshots are the convolutions' windows at the ends of segments. At any other position, windows
  come back by reading a few tokens again; see `model.rewind`.
- Image features are kept apart, so that an image in another prompt skips the vision tower.
- A branch is never written again. A prompt that continues it gets a fork.
- With a folder, all of this is on disk too, for other processes; see `saved_prefix`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ..arrays import named_arrays
from ..model.cache import Cache
from ..model.conv_window import Window
from ..model.drafter import DraftCache
from ..model.lfm2vl import Lfm2VL
from ..model.rewind import reach, rewind
from .fingerprint import layer_settings
from .prefix import SHORT, Prefix

if TYPE_CHECKING:  # imported where a folder is given: most programs keep nothing on disk
    from .disk_store import DiskStore
    from .saved_prefix import SavedPrefixes

PREFIX_BYTES = 512 * 2**20
FEATURE_BYTES = 128 * 2**20


@dataclass
class Branch:
    """A cache and what it has read.

    Attributes:
        prefix: tokens and images; no more of them than the cache has positions.
        cache: of a single sequence.
        snapshots: the windows at some positions.
        context: what a drafter has read of it, maybe fewer positions; None if there is none.
    """

    prefix: Prefix
    cache: Cache
    snapshots: dict[int, list[Window]] = field(default_factory=dict[int, list[Window]])
    context: DraftCache | None = None

    @property
    def nbytes(self) -> int:
        """Memory of keys, values, windows and snapshots, in bytes."""
        snapshots = (row for windows in self.snapshots.values() for w in windows for row in w)
        context = self.context.arrays if self.context else ()
        return self.cache.nbytes + sum(row.nbytes for row in (*snapshots, *context))


class PrefixStore:
    """Branches and image features of one model, each with a limit in bytes.

    After changing a weight in place (`weight[0] = 0`), call `clear`.

    Attributes:
        branches: the one used last comes last.
        features: (F, C) by `image_key`; the ones used last come last.
    """

    def __init__(
        self,
        prefix_bytes: int = PREFIX_BYTES,
        feature_bytes: int = FEATURE_BYTES,
        *,
        folder: Path | str | None = None,
        folder_bytes: int | None = None,
    ) -> None:
        """
        Args:
            prefix_bytes: memory of all branches.
            feature_bytes: memory of all features.
            folder: where to keep both on disk too; None keeps them in memory only.
            folder_bytes: size of all files in the folder; None is `disk_store.DISK_BYTES`.
        """
        self.prefix_bytes, self.feature_bytes = prefix_bytes, feature_bytes
        self._folder, self._folder_bytes = folder, folder_bytes
        self._disk: DiskStore | None = None
        self._saved: SavedPrefixes | None = None
        self.branches: list[Branch] = []
        self.features: OrderedDict[bytes, mx.array] = OrderedDict()
        self._weights: list[mx.array] = []
        self._settings: object = None

    def serve(self, model: Lfm2VL) -> None:
        """Forget everything if a weight or a layer's setting is not that of the filled store."""
        weights = list(named_arrays(model.parameters()).values())
        settings = layer_settings(model)
        same = len(weights) == len(self._weights) and all(map(is_, weights, self._weights))
        if not same or settings != self._settings:
            self.clear()
            self._weights, self._settings = weights, settings
            self._saved = self._open_folder(model)

    def _open_folder(self, model: Lfm2VL) -> SavedPrefixes | None:
        if self._folder is None:
            return None
        from .disk_store import DISK_BYTES, DiskStore
        from .saved_prefix import SavedPrefixes

        if self._disk is None:
            self._disk = DiskStore(self._folder, self._folder_bytes or DISK_BYTES)
        return SavedPrefixes(self._disk, model)

    @property
    def nbytes(self) -> int:
        """Memory of everything that is kept, in bytes. Memory that branches share counts twice."""
        branches = sum(branch.nbytes for branch in self.branches)
        return branches + sum(rows.nbytes for rows in self.features.values())

    def clear(self) -> None:
        """Forget everything in memory, because the model has changed or the memory is needed.

        Files stay.
        """
        self.branches.clear()
        self.features.clear()
        self._weights = []

    def held(self, prefix: Prefix, kv_bits: int = 0) -> int:
        """Return how many positions of a prompt, from the first on, some branch has read."""
        return max((branch.prefix.common(prefix) for branch in self._of(kv_bits)), default=0)

    def common(self, prefix: Prefix, kv_bits: int = 0) -> int:
        """Return how many positions of a prompt some branch has read or files may hold.

        A file may turn out to be damaged.
        """
        saved = self._saved.common(prefix, kv_bits) if self._saved else 0
        return max(self.held(prefix, kv_bits), saved)

    def recall(self, prefix: Prefix, kv_bits: int = 0) -> None:
        """Make a branch of what files hold of a prompt, if that is more than branches hold."""
        if self._saved is None:
            return
        found = self._saved.load(prefix, self.held(prefix, kv_bits), kv_bits)
        if found is not None:
            length, cache, snapshots = found
            self._add(Branch(prefix.until(length), cache, snapshots))

    def _of(self, kv_bits: int) -> list[Branch]:
        """Return the branches with such keys and values; others would change the answer."""
        return [branch for branch in self.branches if branch.cache.kv_bits == kv_bits]

    def continued(self, model: Lfm2VL, prefix: Prefix, kv_bits: int = 0) -> Branch:
        """Return a branch of its own that ends where a prompt continues.

        At least one position of the prompt is left to read, which gives the first logits. If a
        snapshot is so near that going back to it costs no more than reading tokens again, the
        branch ends there, and the run repeats the calls of one that began at 0.

        Args:
            model: that filled the caches.
            prefix: the whole prompt.
            kv_bits: of the branch's cache.
        """
        self.recall(prefix, kv_bits)
        best, length = None, 0
        for branch in self._of(kv_bits):
            shared = min(branch.prefix.common(prefix), len(prefix) - 1)
            if shared >= length and shared:
                best, length = branch, shared
        if best is None:
            return Branch(Prefix([]), model.make_cache(kv_bits))
        self.branches.remove(best)
        self.branches.append(best)
        near = max((end for end in best.snapshots if end <= length), default=0)
        cache = best.cache.fork()
        steps = reach(model.language_model)
        is_near = length - near <= max(steps, SHORT)
        again = None if is_near else self._embeds(model, best.prefix, length, steps)
        if again is None:
            length = near
            if not near:
                return Branch(Prefix([]), model.make_cache(kv_bits))
            cache.back(near, best.snapshots[near])
        else:
            rewind(model.language_model, cache, length, again)
        kept = {end: windows for end, windows in best.snapshots.items() if end <= length}
        # A drafter has read all that its answers have, or must begin here.
        context = best.context if best.context and best.context.end >= length else None
        return Branch(prefix.until(length), cache, kept, context and context.until(length))

    def _embeds(self, model: Lfm2VL, prefix: Prefix, to: int, steps: int) -> mx.array | None:
        """Return what was read before a position; None if features of an image there are gone."""
        begin = max(0, to - steps)
        token = model.config.image_token_id
        rows: list[mx.array] = []
        for (first, end), key in zip(prefix.spans, prefix.keys, strict=True):
            if end <= begin or first >= to:
                continue
            features = self.features_of(key)
            if features is None:
                return None
            before = prefix.count(token, first, begin)
            count = prefix.count(token, max(first, begin), min(end, to))
            rows.append(features[before : before + count])
        joined = mx.concatenate(rows) if rows else None
        return model.embed(prefix.ids[begin:to], joined)

    def keep(self, branch: Branch) -> None:
        """Keep a branch; those that it continues go, with their snapshots taken over."""
        self._add(branch)
        if self._saved is None:
            return
        for key in branch.prefix.keys:
            if key in self.features:
                self._saved.save_features(key, self.features[key])
        self._saved.save(branch.prefix, branch.cache, branch.snapshots)

    def _add(self, branch: Branch) -> None:
        if branch.nbytes > self.prefix_bytes:
            return  # all others would go, and then it
        for old in self._of(branch.cache.kv_bits):
            shared = branch.prefix.common(old.prefix)
            if shared == len(old.prefix):
                branch.snapshots = {**old.snapshots, **branch.snapshots}
                self.branches.remove(old)
            elif shared == len(branch.prefix):
                return  # it says nothing new
        self.branches.append(branch)
        while self.branches and sum(b.nbytes for b in self.branches) > self.prefix_bytes:
            self.branches.pop(0)

    def keep_features(self, key: bytes, parts: Sequence[mx.array]) -> None:
        """Keep the features of an image by its key."""
        self._add_features(key, mx.concatenate(list(parts)) if len(parts) > 1 else parts[0])

    def _add_features(self, key: bytes, features: mx.array) -> None:
        self.features[key] = features
        while self.features and sum(f.nbytes for f in self.features.values()) > self.feature_bytes:
            self.features.popitem(last=False)

    def features_of(self, key: bytes) -> mx.array | None:
        """Return the features of an image, or None."""
        if key in self.features:
            self.features.move_to_end(key)
            return self.features[key]
        found = self._saved.features(key) if self._saved else None
        if found is not None:
            self._add_features(key, found)
        return found
