"""The answers about the slices of one picture, as one answer: each object once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import Lfm2VLError
from ..images.drawn import Part, Slice
from ..images.inputs import Input

if TYPE_CHECKING:
    from ..generation.result import Result

    Answered = tuple[Any, Sequence[Result]]  # a typed answer, and what the model wrote for it
    Outcome = tuple[Sequence[Input], Answered | Lfm2VLError]  # the images of a question


def count_pictures(inputs: Sequence[Input]) -> int:
    """Return how many pictures there are, if slices of one are counted once."""
    return len({_picture(one) for one in inputs})


def join_slices(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Join the boxes that were found in slices of one picture; all else passes as it is.

    Args:
        outcomes: of questions about one image each. Slices of a picture stand side by side. A
            `Detection` is their answer.

    Yields:
        The whole picture and its answer, or the error of its first slice that has one.
    """
    for _, found in groupby(outcomes, key=lambda outcome: _picture(outcome[0][0])):
        slices = list(found)
        yield _joined(slices) if slices[0][0][0].part else slices[0]


def _picture(one: Input) -> int:
    """A number that slices of one picture share."""
    return id(one.source.whole if isinstance(one.source, Slice) else one)


def _joined(slices: Sequence[Outcome]) -> Outcome:
    from ..skills.answers import Detection
    from ..skills.slice_boxes import merge_slices

    first = slices[0][0][0]
    assert isinstance(first.source, Slice)
    assert first.part
    whole, size = first.source.whole, first.part.whole
    picture = [replace(first, name=whole.name, source=whole, part=Part(0, 0, *size, size))]
    found: list[tuple[Part, Any]] = []
    results: list[Result] = []
    for (one,), outcome in slices:
        if isinstance(outcome, Lfm2VLError):
            return picture, outcome
        answer, written = outcome
        assert one.part
        found.append((one.part, answer.boxes))
        results += written
    return picture, (Detection(tuple(merge_slices(found))), results)
