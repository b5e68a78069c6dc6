"""What the host does of a request before the device: it reads the prompt and decodes the images.

Python cannot stop work from outside. So before every page, image and constraint the work asks
whether anybody still waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from ..errors import Lfm2VLError
from ..generation.engine import Engine
from ..generation.row import Asked, ask, decoded, with_images
from ..generation.score import Question, read_question
from ..images.drawn import Drawn
from ..images.limits import ImageLimits
from ..model.lfm2vl import Lfm2VL
from ..prompt.messages import Message, as_messages, read_messages, split_images
from ..prompt.processor import Inputs, Processor, Views
from .request import Request

if TYPE_CHECKING:  # imported where there is a constraint
    from ..generation.guide import Guide

Weight = Literal["text", "images", "large", "pages"]
IsWanted = Callable[[], bool]

# Pixels of all images of a request. A photo of 48 megapixels, as iPhones take it, is not large yet.
LARGE = 50_000_000


@dataclass(frozen=True)
class Prepared:
    """A request after the host's part of the work.

    Attributes:
        work: the conversation, or a question with answers to score; its images are decoded.
        guide: of a constraint.
    """

    work: Asked | Question
    guide: Guide | None = None

    @property
    def keys(self) -> frozenset[bytes]:
        """What identifies its images."""
        return frozenset(self.work.keys)

    @property
    def tokens(self) -> int:
        """What there is to read: image tokens count twice, since they are encoded too."""
        prompt = self.work.prompt
        return len(prompt.input_ids) + prompt.image_tokens


@dataclass(frozen=True)
class Large:
    """A request whose images are opened but not decoded, because that takes long.

    Attributes:
        go_on: decodes them, and returns what `prepare` does.
    """

    go_on: Callable[[], Prepared]


def weight(request: Request) -> Weight:
    """Return what a request asks of the host; requests wait for those of the same weight only.

    Pages of documents take longest. A constraint counts as an image, because compiling it may take
    as long. Which images are large is known when they are opened; see `prepare_unless_large`.
    """
    try:
        _, sources = split_images(as_messages(request.messages))
    except Exception:  # noqa: BLE001  `prepare` will say it of this request alone
        return "text"
    if any(isinstance(source, Drawn) for source in sources):
        return "pages"
    return "images" if sources or request.options.constraint is not None else "text"


def prepare(engine: Engine, request: Request, is_wanted: IsWanted = lambda: True) -> Prepared:
    """Do what a request needs of the host before the device; any thread may.

    Args:
        engine: that will answer.
        request: what is asked.
        is_wanted: whether somebody still waits for it.

    Raises:
        Lfm2VLError: the request cannot be answered; see `Engine.stream`.
    """
    _, finish = _opened(engine, request, is_wanted)
    return finish()


def prepare_unless_large(engine: Engine, request: Request, is_wanted: IsWanted) -> Prepared | Large:
    """Do what `prepare` does, but leave large images for a thread where they hold up no others."""
    prompt, finish = _opened(engine, request, is_wanted)
    pixels = sum(math.prod(plan.size) for plan in prompt.images)
    return Large(finish) if pixels > LARGE else finish()


def _opened(
    engine: Engine, request: Request, is_wanted: IsWanted
) -> tuple[Inputs, Callable[[], Prepared]]:
    """Read a prompt and open its images; return it, and what does the rest of `prepare`."""
    model, processor, options = engine.model, engine.processor.anew(), request.options
    options = replace(options, logits_processors=(), on_encode=None, on_prefill=None)
    processor.limits = request.limits or processor.limits
    read = read_messages(as_messages(request.messages))
    messages = [_while_wanted(message, is_wanted) for message in read]
    if request.answers:
        question = read_question(model, processor, messages, request.answers, options)
        return question.prompt, partial(_with_decoded, question, is_wanted)
    asked = ask(model, processor, messages, options)
    asked = replace(asked, keeps_answer=request.keeps_answer)
    return asked.prompt, partial(_with_guide, model, processor, asked, is_wanted)


def _with_decoded(question: Question, is_wanted: IsWanted) -> Prepared:
    prompt, keys = decoded(_stoppable(question.prompt, is_wanted))
    return Prepared(replace(question, prompt=prompt, keys=keys))


def _with_guide(model: Lfm2VL, processor: Processor, asked: Asked, is_wanted: IsWanted) -> Prepared:
    asked = with_images(replace(asked, prompt=_stoppable(asked.prompt, is_wanted)))
    if asked.options.constraint is None:
        return Prepared(asked)
    from ..generation.guide import make_guide

    _check(is_wanted)
    guide = make_guide(model, processor, asked.options, asked.prompt.start)
    return Prepared(asked, guide)


class Unwanted(Lfm2VLError):
    """Nobody waits for a request any more."""


def _check(is_wanted: IsWanted) -> None:
    if not is_wanted():
        raise Unwanted("nobody waits for the answer")


def _while_wanted(message: Message, is_wanted: IsWanted) -> Message:
    """Return a message whose pages are drawn only as long as somebody waits."""
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [
        {**part, "image": _Page(part["image"], is_wanted)}
        if isinstance(part.get("image"), Drawn)
        else part
        for part in content
    ]
    return {**message, "content": parts}


class _Page(Drawn):
    """A page that is drawn only if somebody waits."""

    def __init__(self, page: Drawn, is_wanted: IsWanted) -> None:
        self.name, self._page, self._is_wanted = page.name, page, is_wanted

    def draw(self, limits: ImageLimits) -> Image.Image:
        """Draw the page."""
        _check(self._is_wanted)
        return self._page.draw(limits)


def _stoppable(prompt: Inputs, is_wanted: IsWanted) -> Inputs:
    """Return a prompt whose images are decoded only as long as somebody waits."""

    def decode(decoder: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        _check(is_wanted)
        return decoder()

    views = [partial(decode, prompt.views.skip()) for _ in prompt.images]
    return replace(prompt, views=Views(views))
