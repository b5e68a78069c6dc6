"""Prompt lookup: draft the next tokens by copying what followed the same tokens earlier.

Follows Saxena, Prompt Lookup Decoding (2023). Where an answer repeats its prompt or itself, as a
list of boxes does, one decoding step then gives several tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx

    from .verifying import Verified

NGRAM = 3  # last tokens that must have occurred earlier for a draft


class Lookup:
    """A `drafted.Drafter` that keeps all tokens so far and where each n-gram last occurred."""

    taps = ()

    def __init__(self, token_ids: Sequence[int], most: int) -> None:
        """
        Args:
            token_ids: of the prompt.
            most: tokens per draft.
        """
        self.most = most
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> index of what last followed it
        for token in token_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token of the answer."""
        if len(self._ids) >= NGRAM:
            self._after[tuple(self._ids[-NGRAM:])] = len(self._ids)
        self._ids.append(token)

    def skip(self, tokens: Sequence[int]) -> None:
        """Append tokens that came without choice."""
        for token in tokens:
            self.add(token)

    def cut(self, _length: int) -> None:
        """How much of a draft is verified does not matter."""

    def draft(self, most: int) -> list[int]:
        """Return the tokens that followed the last `NGRAM` tokens earlier, or none."""
        place = self._place
        if place is None:
            return []
        length = min(most, self.most)
        draft = self._ids[place : place + length]
        while len(draft) < length:  # the copy reached the end: the answer repeats itself
            draft += draft[: length - len(draft)]
        return draft

    @property
    def rests(self) -> bool:
        """Whether the last tokens did not occur earlier."""
        return self._place is None

    @property
    def _place(self) -> int | None:
        return self._after.get(tuple(self._ids[-NGRAM:]))

    def read(self, _outputs: Sequence[mx.array]) -> None:
        """Nothing of the model is read."""

    def queue(
        self, _anchor: mx.array, _outputs: Sequence[mx.array], _verified: Verified | None
    ) -> None:
        """Nothing is computed on the device."""

    def told(self, _numbers: Sequence[int], _kept: int) -> None:
        """Nothing is told."""
