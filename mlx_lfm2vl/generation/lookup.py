"""Prompt lookup: draft the next tokens by copying what followed the same tokens earlier.

Follows Saxena, Prompt Lookup Decoding (2023). Where an answer repeats its prompt or itself, as a
list of boxes does, one decoding step then gives several tokens.
"""

from collections.abc import Sequence

NGRAM = 3  # last tokens that must have occurred earlier for a draft


class Lookup:
    """A `Drafter` that keeps all tokens so far and where each n-gram last occurred."""

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

    def draft(self) -> list[int]:
        """Return the `most` tokens that followed the last `NGRAM` tokens earlier, or none."""
        place = self._after.get(tuple(self._ids[-NGRAM:]))
        if place is None:
            return []
        draft = self._ids[place : place + self.most]
        while len(draft) < self.most:  # the copy reached the end: the answer repeats itself
            draft += draft[: self.most - len(draft)]
        return draft
