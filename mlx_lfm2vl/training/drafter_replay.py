"""What a drafter is worth: its drafts at the places where the rounds of known answers begin."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..model.drafter import DraftModel
from ..model.lfm2vl import Lfm2VL
from .drafter_data import Lesson
from .drafter_loss import CHUNK_BYTES, embed_blocks


@dataclass
class Replay:
    """Rounds of greedy answers.

    Attributes:
        tokens: of the answers after the first of each, which comes without a draft.
        accepted: how many rounds accepted 0, 1, ... proposals.
    """

    tokens: int
    accepted: list[int]

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a round gives, its own one included."""
        return self.tokens / max(1, sum(self.accepted))


def replay(drafter: DraftModel, target: Lfm2VL, lessons: Iterable[Lesson]) -> Replay:
    """Replay the rounds of answers that the target gave greedily.

    A round accepts the proposals that equal the answer, and adds a token of the target. Equal
    tokens are all that counts, so that the target need not run again.

    Args:
        drafter: its full drafts are tried.
        target: its embedding and output head are used.
        lessons: answers of the target.
    """
    found = Replay(0, [0] * (drafter.config.block_size + 1))
    for lesson in lessons:
        places = np.flatnonzero(lesson.is_anchor)
        drafts = dict(zip(places.tolist(), _drafts(drafter, target, lesson, places), strict=True))
        for first, last in lesson.answers:
            place = first
            while place < last:
                truth = lesson.ids[place + 1 : last + 1].tolist()
                pairs = zip(drafts[place], truth, strict=False)
                equal = [draft == token for draft, token in pairs]
                accepted = equal.index(False) if False in equal else len(equal)
                step = min(accepted + 1, last - place)
                found.accepted[accepted] += 1
                found.tokens += step
                place += step
    return found


def _drafts(
    drafter: DraftModel, target: Lfm2VL, lesson: Lesson, places: np.ndarray
) -> list[Sequence[int]]:
    """Return the greedy draft at each place."""
    rows, vocabulary = drafter.config.block_size, drafter.config.vocab_size
    size = max(1, CHUNK_BYTES // (4 * rows * vocabulary))
    dtype = target.language_model.embedding_norm.weight.dtype
    head, drafts = drafter.markov_head, list[Sequence[int]]()
    for start in range(0, len(places), size):
        some = places[start : start + size]
        previous = mx.array(lesson.ids[some])
        blocks = embed_blocks(drafter, target, previous[None])
        states = drafter.block_states(
            blocks, lesson.taps[None].astype(mx.float32), mx.array(some)[None]
        )[0]
        scores = target.head(states.astype(dtype)).astype(mx.float32)
        chain = list[mx.array]()
        for row in range(rows):
            biased = scores[:, row] + head.markov_w2(head.markov_w1(previous))
            previous = mx.argmax(biased, axis=-1)
            chain.append(previous)
        drafts += np.array(mx.stack(chain, axis=1)).tolist()
    return drafts
