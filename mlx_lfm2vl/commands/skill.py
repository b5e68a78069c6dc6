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
from .draft_options import check_draft_options, note_undrafted
from .image_options import chosen_image_options
from .open_engine import check_memory_options, image_limits, open_engine
from .page_options import chosen_pages
from .skill_options import (
    answer_changes,
    build_parser,
    is_together,
    kind_of,
    split_words,
    task_options,
)
from .skill_output import (
    as_text,
    check_drawing,
    draw_boxes,
    image_objects,
    of_whole,
    prompt_object,
)
from .source_options import chosen_inputs

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.answer import Result
    from ..generation.engine import Engine
    from ..images.source import ImageLimits
    from ..skills.kinds import Kind
    from ..skills.tasks import Task

    Outcome = tuple[Any, Result | None] | Lfm2VLError  # the typed answer, and what it cost


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command of a skill; returns the exit code."""
    return run_command(build_parser(name), partial(_run, name), arguments)


def _run(name: str, options: argparse.Namespace) -> int:
    from ..skills.tasks import make_task

    split_words(name, options)
    own, changes = task_options(name, options), answer_changes(options)
    check_memory_options(options)
    check_draft_options(options)
    if getattr(options, "draw", None):
        check_drawing(options.draw)
    limits = image_limits(options)
    inputs = [] if options.show_prompt else _inputs(options, limits)
    if name == "detect" and is_together(name, options):
        own["images"] = max(1, len(inputs))
    kind = options.kind or kind_of(options)
    task = make_task(name, kind, **own)
    image_options = chosen_image_options(options)
    answer = task.options.changed({**changes, "image_options": image_options})
    task = replace(task, options=answer)
    if not options.show_prompt:
        return _answer(task, kind, options, inputs, limits)
    if options.json:
        print_object(prompt_object(task, kind))
    else:
        print(task.prompt.to_toml(), end="", flush=True)
    return 0


def _inputs(options: argparse.Namespace, limits: ImageLimits) -> list[Input]:
    """Return the pictures that were chosen: pages of PDFs, and frames and slices on request."""
    from ..checkpoint.find import find_checkpoint
    from ..images.pages import expand_inputs
    from ..prompt.processor import load_image_config

    pages = chosen_pages(options)
    inputs = chosen_inputs(options, limits)
    folder = find_checkpoint(
        options.model, options.revision, with_weights=False, update=options.update
    )
    config = load_image_config(folder).with_options(chosen_image_options(options))
    return list(expand_inputs(inputs, pages, config, limits))


def _answer(
    task: Task[Any],
    kind: Kind,
    options: argparse.Namespace,
    inputs: Sequence[Input],
    limits: ImageLimits,
) -> int:
    together = is_together(task.name, options)
    if together:
        limits.check_count(len(inputs))
    groups = [inputs] if together else [[one] for one in inputs]
    task.check_count(len(groups[0]))
    if getattr(options, "draw", None) and len(inputs) > 1:
        raise InputError("--draw draws into one image: give one, or remove --draw")
    if len(groups) == 1:
        _check_images(inputs, limits)
    if len(groups) > 1:
        note_undrafted(options, "answers of a batch")
    elif task.options.constraint:
        note_undrafted(options, "answers with a constraint")
    engine = open_engine(options, limits, task.options)
    failed, alone = 0, len(groups) == 1
    labels = options.labels if task.name == "classify" else ()
    for group, outcome in _outcomes(engine, task, groups, labels):
        if not isinstance(outcome, Lfm2VLError):
            _print(task, kind, options, group, outcome, alone=alone)
            continue
        if alone:
            raise outcome
        failed += 1
        say(f"error: {group[0].name}: {outcome}")
        if options.json:
            cause = {"error": str(outcome), "exit_code": outcome.exit_code}
            print_object({"skill": task.name, "file": group[0].name, **cause})
    if failed:
        say(f"{failed} of {len(groups)} images not answered")
    return 1 if failed else 0


def _check_images(inputs: Sequence[Input], limits: ImageLimits) -> None:
    """Find bad images before a checkpoint is downloaded or loaded."""
    from ..images.source import is_url, open_image

    for one in inputs:
        if not (limits.allow_url and is_url(one.source)):  # fetched only once, later
            open_image(one.source, limits)


def _outcomes(
    engine: Engine, task: Task[Any], groups: Sequence[Sequence[Input]], labels: Sequence[str]
) -> Iterator[tuple[Sequence[Input], Outcome]]:
    """Answer the question about each group of images; give the answers in their order.

    Raises:
        Lfm2VLError: there is only one group, and it cannot be answered.
    """
    from ..desktop.photo_facts import photo_facts
    from ..skills.functions import read_answer, score_task

    if labels:
        for group in groups:
            try:
                known = photo_facts(group[0])
                yield group, (score_task(engine, task, group[0].source, labels, known), None)
            except Lfm2VLError as error:
                yield group, error
        return
    questions = (
        task.messages([one.source for one in group], photo_facts(group[0])) for group in groups
    )
    if len(groups) == 1:
        with stage("answering"):
            result = engine.generate(next(questions), task.options)
        yield groups[0], (read_answer(task, result), result)
        return
    waiting: dict[int, Result | Lfm2VLError] = {}
    given = 0
    for number, outcome in engine.stream_batch(questions, task.options):
        waiting[number] = outcome
        while given in waiting:
            yield groups[given], _read(task, waiting.pop(given))
            given += 1


def _read(task: Task[Any], outcome: Result | Lfm2VLError) -> Outcome:
    from ..skills.functions import read_answer

    if isinstance(outcome, Lfm2VLError):
        return outcome
    try:
        return read_answer(task, outcome), outcome
    except Lfm2VLError as error:
        return error


def _print(
    task: Task[Any],
    kind: Kind,
    options: argparse.Namespace,
    group: Sequence[Input],
    answered: tuple[Any, Result | None],
    *,
    alone: bool,
) -> None:
    """Print the answer about a group of images, the only one or one of many."""
    answer, result = answered
    if group[0].part and len(group) == 1:
        answer = of_whole(answer, group[0].part)
    if result and result.finish_reason == "length":
        count = len(result.token_ids)
        say(f"note: {group[0].name}: the answer ends at {count} tokens; --max-tokens allows more")
    if getattr(options, "draw", None):
        draw_boxes(answer, group[0].source, image_limits(options), options.draw)
    if options.json:
        file = {"file": group[0].name} if len(group) == 1 else {}
        rest = {"model": options.model, "kind": kind, "images": image_objects(group, result)}
        ended = {"finish_reason": result.finish_reason} if result else {}
        print_object({"skill": task.name, **file, **answer.to_dict(), **rest, **ended})
    elif alone:
        print(as_text(answer), flush=True)
    else:
        print(f"==> {group[0].name} <==\n{as_text(answer)}\n", flush=True)
    if options.verbose and result:
        say_costs(result)
