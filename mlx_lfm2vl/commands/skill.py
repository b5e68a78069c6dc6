"""The commands of the skills: `caption`, `ocr`, `detect` and the others. One module for all.

Exit codes: 0 answered, 1 failed or an image was not answered, 2 wrong use or bad input, 130
interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import InputError, Lfm2VLError
from ..images.inputs import Input
from .answer_output import in_order, print_object, say, say_costs, say_failure
from .common import run_command, stage
from .draft_options import check_draft_options, note_undrafted_batch
from .image_options import chosen_image_options
from .open_engine import check_memory_options, image_limits, open_engine
from .page_options import chosen_image_config, chosen_pages, pictures_of_prompt
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
    prompt_object,
)
from .source_options import chosen_inputs

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.engine import Engine
    from ..generation.result import Result
    from ..images.source import ImageLimits
    from ..skills.kinds import Kind
    from ..skills.tasks import Task

    Answered = tuple[Any, Sequence[Result]]  # a typed answer, and what the model wrote for it


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
    inputs = [] if options.show_prompt else _inputs(name, options, limits)
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


def _inputs(name: str, options: argparse.Namespace, limits: ImageLimits) -> list[Input]:
    """Return the pictures that were chosen: pages of PDFs, and frames and slices on request."""
    from ..images.pages import expand_inputs
    from ..skills.whole_answers import JOINED

    pages, inputs = chosen_pages(options), chosen_inputs(options, limits)
    if is_together(name, options):
        return pictures_of_prompt(options, inputs, limits)
    config = chosen_image_config(options)
    return list(expand_inputs(inputs, pages, config, limits, whole=name in JOINED))


def _answer(
    task: Task[Any],
    kind: Kind,
    options: argparse.Namespace,
    inputs: Sequence[Input],
    limits: ImageLimits,
) -> int:
    together = is_together(task.name, options)
    groups = [inputs] if together else [[one] for one in inputs]
    task.check_count(len(groups[0]))
    if getattr(options, "draw", None) and len(inputs) > 1:
        raise InputError("--draw draws into one image: give one, or remove --draw")
    failed, alone = 0, len(groups) == 1
    if alone and not options.resident:  # which finds them, before it asks the model
        _check_images(inputs, limits)
    if len(groups) > 1 or groups[0][0].slices:
        note_undrafted_batch(options)
    engine = open_engine(options, limits, task.options)
    labels = options.labels if task.name == "classify" else ()
    for group, outcome in _outcomes(engine, task, groups, labels):
        if not isinstance(outcome, Lfm2VLError):
            _print(task, kind, options, group, outcome, alone=alone)
            continue
        if alone:
            raise outcome
        failed += 1
        say_failure(group[0].name, outcome)
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
) -> Iterator[tuple[Sequence[Input], Answered | Lfm2VLError]]:
    """Answer the question about each group of images; give the answers in their order.

    Raises:
        Lfm2VLError: there is only one question, and it cannot be answered.
    """
    from ..desktop.facts import facts_for
    from ..skills.functions import score_task

    facts = facts_for(task.prompt)
    if labels:
        for group in groups:
            try:
                known = facts(group[0])
                yield group, (score_task(engine, task, group[0].source, labels, known), [])
            except Lfm2VLError as error:
                yield group, error
        return
    asked = [one for group in groups for one in _questions(group)]
    questions = (
        task.messages([one.source for one in images], facts(images[0])) for images in asked
    )
    if len(asked) == 1:
        with stage("answering"):
            result = engine.generate(next(questions), task.options)
        yield groups[0], (_read(task, groups[0], [result]), [result])
        return
    written = in_order(engine.stream_batch(questions, task.options))
    for group in groups:
        outcomes = list(islice(written, len(_questions(group))))
        yield group, _answered(task, group, outcomes)


def _questions(group: Sequence[Input]) -> Sequence[Sequence[Input]]:
    """The images of each question about a group: its slices one by one, or all images at once."""
    return [[one] for one in group[0].slices] or [group]


def _answered(
    task: Task[Any], group: Sequence[Input], outcomes: Sequence[Result | Lfm2VLError]
) -> Answered | Lfm2VLError:
    results: list[Result] = []
    for outcome in outcomes:
        if isinstance(outcome, Lfm2VLError):
            return outcome
        results.append(outcome)
    try:
        return _read(task, group, results), results
    except Lfm2VLError as error:
        return error


def _read(task: Task[Any], group: Sequence[Input], results: Sequence[Result]) -> Any:
    from ..skills.functions import read_answer
    from ..skills.whole_answers import read_whole

    if len(group) > 1:  # boxes tell their image
        return read_answer(task, results[0])
    return read_whole(task, group[0], results)


def _print(
    task: Task[Any],
    kind: Kind,
    options: argparse.Namespace,
    group: Sequence[Input],
    answered: Answered,
    *,
    alone: bool,
) -> None:
    """Print the answer about a group of images, the only one or one of many."""
    answer, results = answered
    cut = [len(result.token_ids) for result in results if result.finish_reason == "length"]
    if cut:
        say(f"note: {group[0].name}: the answer ends at {cut[0]} tokens; --max-tokens allows more")
    if getattr(options, "draw", None):
        draw_boxes(answer, group[0].source, image_limits(options), options.draw)
    if options.json:
        file = {"file": group[0].name} if len(group) == 1 else {}
        rest = {"model": options.model, "kind": kind, "images": image_objects(group, results)}
        ended = {"finish_reason": "length" if cut else results[0].finish_reason} if results else {}
        print_object({"skill": task.name, **file, **answer.to_dict(), **rest, **ended})
    elif alone:
        print(as_text(answer), flush=True)
    else:
        print(f"==> {group[0].name} <==\n{as_text(answer)}\n", flush=True)
    if options.verbose:
        for result in results:
            say_costs(result)
