"""Outputs of the parts before the trained ones, computed once for each view and kept in memory."""

import hashlib
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..model.lfm2vl import Lfm2VL
from .batches import Batch

Grid = tuple[int, int]
# A function of (model, (n, N, ...) views of one grid, grid) that returns their (F, C) features.
Finish = Callable[[Lfm2VL, mx.array, Grid], mx.array]


class FrozenViews:
    """Computes what a run does not train of the image features, and keeps it within a limit.

    A view is known by its pixels, so a changed image is never mistaken for its older self, and an
    image that stands in many conversations is encoded once. Views are encoded one at a time: a
    kernel may round differently for another number of views, and so the losses do not depend on
    what is kept. Nothing is evicted. Each epoch reads every view once in a new order, so that
    replacing one by another would gain nothing.

    Attributes:
        finish: computes features from what a call returns, inside the gradient.
        nbytes: memory of what is kept.
        hits: number of views that were taken from what is kept.
        misses: number of views that were encoded.
    """

    def __init__(self, model: Lfm2VL, limit: int) -> None:
        """
        Args:
            model: with its trainable parameters chosen. The others must not change afterwards.
            limit: most bytes to keep.
        """
        self.model, self.limit = model, limit
        self.nbytes = self.hits = self.misses = 0
        self._kept: dict[tuple[bytes, Grid], mx.array] = {}
        self._begin: Finish | None = None
        self.finish: Finish = Lfm2VL.encode_views
        if _is_fixed(model.vision_tower):
            self._begin, self.finish = Lfm2VL.encode_patches, Lfm2VL.project_patches
            if _is_fixed(model.multi_modal_projector):
                self._begin, self.finish = Lfm2VL.encode_views, _as_they_are

    def __call__(self, batch: Batch) -> list[mx.array]:
        """Return the views of a batch as `finish` takes them: (n, N, ...) for each grid."""
        groups = zip(batch.pixel_values, batch.grids, strict=True)
        if self._begin is None:
            return [mx.array(patches) for patches, _ in groups]
        return [mx.stack([self._view(view, grid) for view in patches]) for patches, grid in groups]

    def _view(self, patches: np.ndarray, grid: Grid) -> mx.array:
        key = hashlib.sha256(patches.data).digest(), grid
        kept = self._kept.get(key)
        if kept is not None:
            self.hits += 1
            return kept
        self.misses += 1
        assert self._begin is not None
        view = self._begin(self.model, mx.array(patches[None]), grid)
        view = view.reshape(-1, view.shape[-1])
        mx.async_eval(view)  # start now, and hold the memory of one encoding at a time
        if self.nbytes + view.nbytes <= self.limit:
            self._kept[key] = view
            self.nbytes += view.nbytes
        return view


def _is_fixed(part: nn.Module) -> bool:
    """Whether a part gives the same output for the same input during the whole run."""
    drops = any(isinstance(module, nn.Dropout) for module in part.modules())
    return not drops and not tree_flatten(part.trainable_parameters())


def _as_they_are(_model: Lfm2VL, features: mx.array, _grid: Grid) -> mx.array:
    return features.flatten(0, 1)
