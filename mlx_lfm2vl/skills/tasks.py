"""The skills, each made for a kind of checkpoint: its prompt, its options, how its answer is read.

`TASKS` names them. `make_skill` makes one for programs that batch questions, and `functions` asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, get_args

from ..constraints.constraint import Constraint, json_schema
from ..errors import InputError
from ..options import AnswerOptions
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
from .fields import Fields, fields_of_schema, make_fields
from .kinds import KINDS, Kind
from .labels import demo_variant, label_in
from .plain_text import read_keywords, shortened, unfenced
from .prompts import Prompt, find_prompt
from .schemas import box_schema, constrained
from .skill import Skill

if TYPE_CHECKING:
    from ..images.source import ImageSource
    from ..prompt.messages import Message

ALT_LETTERS = 125  # what screen readers speak without a break
MAX_KEYWORDS = 100

Surface = Literal["app", "web", "photo"]
Sizes = Sequence[tuple[int, int]]


class Plain(Protocol):
    """An answer that can be given as plain data."""

    def to_dict(self) -> dict[str, Any]: ...


Answer = TypeVar("Answer", bound=Plain)


@dataclass(frozen=True)
class Task(Generic[Answer]):
    """A skill for one kind of checkpoint, whose answer has a Python type.

    Attributes:
        name: such as "detect".
        prompt: what the model is asked.
        values: for the names in the prompt.
        options: sampling, length and constraint of the answer.
        parse: reads the answer; takes the (height, width) of each upright original too.
        least: smallest number of images in a question.
        most: largest number of images in a question; 0 is no limit.
    """

    name: str
    prompt: Prompt
    values: Mapping[str, str]
    options: AnswerOptions
    parse: Callable[[str, Sizes], Answer]
    least: int = 1
    most: int = 1

    def messages(
        self, images: Sequence[ImageSource], facts: Mapping[str, str] | None = None
    ) -> list[Message]:
        """Make the conversation about some images.

        Raises:
            InputError: the skill takes another number of images.
        """
        self.check_count(len(images))
        return self.prompt.messages(images, self.values, facts or {})

    def check_count(self, count: int) -> None:
        """Check the number of images in a question.

        Raises:
            InputError: the skill takes another number.
        """
        if count < self.least or (self.most and count > self.most):
            expected = f"{self.least}" if self.least == self.most else f"{self.least} or more"
            noun = "image" if expected == "1" else "images"
            given = "1 was given" if count == 1 else f"{count} were given"
            raise InputError(f"{self.name} takes {expected} {noun}, and {given}")

    def skill(self) -> Skill:
        """Return the skill without the type of its answer."""
        return Skill(
            self.name,
            self.messages,
            self.options,
            lambda text, sizes: self.parse(text, sizes).to_dict(),
        )


def make_skill(name: str, kind: Kind, **options: Any) -> Skill:
    """Make a skill for a kind of checkpoint.

    >>> make_skill("detect", "450m", target="ships")

    Args:
        name: one of `TASKS`.
        kind: of the checkpoint; see `checkpoint_kind`.
        options: of the skill, as its function below has them.

    Raises:
        InputError: the name, the kind or an option is unknown or has a wrong value, or this kind
            was not taught the skill.
    """
    return make_task(name, kind, **options).skill()


def make_task(name: str, kind: Kind, **options: Any) -> Task[Any]:
    """Do what `make_skill` does, and keep the type of the answer."""
    from inspect import signature

    if name not in TASKS:
        raise InputError(f"there is no skill {name!r:.60}, expected {', '.join(TASKS)}")
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r:.60}, expected {', '.join(KINDS)}")
    known = list(signature(TASKS[name]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InputError(f"{name} has no option {unknown[0]!r:.60}, expected {', '.join(known)}")
    return TASKS[name](kind, **options)


def caption(
    kind: Kind, *, length: Length = "normal", prompt: Prompt | None = None
) -> Task[Caption]:
    """Describe an image. `alt` is at most 125 characters, cut after a sentence or a word."""
    _choice("length", length, get_args(Length))
    prompt = prompt or find_prompt("caption", kind, length)

    def parse(text: str, _: Sizes) -> Caption:
        text = unfenced(text)
        return Caption(shortened(text, ALT_LETTERS) if length == "alt" else text, length)

    return _task("caption", prompt, parse, values={"letters": str(ALT_LETTERS)})


def keywords(kind: Kind, *, count: int = 15, prompt: Prompt | None = None) -> Task[Keywords]:
    """List up to `count` keywords; see `read_keywords` for their case and order."""
    if type(count) is not int or not 1 <= count <= MAX_KEYWORDS:
        raise InputError(f"count is {count!r:.60}, expected 1 to {MAX_KEYWORDS}")
    prompt = prompt or find_prompt("keywords", kind)

    def parse(text: str, _: Sizes) -> Keywords:
        return Keywords(read_keywords(text, count))

    return _task("keywords", prompt, parse, values={"count": str(count)})


def ocr(kind: Kind, *, form: Form = "text", prompt: Prompt | None = None) -> Task[ReadText]:
    """Read the text in an image, as it is or as Markdown."""
    _choice("form", form, get_args(Form))
    prompt = prompt or find_prompt("ocr", kind, form)

    def parse(text: str, _: Sizes) -> ReadText:
        return ReadText(_quoted(text) if kind == "demo" else unfenced(text), form)

    return _task("ocr", prompt, parse)


def layout(kind: Kind, *, prompt: Prompt | None = None) -> Task[Layout]:
    """Read the regions of a document, whose pages are the images in their order."""
    prompt = prompt or find_prompt("layout", kind)

    def parse(text: str, sizes: Sizes) -> Layout:
        from .layout import parse_layout

        return Layout(tuple(parse_layout(text, sizes)))

    return _task("layout", prompt, parse, most=0)


def detect(
    kind: Kind,
    *,
    target: str | Sequence[str] | None = None,
    images: int = 1,
    prompt: Prompt | None = None,
) -> Task[Detection]:
    """Find boxes.

    Args:
        kind: of the checkpoint.
        target: a phrase, or labels; None finds everything.
        images: number of images that are asked about together.
        prompt: one of your own.
    """
    labels = [target] if isinstance(target, str) else list(target or ())
    # The demo model knows questions about one thing and about everything.
    variant = "all" if len(labels) != 1 else ""
    prompt = prompt or find_prompt("detect", kind, variant)

    def parse(text: str, sizes: Sizes) -> Detection:
        from .boxes import parse_boxes

        boxes = parse_boxes(text, sizes)
        if kind == "demo" and len(labels) > 1:
            boxes = [box for box in boxes if any(_is_a(box.label, label) for label in labels)]
        return Detection(tuple(boxes))

    values = {"target": _joined("target", labels or ["objects"], prompt)}
    task = _task("detect", prompt, parse, values=values, most=0)
    return _follow(task, "json_schema", box_schema(kind, images=images))


def point(
    kind: Kind, *, target: str, surface: Surface = "app", prompt: Prompt | None = None
) -> Task[Point]:
    """Find one place: what to click in a screenshot of an app or a web page, or a thing."""
    _choice("surface", surface, get_args(Surface))
    prompt = prompt or find_prompt("point", kind, surface)

    def parse(text: str, sizes: Sizes) -> Point:
        from .boxes import parse_boxes

        boxes = parse_boxes(text, sizes)
        return Point(*boxes[0].center, boxes[0]) if boxes else Point(None, None, None)

    task = _task("point", prompt, parse, values={"target": _joined("target", [target], prompt)})
    return _follow(task, "json_schema", box_schema(kind, at_most=1))


def classify(kind: Kind, *, labels: Sequence[str], prompt: Prompt | None = None) -> Task[Choice]:
    """Choose a label by writing it; `functions.classify` also gives probabilities."""
    from .classify import check_labels

    checked = check_labels(labels)
    prompt = prompt or find_prompt("classify", kind, demo_variant(kind, checked))

    def parse(text: str, _: Sizes) -> Choice:
        return Choice(label_in(text, checked))

    task = _task("classify", prompt, parse, values={"labels": _either(checked)})
    whole = [(prompt.form or "{label}").replace("{label}", label) for label in checked]
    return _follow(task, "choice", whole)


def extract(
    kind: Kind,
    *,
    fields: Sequence[str] | Mapping[str, str] | None = None,
    schema: Mapping[str, Any] | None = None,
    prompt: Prompt | None = None,
) -> Task[Extraction]:
    """Read the values of fields, "name: description" each, or of a JSON Schema's object."""
    if (fields is None) == (schema is None):
        raise InputError("extract needs either fields or a schema")
    wanted: Fields = make_fields(fields) if fields is not None else fields_of_schema(schema)
    prompt = prompt or find_prompt("extract", kind)

    def parse(text: str, _: Sizes) -> Extraction:
        return Extraction(wanted.read(text))

    task = _task("extract", prompt, parse, values={"fields": "\n".join(wanted.lines)}, most=0)
    if schema is None:
        return _follow(task, "json_schema", wanted.schema)
    return replace(task, options=constrained(task.options, partial(json_schema, wanted.schema)))


def compare(kind: Kind, *, prompt: Prompt | None = None) -> Task[Comparison]:
    """Say what differs between two or more images."""
    prompt = prompt or find_prompt("compare", kind)

    def parse(text: str, _: Sizes) -> Comparison:
        return Comparison(unfenced(text))

    return _task("compare", prompt, parse, least=2, most=0)


def ask(kind: Kind, *, question: str, prompt: Prompt | None = None) -> Task[Reply]:
    """Answer a question, which may name facts of the photo in braces, such as {place}."""
    if not question.strip():
        raise InputError("the question is empty")
    # In a prompt of one's own the question is a value; by itself it is the prompt.
    values = {"question": question} if prompt else None
    prompt = prompt or replace(find_prompt("ask", kind), user=question)

    def parse(text: str, _: Sizes) -> Reply:
        return Reply(text.strip())

    return _task("ask", prompt, parse, values=values, most=0)


TASKS: dict[str, Callable[..., Task[Any]]] = {
    "caption": caption,
    "keywords": keywords,
    "ocr": ocr,
    "layout": layout,
    "detect": detect,
    "point": point,
    "classify": classify,
    "extract": extract,
    "compare": compare,
    "ask": ask,
}


def _task(
    name: str,
    prompt: Prompt,
    parse: Callable[[str, Sizes], Answer],
    *,
    values: Mapping[str, str] | None = None,
    least: int = 1,
    most: int = 1,
) -> Task[Answer]:
    prompt.check_names(values or {})
    options = AnswerOptions(**prompt.settings)
    return Task(name, prompt, values or {}, options, parse, least, most)


def _follow(
    task: Task[Answer], kind: Literal["json_schema", "choice"], rule: object
) -> Task[Answer]:
    """Keep the answer to a rule of our own where that is possible.

    The rule is not checked: a program that asks a resident process would import 50 ms for it.
    """
    make = partial(Constraint, kind, json.dumps(rule, ensure_ascii=False))
    return replace(task, options=constrained(task.options, make))


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r:.60}, expected {', '.join(known)}")


def _joined(name: str, words: Sequence[str], prompt: Prompt) -> str:
    """Join things to look for, as a sentence has them; a prompt may have their article."""
    words = [" ".join(word.split()) for word in words]
    if not all(words):
        raise InputError(f"a {name} is empty")
    if f"the {{{name}}}" in prompt.user:
        words = [re.sub(r"(?i)^the ", "", word) for word in words]
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _either(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _is_a(label: str, asked: str) -> bool:
    """Whether a label, such as "red star", has all the words that were asked for: "star"."""
    return set(asked.lower().split()) <= set(label.lower().split())


def _quoted(text: str) -> str:
    """Return what the demo model says that a text says; it puts that in quotes."""
    found = re.search(r'"(.*)"', text, re.DOTALL)
    return found[1] if found else text.strip()
