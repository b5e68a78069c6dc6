"""`POST /v1/skills/{name}`: the typed skills, such as boxes in pixels or the values of fields.

The body has `image`, or several `images`; the skill's own options, as `skills.tasks` has them; and
fields of `AnswerOptions` and `ImageOptions`. A PDF stands for its pages. `caption`, `keywords`,
`ocr`, `point` and `classify` answer about each picture; `layout` and `compare` about all together;
`detect`, `extract` and `ask` about each, or with `together` about all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from ...errors import AnswerError, InputError
from ...generation.result import Piece, Result
from ...skills.answers import Form, Length
from ...skills.tasks import MAX_KEYWORDS, Surface, Task, make_task
from ..exchange import Frame, Terms
from ..http.errors import error_reply
from ..request import Progress, Request
from ..served import Served
from .answer_fields import read_answer_options, read_background, read_image_options
from .fields import Fields
from .pictures import EXPECTED, MAX_NAME, MAX_SOURCE, Picture, load_pictures
from .usage import new_id, summed_usage

if TYPE_CHECKING:  # imported where a question is scored
    from ...generation.score import Scores

MAX_ITEMS = 1000  # labels, fields or things to look for
MAX_ITEM = 10_000  # characters
MAX_PICTURES = 10_000  # items of a list, of which `Terms.limits` allows fewer
TOGETHER = ("layout", "compare")  # are about all pictures
EITHER = ("detect", "extract", "ask")  # are about each picture, or about all


def _read_target(fields: Fields, name: str) -> Any:
    value = fields.get(name)
    if isinstance(value, str | None):
        return fields.text(name, most=MAX_ITEM)
    return fields.texts(name, most=MAX_ITEMS, longest=MAX_ITEM)


def _read_labels(fields: Fields, name: str) -> Any:
    return fields.texts(name, most=MAX_ITEMS, longest=MAX_ITEM) or None


def _read_fields(fields: Fields, name: str) -> Any:
    """Read "name: description" of each, or an object of descriptions by name."""
    given = fields.get(name)
    if not isinstance(given, Mapping):
        return _read_labels(fields, name)
    described = Fields(given, fields.where(name))
    return {str(key): described.text(str(key), most=MAX_ITEM) or "" for key in given}


def _read_schema(fields: Fields, name: str) -> Any:
    return None if fields.inner(name) is None else fields.get(name)


def _read_length(fields: Fields, name: str) -> Any:
    return fields.word(name, *get_args(Length))


def _read_count(fields: Fields, name: str) -> Any:
    return fields.integer(name, least=1, most=MAX_KEYWORDS)


def _read_form(fields: Fields, name: str) -> Any:
    return fields.word(name, *get_args(Form))


def _read_surface(fields: Fields, name: str) -> Any:
    return fields.word(name, *get_args(Surface))


# The own options of each skill, and how they are read.
OPTIONS: dict[str, dict[str, Callable[[Fields, str], Any]]] = {
    "caption": {"length": _read_length},
    "keywords": {"count": _read_count},
    "ocr": {"form": _read_form},
    "layout": {},
    "detect": {"target": _read_target},
    "point": {"target": Fields.text, "surface": _read_surface},
    "classify": {"labels": _read_labels},
    "extract": {"fields": _read_fields, "schema": _read_schema},
    "compare": {},
    "ask": {"question": Fields.text},
}
REQUIRED = {"point": "target", "classify": "labels", "ask": "question"}


def read_skill(name: str, body: Mapping[str, Any], terms: Terms) -> SkillExchange:
    """Read a question of a skill. Its images are decoded from base64 and its PDFs opened.

    Args:
        name: of the skill.
        body: of the request.
        terms: what it may ask for.

    Raises:
        BadField: a field is unknown, wrong or missing.
        InputError: there is no such skill, the model was not taught it, an option has a wrong
            value, or the skill takes another number of images.
        UnknownModel: no model of this name is served.
        Unfetched: some images are addresses that are not fetched yet.
    """
    if name not in OPTIONS:
        raise InputError(f"there is no skill {name!r:.60}, expected {', '.join(OPTIONS)}")
    fields = Fields(body)
    model = terms.find(fields.text("model", most=MAX_NAME) or "")
    own = _read_own(fields, name)
    together = name in TOGETHER or (name in EITHER and fields.flag("together") is True)
    pictures = _read_pictures(fields)
    task = make_task(name, model.info.kind, **own)
    options = read_answer_options(fields, task.options, terms.max_tokens, "max_tokens")
    images = read_image_options(fields, read_background(fields))
    fields.refuse("stream", "is not supported: the answer of a skill comes whole")
    fields.close()
    loaded = load_pictures(pictures, terms, model.info.images.with_options(images))
    sources = [source for pages in loaded for source in pages]
    if name == "detect" and together:
        task = make_task(name, model.info.kind, **own, images=max(1, len(sources)))
        options = options.changed({"constraint": task.options.constraint})
    task = replace(task, options=options.changed({"image_options": images}))
    groups = [sources] if together else [[source] for source in sources]
    return SkillExchange(task, own.get("labels", ()), model, groups)


def _read_own(fields: Fields, name: str) -> dict[str, Any]:
    """Read the options that are the skill's own."""
    values = {option: read(fields, option) for option, read in OPTIONS[name].items()}
    needed = REQUIRED.get(name)
    if needed and values[needed] is None:
        raise fields.bad(needed, f"is missing; {name} needs it")
    return {option: value for option, value in values.items() if value is not None}


def _read_pictures(fields: Fields) -> list[Picture]:
    """Read `image` or `images`: data URIs, or objects with `data` in base64."""
    one, several = fields.get("image"), fields.items("images", most=MAX_PICTURES)
    if one is not None and several:
        raise fields.bad("image", "and images are both given; send one of them")
    if one is None and not several:
        raise fields.bad("image", f"is missing, {EXPECTED}")
    if one is not None:
        return [_read_picture(one, fields.where("image"))]
    return [_read_picture(item, f"images[{number}]") for number, item in enumerate(several)]


def _read_picture(value: Any, where: str) -> Picture:
    if isinstance(value, str):
        return Picture(value, "", where)
    given = Fields(value, where)
    data = given.text("data", most=MAX_SOURCE)
    name = given.text("filename", most=MAX_NAME) or ""
    given.close()
    if not data:
        raise given.bad("data", f"is missing, {EXPECTED}")
    return Picture(data, name, given.where("data"))


class SkillExchange:
    """Questions of one skill and their typed answers; see `Exchange`."""

    streams = False

    def __init__(
        self, task: Task[Any], labels: Sequence[str], model: Served, groups: Sequence[Sequence[Any]]
    ) -> None:
        """
        Args:
            task: the skill.
            labels: of `classify`, which scores them instead of writing one; else empty.
            model: which is asked.
            groups: the images of each question.
        """
        self._task, self._labels, self._model = task, labels, model.name
        self._names = [[image.name for image in group] for group in groups]
        self._answers: dict[int, Result | Scores] = {}
        form = task.prompt.form or "{label}"
        answers = [form.replace("{label}", label.strip()) for label in labels]
        self.requests = [
            Request(task.messages(group), task.options, model.name, answers) for group in groups
        ]

    def begin(self) -> list[Frame]:
        """Return nothing: the answer comes whole."""
        return []

    def add(self, index: int, event: Any) -> list[Frame]:
        """Take an event of a question."""
        answer = event.result if isinstance(event, Piece) else event
        if answer is not None and not isinstance(answer, Progress):
            self._answers[index] = answer
        return []

    def end(self) -> list[Frame]:
        """Return nothing: the answer comes whole."""
        return []

    def fail(self, error: Exception) -> list[Frame]:
        """Return the error."""
        return [Frame(error_reply(error)[2])]

    def body(self) -> dict[str, Any]:
        """Return all answers as one object.

        Raises:
            AnswerError: the only answer is not in the form that was asked for. One of several is
                told in its place.
        """
        answers = [self._answers[index] for index in range(len(self._names))]
        return {
            "id": new_id("skill"),
            "object": "skill.answers",
            "created": int(time.time()),
            "skill": self._task.name,
            "model": self._model,
            "answers": [self._told(index, answer) for index, answer in enumerate(answers)],
            "usage": summed_usage(answers),
        }

    def _told(self, index: int, answer: Result | Scores) -> dict[str, Any]:
        images = [
            {"name": name, "width": plan.size[1], "height": plan.size[0]}
            for name, plan in zip(self._names[index], answer.images, strict=True)
        ]
        if not isinstance(answer, Result):
            return {**self._chosen(answer), "images": images}
        try:
            sizes = [plan.size for plan in answer.images]
            read = self._task.parse(answer.text, sizes).to_dict()
        except AnswerError as error:
            if len(self._names) == 1:
                raise
            return {**error_reply(error)[2], "images": images}
        return {**read, "images": images, "finish_reason": answer.finish_reason}

    def _chosen(self, scores: Scores) -> dict[str, Any]:
        """Return the label that fits best, and how likely each is."""
        from ...skills.classify import check_labels, read_scores

        found = read_scores(scores, check_labels(self._labels), "label", self._model)
        return found.to_dict()["answers"]["label"]
