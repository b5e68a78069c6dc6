"""The commands of the skills: `caption`, `ocr`, `detect` and the others. One module for all.

Exit codes: 0 answered, 1 failed or an image was not answered, 2 wrong use or bad input, 130
interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InputError, Lfm2VLError
from ..images.inputs import Input
from .answer_output import print_object, say, say_costs
from .common import run_command, stage
from .image_options import chosen_image_options
from .open_engine import check_memory_options, image_limits, open_engine
from .question import expand_images, read_sources
from .skill_options import (
    answer_changes,
    build_parser,
    is_together,
    kind_of,
    split_words,
    task_options,
)
from .skill_output import as_text, check_drawing, draw_boxes, image_objects, prompt_object

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.answer import Result
    from ..generation.engine import Engine
    from ..images.source import ImageLimits
    from ..skills.kinds import Kind
    from ..skills.tasks import Task


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command of a skill; returns the exit code."""
    return run_command(build_parser(name), partial(_run, name), arguments)


def _run(name: str, options: argparse.Namespace) -> int:
    from ..skills.tasks import make_task

    split_words(name, options)
    own, changes = task_options(name, options), answer_changes(options)
    check_memory_options(options)
    kind = options.kind or kind_of(options)
    task = make_task(name, kind, **own)
    image_options = chosen_image_options(options)
    answer = task.options.changed({**changes, "image_options": image_options})
    task = replace(task, options=answer)
    if options.show_prompt:
        if options.json:
            print_object(prompt_object(task, kind))
        else:
            print(task.prompt.to_toml(), end="", flush=True)
        return 0
    if getattr(options, "draw", None):
        check_drawing(options.draw)
    return _answer(task, kind, options)


def _answer(task: Task[Any], kind: Kind, options: argparse.Namespace) -> int:
    limits = image_limits(options)
    together = is_together(task.name, options)
    inputs = _inputs(options, limits, together=together)
    groups = [inputs] if together else [[one] for one in inputs]
    task.check_count(len(groups[0]))
    if getattr(options, "draw", None) and len(inputs) > 1:
        raise InputError("--draw draws into one image: give one, or remove --draw")
    if len(groups) == 1:
        _check_images(inputs, limits)
    engine = open_engine(options, limits, task.options)
    failed = 0
    for group, outcome in _outcomes(engine, task, groups):
        try:
            _print(task, kind, options, group, outcome, alone=len(groups) == 1)
        except Lfm2VLError as error:
            if len(groups) == 1:
                raise
            failed += 1
            say(f"error: {group[0].name}: {error}")
            if options.json:
                cause = {"error": str(error), "exit_code": error.exit_code}
                print_object({"skill": task.name, "file": group[0].name, **cause})
    if failed:
        say(f"{failed} of {len(groups)} images not answered")
    return 1 if failed else 0


def _inputs(options: argparse.Namespace, limits: ImageLimits, *, together: bool) -> list[Input]:
    options.each = not together
    options.image = expand_images(options.image, each=options.each)
    if options.image.count("-") > 1:
        raise InputError("stdin (-) can be used only once")
    if together:
        limits.check_count(len(options.image))
    pairs = zip(options.image, read_sources(options, limits), strict=True)
    return [Input(name, source) for name, source in pairs]


def _check_images(inputs: Sequence[Input], limits: ImageLimits) -> None:
    """Find bad images before a checkpoint is downloaded or loaded."""
    from ..images.source import is_url, open_image

    for one in inputs:
        if not (limits.allow_url and is_url(one.source)):  # fetched only once, later
            open_image(one.source, limits)


def _outcomes(
    engine: Engine, task: Task[Any], groups: Sequence[Sequence[Input]]
) -> Iterator[tuple[Sequence[Input], Result | Lfm2VLError]]:
    """Answer the question about each group of images; give the answers in their order."""
    questions = (
        task.messages([one.source for one in group], {"name": group[0].name}) for group in groups
    )
    if len(groups) == 1:
        with stage("answering"):
            result = engine.generate(next(questions), task.options)
        yield groups[0], result
        return
    waiting: dict[int, Result | Lfm2VLError] = {}
    given = 0
    for number, outcome in engine.stream_batch(questions, task.options):
        waiting[number] = outcome
        while given in waiting:
            yield groups[given], waiting.pop(given)
            given += 1


def _print(
    task: Task[Any],
    kind: Kind,
    options: argparse.Namespace,
    group: Sequence[Input],
    outcome: Result | Lfm2VLError,
    *,
    alone: bool,
) -> None:
    """Print the answer about a group of images, the only one or one of many.

    Raises:
        Lfm2VLError: there is none, or it is not in the form that was asked for.
    """
    from ..skills.functions import read_answer

    if isinstance(outcome, Lfm2VLError):
        raise outcome
    answer = read_answer(task, outcome)
    if outcome.finish_reason == "length":
        count = len(outcome.token_ids)
        say(f"note: {group[0].name}: the answer ends at {count} tokens; --max-tokens allows more")
    if getattr(options, "draw", None):
        draw_boxes(answer, group[0].source, image_limits(options), options.draw)
    if options.json:
        file = {"file": group[0].name} if len(group) == 1 else {}
        images = image_objects(group, outcome)
        rest = {"images": images, "finish_reason": outcome.finish_reason}
        about = {**rest, "model": options.model, "kind": kind}
        print_object({"skill": task.name, **file, **answer.to_dict(), **about})
    elif alone:
        print(as_text(answer), flush=True)
    else:
        print(f"==> {group[0].name} <==\n{as_text(answer)}\n", flush=True)
    if options.verbose:
        say_costs(outcome)
