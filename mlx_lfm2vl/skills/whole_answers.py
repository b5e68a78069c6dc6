"""The answer about a picture from what the model wrote about it, or about its slices.

Boxes are in pixels of the whole picture, and an object that two slices show is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..images.drawn import Part
from ..images.inputs import Input
from .answers import Detection, Layout, Point
from .functions import read_answer
from .slice_boxes import in_whole, merge_slices

if TYPE_CHECKING:
    from ..generation.result import Result
    from .tasks import Task

JOINED = ("detect",)  # skills that answer once about a picture in slices


def read_whole(task: Task[Any], picture: Input, results: Sequence[Result]) -> Any:
    """Return the typed answer about a picture.

    Args:
        task: what was asked.
        picture: what was asked about; it has slices only if the task is one of `JOINED`.
        results: what the model wrote about each of `picture.asked`.

    Raises:
        AnswerError: a text is not in the form that was asked for.
    """
    answers = [read_answer(task, result) for result in results]
    if picture.slices:
        parts = [one.part for one in picture.slices if one.part]
        boxes = [answer.boxes for answer in answers]
        return Detection(tuple(merge_slices(list(zip(parts, boxes, strict=True)))))
    (answer,) = answers
    return of_whole(answer, picture.part) if picture.part else answer


def of_whole(answer: Any, part: Part) -> Any:
    """Return the answer about a slice with its boxes in pixels of the whole picture."""
    if isinstance(answer, Detection):
        return Detection(tuple(in_whole(box, part) for box in answer.boxes))
    if isinstance(answer, Point) and answer.box:
        box = in_whole(answer.box, part)
        return Point(*box.center, box)
    if isinstance(answer, Layout):
        placed = [(region, region.box and in_whole(region.box, part)) for region in answer.regions]
        return Layout(tuple(replace(region, box=box) for region, box in placed))
    return answer
