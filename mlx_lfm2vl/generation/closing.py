"""The search for a short way to the end of a constrained answer."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from .vocabulary import Vocabulary

MAX_WORK = 300  # steps of one search, beside those of the likely way
DETOURS = 2  # times that a way may leave the likely one
BOUNDS = (16, 64, 256, 1024)  # tokens; ways are left after so many, so that short ones come first


def closing(vocabulary: Vocabulary, matcher: Any, most: int) -> list[int] | None:
    """Return tokens that end an answer from where a matcher stands, or None.

    The search is not exhaustive: it follows the likely way, then ways that leave it at one place or
    two, the short ones first.

    Args:
        vocabulary: of the model.
        matcher: of llguidance; it stays where it is.
        most: number of tokens that there may be.
    """
    found = _within(vocabulary, matcher, most, 0)
    for bound in (min(bound, most) for bound in BOUNDS):
        if found is not None:
            break
        found = _within(vocabulary, matcher, bound, DETOURS)
    return found


def shortest(vocabulary: Vocabulary, matcher: Any, most: int) -> list[int] | None:
    """Return the shortest closing that is found, for a message."""
    best = found = closing(vocabulary, matcher, most)
    while found:
        best = found
        found = _within(vocabulary, matcher, len(best) - 1, DETOURS)
    return best


def _within(
    vocabulary: Vocabulary, matcher: Any, bound: int, most_detours: int
) -> list[int] | None:
    """Return a closing of at most `bound` tokens, or None."""
    # Places where a way can be left: where it stands, its tokens, what may follow, in which order,
    # and the detours with it.
    waiting: deque[tuple[Any, list[int], np.ndarray, Iterator[int], int]] = deque()
    seen = set[bytes]()  # which tokens could come next
    state: Any = matcher.deep_copy()
    path: list[int] = []
    detours = 0
    for _ in range(MAX_WORK + bound):
        if state.is_accepting():
            return path
        tokens: list[int] = state.compute_ff_tokens()
        if not tokens:
            words = vocabulary.words(state)
            ways = vocabulary.toward_the_end(words)
            tokens = list(islice(ways, 1))
            if detours < most_detours and len(path) < bound and words.tobytes() not in seen:
                waiting.append((state.deep_copy(), path, words, ways, detours + 1))
            seen.add(words.tobytes())
        path = path + tokens
        if tokens and len(path) <= bound and state.try_consume_tokens(tokens) == len(tokens):
            continue
        while waiting:
            place, path, words, ways, detours = waiting.popleft()
            token = next(ways, None)
            if token is not None:
                waiting.append((place, path, words, ways, detours))
                state, path = place.deep_copy(), [*path, token]
                # If the same tokens may come next as before, the token has likely led nowhere.
                if state.try_consume_tokens([token]) and (
                    state.is_accepting() or not np.array_equal(vocabulary.words(state), words)
                ):
                    break
        else:
            return None
    return None
