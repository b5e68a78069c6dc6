"""The `generate` command: answer a prompt on stdout; everything else goes to stderr.

Exit codes: 0 answered, 1 failed, 2 wrong use or bad input, 130 interrupted. With --each, 1 if an
image was not answered, and with --ask if a question was not.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import InputError, Lfm2VLError
from ..options import AnswerOptions
from .answer_output import (
    describe_plan,
    in_order,
    plan_object,
    print_object,
    print_rest,
    result_object,
    say,
    say_costs,
    say_failure,
)
from .asks import answer_questions
from .cache_options import chosen_bytes, chosen_folder
from .common import is_watched, run_command, stage
from .constraint_options import chosen_constraint
from .draft_options import note_undrafted_batch
from .generate_options import build_parser
from .open_engine import (
    answer_options,
    check_memory_options,
    image_limits,
    open_engine,
    unescaped,
)
from .page_options import chosen_image_config, chosen_pages, pictures_of_prompt
from .question import complete_question
from .source_options import chosen_inputs, has_sources

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from pathlib import Path

    from ..generation.engine import Engine
    from ..generation.prefix_store import PrefixStore
    from ..generation.result import Result
    from ..images.inputs import Input
    from ..images.source import ImageLimits, ImageSource
    from ..prompt.messages import Message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _generate, arguments)


def _generate(options: argparse.Namespace) -> int:
    complete_question(options)
    return _plan(options) if options.plan else _answer(options)


def _answer_options(options: argparse.Namespace) -> AnswerOptions:
    """The options of the answer, checked before anything is loaded."""
    from ..prompt.tool_calls import read_tools

    answer = answer_options(options).changed(
        {
            "tools": read_tools(options.tools) if options.tools else None,
            "answer_start": unescaped(options.answer_start),
            "constraint": chosen_constraint(options),
        }
    )
    check_memory_options(options)
    if options.each and not has_sources(options):
        raise InputError("--each needs at least one --image")
    if options.each:
        note_undrafted_batch(options)
    return answer


def _check_images(sources: Sequence[ImageSource], limits: ImageLimits) -> None:
    """Find bad images before a checkpoint is downloaded or loaded."""
    from ..images.source import is_url, open_image

    for source in sources:
        if limits.allow_url and is_url(source):
            continue  # fetched only once, later
        open_image(source, limits)


def _plan(options: argparse.Namespace) -> int:
    from ..images.geometry import plan_image
    from ..images.pages import expand_inputs
    from ..images.source import open_image

    if not has_sources(options):
        raise InputError("--plan needs at least one --image")
    limits, pages = image_limits(options), chosen_pages(options)
    inputs = chosen_inputs(options, limits)
    config = chosen_image_config(options)
    named = []
    for picture in expand_inputs(inputs, pages, config, limits):
        image = open_image(picture.source, limits)
        image.say_notes()
        named.append((picture.name, plan_image(*image.size, config)))
    if options.json:
        total = sum(plan.image_tokens for _, plan in named)
        print_object({"images": [plan_object(*pair) for pair in named], "image_tokens": total})
        return 0
    for name, plan in named:
        print(describe_plan(name, plan))
    return 0


def _answer(options: argparse.Namespace) -> int:
    limits = image_limits(options)
    pages, inputs = chosen_pages(options), chosen_inputs(options, limits)
    answer = _answer_options(options)
    cache = chosen_folder(options.cache), chosen_bytes(options.cache_size)
    sources: list[ImageSource] = []
    if not options.each:
        pictures = pictures_of_prompt(options, inputs, limits)
        sources, options.image = [p.source for p in pictures], [p.name for p in pictures]
        if not options.resident:  # which finds them, before it asks the model
            _check_images(sources, limits)
        if len(sources) > 1:
            say(f"note: {len(sources)} images in one prompt; --each asks about each by itself")
    engine = open_engine(options, limits, answer, _store(*cache))
    if options.each:
        from ..images.pages import expand_inputs

        config = engine.processor.image_config.with_options(answer.image_options)
        return _answer_each(engine, options, expand_inputs(inputs, pages, config, limits), answer)
    return (answer_questions if options.questions else _answer_one)(
        engine, options, sources, answer
    )


def _store(folder: Path | None, folder_bytes: int) -> PrefixStore | None:
    """What is kept on disk, or nothing: a single question has no use for more."""
    if folder is None:
        return None
    from ..generation.prefix_store import PrefixStore

    return PrefixStore(folder=folder, folder_bytes=folder_bytes)


def _answer_one(
    engine: Engine,
    options: argparse.Namespace,
    sources: Sequence[ImageSource],
    answer: AnswerOptions,
) -> int:
    """Answer one prompt about all images, piece by piece."""
    from ..prompt.messages import user_message

    messages = user_message(options.prompt, sources, options.system)
    text, token_ids, result = "", [], None
    try:
        with stage("reading the prompt") as tell:
            if is_watched():  # the host waits for what is reported
                reports = {
                    "on_encode": partial(tell, "encoding images"),
                    "on_prefill": partial(tell, "reading the prompt"),
                }
                answer = answer.changed(reports)
            pieces = engine.stream(messages, answer)
            first = next(pieces)
        for piece in chain([first], pieces):
            text += piece.text
            token_ids += piece.token_ids
            result = piece.result
            if not options.json:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        if options.json:
            ids = {"token_ids": token_ids} if options.token_ids else {}
            begun = {"text": text, **ids, "finish_reason": "interrupted"}
            print_object({**begun, "model": options.model})
        else:
            print(flush=True)
        return 130
    assert result is not None
    if options.json:
        ids = options.token_ids
        print_object(result_object(result, options.image, options.model, token_ids=ids))
    else:
        print_rest(result)
    if options.verbose:
        say_costs(result)
    return 0


def _answer_each(
    engine: Engine,
    options: argparse.Namespace,
    inputs: Iterable[Input],
    answer: AnswerOptions,
) -> int:
    """Answer the prompt about each image, as a batch; print the answers in the order given."""
    from ..prompt.messages import user_message

    names = deque[str]()  # of the images that are not printed yet

    def questions() -> Iterator[list[Message]]:
        for image in inputs:
            names.append(image.name)
            yield user_message(options.prompt, [image.source], options.system)

    printed = failed = 0
    for outcome in in_order(engine.stream_batch(questions(), answer)):
        failed += not _print_one(names.popleft(), outcome, options)
        printed += 1
    if failed:
        say(f"{failed} of {printed} images not answered")
    return 1 if failed else 0


def _print_one(file: str, outcome: Result | Lfm2VLError, options: argparse.Namespace) -> bool:
    """Print the answer about a file, or why there is none; return whether there is one."""
    if isinstance(outcome, Lfm2VLError):
        say_failure(file, outcome)
        if options.json:
            error = {"error": str(outcome), "exit_code": outcome.exit_code}
            print_object({"file": file, **error})
        return False
    if options.json:
        values = result_object(outcome, [file], options.model, token_ids=options.token_ids)
        print_object({"file": file, **values})
    else:
        print(f"==> {file} <==\n{outcome.text}", end="")
        print_rest(outcome)
        print(flush=True)
    if options.verbose:
        say_costs(outcome)
    return True
