"""The skills as functions: ask about an image, and get a typed answer.

>>> from mlx_lfm2vl import Engine, load
>>> from mlx_lfm2vl.skills.functions import caption
>>> caption(Engine(*load("demo")), "photo.jpg", length="short").text

Every function raises `InputError` for options that are wrong and images that cannot be read, and
`AnswerError` if the model's answer is not in the form that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ..options import AnswerChanges
from ..prompt.sources import as_images
from . import tasks
from .answers import (
    Caption,
    Choice,
    Comparison,
    Detection,
    Extraction,
    Form,
    Keywords,
    Layout,
    Length,
    Point,
    ReadText,
    Reply,
)
from .classify import Classification
from .classify import classify as score_labels
from .kinds import Kind, checkpoint_kind
from .prompts import Prompt
from .tasks import Plain, Surface, Task

if TYPE_CHECKING:
    from ..generation.engine import Engine
    from ..generation.result import Result
    from ..images.source import ImageSource

Answer = TypeVar("Answer", bound=Plain)
Make = Callable[["Kind", "Prompt | None"], "Task[Answer]"]


class Settings(AnswerChanges, total=False):
    """What every skill takes besides its own options: fields of `AnswerOptions`, and these."""

    kind: Kind | None  # of the checkpoint; None asks its configuration
    prompt: Prompt | None  # instead of the published one
    facts: Mapping[str, str]  # of the photo, for a prompt of one's own


OWN = ("kind", "prompt", "facts")


def caption(
    engine: Engine,
    image: ImageSource,
    *,
    length: Length = "normal",
    **settings: Unpack[Settings],
) -> Caption:
    """Describe an image.

    Args:
        engine: from `Engine(*load(...))`.
        image: a path or anything else that `generate` takes.
        length: "short", "normal", "detailed", or "alt": alt text of at most 125 characters.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Caption]:
        return tasks.caption(kind, length=length, prompt=prompt)

    return _answered(engine, make, [image], settings)


def keywords(
    engine: Engine, image: ImageSource, *, count: int = 15, **settings: Unpack[Settings]
) -> Keywords:
    """List what to find an image by; see `plain_text.read_keywords` for the case of letters.

    Args:
        engine: as for `caption`.
        image: as for `caption`.
        count: most keywords, up to 100.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Keywords]:
        return tasks.keywords(kind, count=count, prompt=prompt)

    return _answered(engine, make, [image], settings)


def ocr(
    engine: Engine, image: ImageSource, *, form: Form = "text", **settings: Unpack[Settings]
) -> ReadText:
    """Read the text in an image.

    Args:
        engine: as for `caption`.
        image: as for `caption`.
        form: "text", or "markdown" for headings, lists and tables.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[ReadText]:
        return tasks.ocr(kind, form=form, prompt=prompt)

    return _answered(engine, make, [image], settings)


def layout(
    engine: Engine, pages: ImageSource | Sequence[ImageSource], **settings: Unpack[Settings]
) -> Layout:
    """Read the regions of a document. Only LFM2.5-VL-3B was taught that.

    Args:
        engine: as for `caption`.
        pages: one page or several, in reading order.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Layout]:
        return tasks.layout(kind, prompt=prompt)

    return _answered(engine, make, as_images(pages), settings)


def detect(
    engine: Engine,
    image: ImageSource | Sequence[ImageSource],
    target: str | Sequence[str] | None = None,
    **settings: Unpack[Settings],
) -> Detection:
    """Find boxes.

    Args:
        engine: as for `caption`.
        image: one image, or several to ask about together, which LFM2.5-VL-3B was taught.
        target: a phrase, or labels; None finds everything.
        settings: see `Settings`.
    """
    images = as_images(image)

    def make(kind: Kind, prompt: Prompt | None) -> Task[Detection]:
        return tasks.detect(kind, target=target, images=len(images), prompt=prompt)

    return _answered(engine, make, images, settings)


def point(
    engine: Engine,
    image: ImageSource,
    target: str,
    *,
    surface: Surface = "app",
    **settings: Unpack[Settings],
) -> Point:
    """Find one place in an image.

    Args:
        engine: as for `caption`.
        image: as for `caption`.
        target: what to find, or an instruction, such as "save the file".
        surface: "app" or "web" for a screenshot, in which the place is one to click; or "photo".
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Point]:
        return tasks.point(kind, target=target, surface=surface, prompt=prompt)

    return _answered(engine, make, [image], settings)


def classify(
    engine: Engine, image: ImageSource, labels: Sequence[str], **settings: Unpack[Settings]
) -> Classification:
    """Choose a label, and say how likely each is; see `classify.classify`.

    Args:
        engine: as for `caption`.
        image: as for `caption`.
        labels: at least two.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Choice]:
        return tasks.classify(kind, labels=labels, prompt=prompt)

    return score_task(engine, _made(engine, make, settings), image, labels, settings.get("facts"))


def score_task(
    engine: Engine,
    task: Task[Choice],
    image: ImageSource,
    labels: Sequence[str],
    facts: Mapping[str, str] | None = None,
) -> Classification:
    """Do what `classify` does, with a task that was made for the labels."""
    *before, message = task.messages([image], facts)
    return score_labels(
        engine,
        image,
        labels,
        message["content"][-1]["text"],
        form=(task.prompt.form or "{label}").replace("{label}", "{}"),
        system=before[0]["content"] if before else None,
        options=task.options.changed({"constraint": None}),
    )


def extract(
    engine: Engine,
    image: ImageSource | Sequence[ImageSource],
    fields: Sequence[str] | Mapping[str, str] | None = None,
    *,
    schema: Mapping[str, Any] | None = None,
    **settings: Unpack[Settings],
) -> Extraction:
    """Read the values of fields from an image. The -Extract models were made for that.

    Args:
        engine: as for `caption`.
        image: one image, or several that belong together.
        fields: "name: description" each, or descriptions by name.
        schema: JSON Schema of the object to return, instead of `fields`.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Extraction]:
        return tasks.extract(kind, fields=fields, schema=schema, prompt=prompt)

    return _answered(engine, make, as_images(image), settings)


def compare(
    engine: Engine, images: Sequence[ImageSource], **settings: Unpack[Settings]
) -> Comparison:
    """Say what differs between two or more images.

    Args:
        engine: as for `caption`.
        images: at least two.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Comparison]:
        return tasks.compare(kind, prompt=prompt)

    return _answered(engine, make, images, settings)


def ask(
    engine: Engine,
    image: ImageSource | Sequence[ImageSource],
    question: str,
    **settings: Unpack[Settings],
) -> Reply:
    """Answer a question about one image or several.

    Args:
        engine: as for `caption`.
        image: one image or several.
        question: may name facts in braces, such as {place}.
        settings: see `Settings`.
    """

    def make(kind: Kind, prompt: Prompt | None) -> Task[Reply]:
        return tasks.ask(kind, question=question, prompt=prompt)

    return _answered(engine, make, as_images(image), settings)


def read_answer(task: Task[Answer], result: Result) -> Answer:
    """Return the typed answer of a task from the model's text.

    Raises:
        AnswerError: the text is not in the form that was asked for.
    """
    return task.parse(result.text, [plan.size for plan in result.images])


def _answered(
    engine: Engine, make: Make[Answer], images: Sequence[ImageSource], settings: Settings
) -> Answer:
    task = _made(engine, make, settings)
    messages = task.messages(images, settings.get("facts"))
    return read_answer(task, engine.generate(messages, task.options))


def _made(engine: Engine, make: Make[Answer], settings: Settings) -> Task[Answer]:
    """Make a task for the engine's checkpoint, with the caller's settings."""
    kind = settings.get("kind") or checkpoint_kind(engine.model.config)
    task = make(kind, settings.get("prompt"))
    changes = {name: value for name, value in settings.items() if name not in OWN}
    return replace(task, options=task.options.changed(changes))
