"""Combine samples of different sizes into a batch, and choose the samples of each update.

Padding on the right is exact: attention and the short convolution are causal, so padding never
reaches the sample before it, and padded positions have no weight in the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model.lfm2vl import Lfm2VL
from ..prompt.samples import Sample

LENGTH_STEP = 32  # for compiled graphs: lengths rounded up to a multiple recur


@dataclass(frozen=True)
class Batch:
    """B samples as arrays on the host.

    Attributes:
        input_ids: (B, L) int32, padded on the right with 0.
        index: (B, L) int32 for `Lfm2VL.join`.
        last: number of the last positions, from the first one on that predicts an id of the
            assistant in any sample.
        positions: (T,) int32, the positions in B * last that predict an id of the assistant.
        targets: (T,) int32, the ids to predict.
        weights: (T,) float32, 1, or 0 for padding.
        grids: the (rows, columns) of patches of each group of views.
        pixel_values: (n, N, patch_dim) uint8 for each group of n views.
    """

    input_ids: np.ndarray
    index: np.ndarray
    last: int
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    grids: tuple[tuple[int, int], ...]
    pixel_values: tuple[np.ndarray, ...]

    @property
    def shape_key(self) -> tuple[object, ...]:
        """A key that batches share if they run the same compiled graph."""
        views = tuple(len(patches) for patches in self.pixel_values)
        return (self.input_ids.shape, self.last, len(self.positions), self.grids, views)

    @property
    def tokens(self) -> int:
        """The number of ids to predict."""
        return int(self.weights.sum())


def make_batch(samples: Sequence[Sample], model: Lfm2VL, multiple: int = 1) -> Batch:
    """Pad samples to the same length and group their views by grid.

    Args:
        samples: at least one.
        model: its config says where image features go.
        multiple: L, T and `last` are rounded up to a multiple of it.
    """
    length = _rounded(max(len(sample) for sample in samples) - 1, multiple)
    input_ids = np.zeros((len(samples), length), np.int32)
    predicting = [np.flatnonzero(sample.is_answer[1:]) for sample in samples]
    last = length - min(int(before.min(initial=length)) for before in predicting)
    last = min(length, _rounded(max(1, last), multiple))
    positions, targets = [], []
    for row, (sample, before) in enumerate(zip(samples, predicting, strict=True)):
        ids = sample.input_ids
        input_ids[row, : len(ids) - 1] = ids[:-1]
        positions += (row * last + before - (length - last)).tolist()
        targets += [ids[i + 1] for i in before]
    padding = [0] * (_rounded(len(positions), multiple) - len(positions))
    groups: dict[tuple[int, int], list[int]] = {}
    views = [
        view
        for sample in samples
        for view in zip(sample.spatial_shapes, sample.pixel_values, strict=True)
    ]
    for number, (grid, _) in enumerate(views):
        groups.setdefault(grid, []).append(number)
    grids = tuple(sorted(groups))
    return Batch(
        input_ids=input_ids,
        last=last,
        positions=np.array(positions + padding, np.int32),
        targets=np.array(targets + padding, np.int32),
        weights=np.array([1.0] * len(positions) + [0.0] * len(padding), np.float32),
        index=_index(input_ids, model, [groups[grid] for grid in grids], views),
        grids=grids,
        pixel_values=tuple(np.stack([views[i][1] for i in groups[grid]]) for grid in grids),
    )


def _rounded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _index(
    input_ids: np.ndarray,
    model: Lfm2VL,
    groups: Sequence[Sequence[int]],
    views: Sequence[tuple[tuple[int, int], np.ndarray]],
) -> np.ndarray:
    """The index for `Lfm2VL.join`, with features in the order of groups, not of the prompts."""
    block = model.config.projector.downsample_factor**2
    counts = [rows * columns // block for (rows, columns), _ in views]
    index = model.join_index(input_ids, sum(counts))
    begin, place = 0, {}
    for group in groups:
        for view in group:
            place[view] = begin + np.arange(counts[view], dtype=np.int32)
            begin += counts[view]
    if place:
        order = np.concatenate([place[view] for view in range(len(views))])
        is_image = index >= input_ids.size
        index[is_image] = input_ids.size + order
    return index


class UpdateOrder:
    """Choose the samples of each update: shuffled every epoch, sorted by length in each update.

    Sorting inside an update keeps its samples random, but puts similar lengths into the same batch,
    so that a batch needs little padding.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        """
        Args:
            lengths: length of every sample, in any unit; estimates are enough.
            size: samples in one update, over all its batches and processes.
            seed: for the shuffles.
        """
        self.lengths, self.size, self.seed = lengths, size, seed
        self._epoch_number, self._epoch = 0, self._shuffled(0)

    def __call__(self, step: int) -> list[int]:
        """Sample indices of an update, counted from 0; it may reach into the next epoch."""
        picked = [self._sample(step * self.size + i) for i in range(self.size)]
        return sorted(picked, key=lambda sample: self.lengths[sample])

    def _sample(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.lengths))
        if epoch != self._epoch_number:
            self._epoch_number, self._epoch = epoch, self._shuffled(epoch)
        return int(self._epoch[offset])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.lengths))
