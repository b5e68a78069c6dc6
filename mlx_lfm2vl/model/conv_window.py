"""What one short convolution remembers: a window of its last inputs, one fewer than it has taps."""

from collections.abc import Sequence

import mlx.core as mx

from ..options import MAX_LOOKUP

TRIMMABLE = MAX_LOOKUP + 1  # longest step, in positions, that can be trimmed

Window = tuple[mx.array, ...]  # the last inputs of a convolution, (B, C) each, oldest first


class ConvCache:
    """The last inputs of one short convolution, one fewer than it has taps.

    Attributes:
        window: one array per input, so that a step drops one and adds one without copying; empty
            before the first update.
    """

    def __init__(self, taps: int) -> None:
        self._kept = taps - 1
        self._recent: mx.array | None = None  # (B, kept + L, C), inputs that the last step used
        self.window: Window = ()

    def update(self, rows: mx.array) -> mx.array:
        """Add the inputs of new positions.

        Args:
            rows: (B, L, C).

        Returns:
            (B, taps - 1 + L, C), the rows of the window before this update, then the new ones. An
            empty window counts as zeros.
        """
        if not self.window:
            self.window = (mx.zeros_like(rows[:, 0]),) * self._kept
        rows = mx.concatenate([*(row[:, None] for row in self.window), rows], axis=1)
        self._recent = rows if rows.shape[1] <= self._kept + TRIMMABLE else None
        self._look_back_from(rows, rows.shape[1])
        return rows

    def step(self, window: Window) -> None:
        """Replace the window after one more position; the step cannot be trimmed."""
        self.window, self._recent = window, None

    def can_trim(self, count: int) -> bool:
        """Return whether the last `count` rows came in the last update, so they can be dropped."""
        return self._recent is not None and count <= self._recent.shape[1] - self._kept

    def trim(self, count: int) -> None:
        """Drop the last `count` rows of the last update; `can_trim` must allow it."""
        assert self._recent is not None
        self._recent = self._recent[:, : self._recent.shape[1] - count]
        self._look_back_from(self._recent, self._recent.shape[1])

    def trim_rows(self, counts: Sequence[int]) -> None:
        """Drop the last rows of the last update, as many as given for each row of the batch."""
        assert self._recent is not None
        begins = self._recent.shape[1] - self._kept - mx.array(list(counts))
        places = begins[:, None] + mx.arange(self._kept)
        rows = mx.take_along_axis(self._recent, places[..., None], axis=1)
        self._recent = None
        self._look_back_from(rows, self._kept)

    def _look_back_from(self, rows: mx.array, end: int) -> None:
        # Copies, because views would keep the rows of a whole prompt in memory.
        self.window = tuple(mx.contiguous(rows[:, i]) for i in range(end - self._kept, end))

    @property
    def arrays(self) -> list[mx.array]:
        """The window as a list."""
        return list(self.window)
