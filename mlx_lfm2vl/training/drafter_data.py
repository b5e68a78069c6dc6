"""What a drafter learns from: the target's answers, and its states while it read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..model.lfm2vl import Lfm2VL
from ..prompt.samples import SampleMaker
from ..prompt.template import Message
from .drafter_loss import Blocks, row_weights


@dataclass(frozen=True)
class Lesson:
    """One conversation as the target read it.

    Attributes:
        ids: (L,) int32, the conversation.
        is_answer: (L,) bool, whether each id is an answer's.
        is_anchor: (L,) bool, whether a block may begin there: it and the next id are an answer's.
        taps: (L, taps * C) outputs of the target's layers.
        finals: (n, C) states after the target's final norm where `is_answer`.
        answers: the first and last position of each answer.
    """

    ids: np.ndarray
    is_answer: np.ndarray
    is_anchor: np.ndarray
    taps: mx.array
    finals: mx.array
    answers: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        """Memory of the states."""
        return self.taps.nbytes + self.finals.nbytes


class Lessons:
    """Makes lessons of conversations; keeps the states of some in memory, within a limit.

    Nothing is evicted. Each epoch reads every lesson once, so that replacing one by another would
    gain nothing. What is not kept is computed again, to the same numbers.

    Attributes:
        nbytes: memory of what is kept.
    """

    def __init__(
        self,
        target: Lfm2VL,
        taps: Sequence[int],
        maker: SampleMaker,
        rows: Sequence[Sequence[Message]],
        limit: int,
    ) -> None:
        """
        Args:
            target: frozen.
            taps: its layers that the drafter reads.
            maker: turns conversations into ids and patches.
            rows: conversations with the target's answers.
            limit: most bytes of states to keep.
        """
        self.target, self.taps, self.maker, self.rows = target, taps, maker, rows
        self.limit, self.nbytes = limit, 0
        self._kept: dict[int, Lesson] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, number: int) -> Lesson:
        """Return a lesson.

        Raises:
            InputError: an image cannot be read, or the answers have no two tokens.
        """
        if number in self._kept:
            return self._kept[number]
        lesson = self._make(number)
        if self.nbytes + lesson.nbytes <= self.limit:
            self._kept[number] = lesson
            self.nbytes += lesson.nbytes
        return lesson

    def _make(self, number: int) -> Lesson:
        try:
            sample = self.maker(self.rows[number])
        except InputError as error:
            raise InputError(f"conversation {number + 1}: {error}") from None
        ids, is_answer = np.array(sample.input_ids, np.int32), sample.is_answer
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_answer, [False]])))
        answers = [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        features = None
        if sample.pixel_values:
            features = self.target.encode_images(sample.pixel_values, sample.spatial_shapes)
        embeds = self.target.embed(sample.input_ids, features)
        hidden, taps = self.target.language_model.tapped(embeds, None, self.taps)
        finals = hidden[0][mx.array(np.flatnonzero(is_answer))]
        lesson = Lesson(
            ids,
            is_answer,
            is_answer & np.append(is_answer[1:], False),
            mx.concatenate(taps, axis=-1)[0],
            finals,
            answers,
        )
        mx.eval(lesson.taps, lesson.finals)
        return lesson


def make_blocks(
    lessons: Sequence[Lesson],
    anchors: int,
    block: int,
    draws: Sequence[np.random.Generator],
) -> Blocks:
    """Draw the anchors of some lessons and put their blocks together.

    Args:
        lessons: at least one.
        anchors: blocks of each; a lesson with fewer places has blocks without weight.
        block: rows of a block.
        draws: of each lesson.
    """
    length = max(len(lesson.ids) for lesson in lessons)
    ids = list[np.ndarray]()
    places, valid = np.zeros((len(lessons), anchors), np.int32), list[np.ndarray]()
    taps, finals = list[mx.array](), list[mx.array]()
    for number, (lesson, draw) in enumerate(zip(lessons, draws, strict=True)):
        found = draw.permutation(np.flatnonzero(lesson.is_anchor))[:anchors]
        places[number, : len(found)] = found
        last = len(lesson.ids) - 1
        rows = places[number][:, None] + np.arange(block + 1)  # (A, G + 1) positions
        ids.append(lesson.ids[np.minimum(rows, last)])
        said = lesson.is_answer[np.minimum(rows, last)] & (rows <= last)
        valid.append(said[:, 1:] & (np.arange(anchors) < len(found))[:, None])
        slot = np.maximum(np.cumsum(lesson.is_answer) - 1, 0)[np.minimum(rows[:, :-1], last)]
        finals.append(lesson.finals[mx.array(slot.astype(np.int32))])
        taps.append(mx.pad(lesson.taps, [(0, length - len(lesson.ids)), (0, 0)]))
    return Blocks(
        taps=mx.stack(taps).astype(mx.float32),
        finals=mx.stack(finals),
        ids=mx.array(np.stack(ids)),
        places=mx.array(places),
        weights=row_weights(mx.array(np.stack(valid))),
    )
