"""The search for a short way to the end of a constrained answer."""

from collections import deque
from typing import Any

from .vocabulary import Vocabulary

MAX_WORK = 500  # steps of one search, beside those of the likely way
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
    waiting: deque[tuple[Any, list[int], int]] = deque([(matcher.deep_copy(), [], 0)])
    work = MAX_WORK + bound
    while waiting:
        state, path, detours = waiting.popleft()
        while len(path) <= bound:
            if state.is_accepting():
                return path
            if not work:
                return None
            work -= 1
            tokens: list[int] = state.compute_ff_tokens()
            if not tokens:
                tokens, others = vocabulary.toward_the_end(state)
                for other in others if detours < most_detours and len(path) < bound else ():
                    copy = state.deep_copy()
                    if copy.try_consume_tokens([other]):
                        waiting.append((copy, [*path, other], detours + 1))
            if not tokens or state.try_consume_tokens(tokens) < len(tokens):
                break
            path = path + tokens
    return None
