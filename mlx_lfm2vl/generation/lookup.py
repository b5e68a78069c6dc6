"""Prompt lookup: draft what comes next from what was said before.

Follows Saxena, Prompt Lookup Decoding (2023): where an answer copies, as a list of boxes does or
a text that is read twice, several tokens come for the price of one.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must agree before what followed them is drafted


class Lookup:
    """All tokens so far, and where every few of them were last seen together. A `Drafter`."""

    def __init__(self, token_ids: Sequence[int], most: int) -> None:
        """
        Args:
            token_ids: of the prompt.
            most: tokens of a draft.
        """
        self.most = most
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> place of what followed it last
        for token in token_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token."""
        if len(self._ids) >= NGRAM:
            self._after[tuple(self._ids[-NGRAM:])] = len(self._ids)
        self._ids.append(token)

    def draft(self) -> list[int]:
        """`most` tokens as they followed when the last few were there before, or none."""
        place = self._after.get(tuple(self._ids[-NGRAM:]))
        if place is None:
            return []
        draft = self._ids[place : place + self.most]
        while len(draft) < self.most:  # a loop: what it says next it has just said
            draft += draft[: self.most - len(draft)]
        return draft
