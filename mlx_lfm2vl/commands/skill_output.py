"""How the answer of a skill is printed or drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, printable

if TYPE_CHECKING:
    from ..generation.result import Result
    from ..images.inputs import Input
    from ..images.source import ImageLimits, ImageSource
    from ..skills.boxes import Box
    from ..skills.kinds import Kind
    from ..skills.tasks import Task

DRAWN = (".png", ".jpg", ".jpeg", ".webp")  # endings of files to draw into


def as_text(answer: Any) -> str:
    """Return an answer as people and line-based tools read it."""
    from ..skills.answers import Detection, Extraction, Keywords, Layout, Point
    from ..skills.classify import Classification

    if isinstance(answer, Classification):
        best = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
        return "\n".join(f"{label}: {share:.1%}" for label, share in best)
    if isinstance(answer, Keywords):
        return ", ".join(answer.keywords)
    if isinstance(answer, Detection):
        return "\n".join(map(_box_line, answer.boxes)) or "nothing found"
    if isinstance(answer, Point):
        return "nothing found" if answer.box is None else f"{answer.x} {answer.y}"
    if isinstance(answer, Extraction):
        return "\n".join(f"{name}: {_value(value)}" for name, value in answer.values.items())
    if isinstance(answer, Layout):
        return answer.markdown.rstrip("\n")
    return answer.text


def _box_line(box: Box) -> str:
    place = ", ".join(map(str, box.pixels))
    image = f" in image {box.image + 1}" if box.image else ""
    return f"{printable(box.label) or 'box'}: {place}{image}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def image_objects(group: Sequence[Input], results: Sequence[Result]) -> list[dict[str, Any]]:
    """Describe the images of a question for --json: pixels of a box are those of its image."""
    if not results:
        return [{"file": one.name} for one in group]
    sizes = [plan.size for plan in results[0].images]
    if len(group) == 1 and (part := group[0].asked[0].part):
        sizes = [part.whole]
    return [
        {"file": one.name, "width": width, "height": height}
        for one, (height, width) in zip(group, sizes, strict=True)
    ]


def prompt_object(task: Task[Any], kind: Kind) -> dict[str, Any]:
    """Describe what is asked about one image, or as few as the skill takes, for --json."""
    messages = task.messages([""] * task.least)
    for message in messages:
        if not isinstance(message["content"], str):
            for part in message["content"]:
                part.pop("image", None)
    return {
        "skill": task.name,
        "kind": kind,
        "source": task.prompt.source,
        "messages": messages,
        "settings": task.prompt.settings,
    }


def check_drawing(path: Path) -> None:
    """Refuse a file that cannot be drawn into, before anything is loaded.

    Raises:
        InputError: its ending is not one of `DRAWN`, or it cannot be written.
    """
    from ..whole_folder import check_file

    check_file(path)
    if path.suffix.lower() not in DRAWN:
        raise InputError(f"--draw {path} has no ending of {', '.join(DRAWN)}")


def draw_boxes(answer: Any, source: ImageSource, limits: ImageLimits, path: Path) -> None:
    """Write a copy of an image with the boxes of an answer.

    Raises:
        InputError: the file cannot be written.
    """
    from ..images.source import open_image
    from ..skills.answers import Detection, Layout, Point
    from ..skills.draw import draw_boxes as drawn
    from ..whole_folder import new_file

    boxes: list[Box] = []
    if isinstance(answer, Detection):
        boxes = list(answer.boxes)
    elif isinstance(answer, Point) and answer.box is not None:
        boxes = [answer.box]
    elif isinstance(answer, Layout):
        boxes = [region.box for region in answer.regions if region.box is not None]
    picture = drawn(open_image(source, limits).decode(), boxes)
    with new_file(path) as partial:
        kind = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
        picture.save(partial, format=kind)
