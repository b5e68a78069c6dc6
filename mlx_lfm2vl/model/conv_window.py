"""What one short convolution remembers: a window of its last inputs, one fewer than it has taps."""

from collections.abc import Sequence

import mlx.core as mx

from ..options import MAX_LOOKUP

TRIMMABLE = MAX_LOOKUP + 1  # longest step, in positions, that can be trimmed

Window = tuple[mx.array, ...]  # the last inputs of a convolution, (B, C) each, oldest first


class ConvCache:
    """The last inputs of one short convolution, one fewer than it has taps.

    After a short step the inputs themselves are kept, and the window is cut out of them when it is
    asked for. So a step that follows at once copies nothing.
    """

    def __init__(self, taps: int) -> None:
        self._kept = taps - 1
        self._recent: mx.array | None = None  # (B, kept + L, C), inputs that the last step used
        self._window: Window | None = ()

    @property
    def window(self) -> Window:
        """One array per input, so that a step drops one and adds one without copying.

        Empty before the first update.
        """
        if self._window is None:
            assert self._recent is not None
            self._window = self._cut(self._recent)
        return self._window

    @window.setter
    def window(self, window: Window) -> None:
        self._window, self._recent = window, None

    def update(self, rows: mx.array) -> mx.array:
        """Add the inputs of new positions.

        Args:
            rows: (B, L, C).

        Returns:
            (B, taps - 1 + L, C), the rows of the window before this update, then the new ones. An
            empty window counts as zeros.
        """
        if self._recent is not None:
            before = [self._recent[:, self._recent.shape[1] - self._kept :]]
        else:
            window = self.window or (mx.zeros_like(rows[:, 0]),) * self._kept
            before = [row[:, None] for row in window]
        rows = mx.concatenate([*before, rows], axis=1)
        is_short = rows.shape[1] <= self._kept + TRIMMABLE
        self._window, self._recent = (None, rows) if is_short else (self._cut(rows), None)
        return rows

    def step(self, window: Window) -> None:
        """Replace the window after one more position; the step cannot be trimmed."""
        self.window = window

    def can_trim(self, count: int) -> bool:
        """Return whether the last `count` rows came in the last update, so they can be dropped."""
        return self._recent is not None and count <= self._recent.shape[1] - self._kept

    def trim(self, count: int) -> None:
        """Drop the last `count` rows of the last update; `can_trim` must allow it."""
        assert self._recent is not None
        self._window, self._recent = None, self._recent[:, : self._recent.shape[1] - count]

    def trim_rows(self, counts: Sequence[int]) -> None:
        """Drop the last rows of the last update, as many as given for each row of the batch."""
        assert self._recent is not None
        begins = self._recent.shape[1] - self._kept - mx.array(list(counts))
        places = begins[:, None] + mx.arange(self._kept)
        self.window = self._cut(mx.take_along_axis(self._recent, places[..., None], axis=1))

    def _cut(self, rows: mx.array) -> Window:
        """Return the window after some inputs, (B, L, C)."""
        # Copies, because views would keep the rows of a whole prompt in memory.
        length = rows.shape[1]
        return tuple(mx.contiguous(rows[:, i]) for i in range(length - self._kept, length))

    @property
    def arrays(self) -> list[mx.array]:
        """What is in memory."""
        return list(self.window) if self._recent is None else [self._recent]
