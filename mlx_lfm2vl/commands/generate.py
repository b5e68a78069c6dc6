"""The `generate` command: answer a prompt on stdout; everything else goes to stderr.

Exit codes: 0 answered, 1 failed, 2 wrong use or bad input, 130 interrupted. With --each, 1 if an
image was not answered.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from ..checkpoint.aliases import DEMO
from ..errors import InputError, Lfm2VLError
from ..options import SAMPLING_KEYS, AnswerOptions, Sampling
from .answer_output import (
    describe_device,
    describe_plan,
    describe_sampling,
    plan_object,
    print_object,
    result_object,
    say,
    say_costs,
)
from .common import is_watched, run_command, stage
from .generate_options import build_parser
from .image_options import chosen_image_options
from .question import complete_question, read_sources

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from PIL import Image

    from ..generation.answer import Result
    from ..generation.engine import Engine
    from ..images.source import ImageLimits, ImageSource
    from ..prompt.processor import Processor

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _generate, arguments)


def _generate(options: argparse.Namespace) -> int:
    complete_question(options)
    return _plan(options) if options.plan else _answer(options)


def _limits(options: argparse.Namespace) -> ImageLimits:
    from ..images.source import ImageLimits

    if not 0 < options.max_megapixels < 1e6:
        raise InputError(
            f"--max-megapixels is {options.max_megapixels}, expected more than 0 and less than 1e6"
        )
    return ImageLimits(max_pixels=int(options.max_megapixels * 1e6), allow_url=options.allow_url)


def _answer_options(options: argparse.Namespace) -> AnswerOptions:
    """The options of the answer, checked before anything is loaded."""
    answer = AnswerOptions(
        max_tokens=options.max_tokens,
        stop=[unescaped(text) for text in options.stop],
        **{name: getattr(options, name) for name in SAMPLING_KEYS},
        seed=options.seed,
        image_options=chosen_image_options(options),
        special_tokens=options.special_tokens,
        lookup=options.lookup,
    )
    for name in ("cache_limit", "wired_limit"):
        size = getattr(options, name)
        if size is not None and not 0 <= size < 1e4:
            raise InputError(
                f"--{name.replace('_', '-')} is {size}, expected 0 or more and less than 10000 GB"
            )
    if options.each and not options.image:
        raise InputError("--each needs at least one --image")
    if options.each and options.lookup:
        raise InputError("--lookup serves one answer at a time: remove it, or --each")
    if options.lookup:
        from ..checkpoint.config import read_model_config
        from ..checkpoint.find import find_checkpoint

        answer.sampling_over(Sampling())  # finds what no checkpoint allows, without a download

        folder = find_checkpoint(options.model, options.revision, with_weights=False)
        answer.sampling_over(read_model_config(folder).sampling)
    return answer


def unescaped(text: str) -> str:
    r"""Return a text with `\n`, `\t`, `\r` and `\\` replaced; other backslashes stay."""
    return re.sub(r"\\([ntr\\])", lambda match: ESCAPES[match[1]], text)


def _check_images(sources: Sequence[ImageSource], limits: ImageLimits) -> None:
    """Find bad images before a checkpoint is downloaded or loaded."""
    from ..images.source import is_url, open_image

    for source in sources:
        if limits.allow_url and is_url(source):
            continue  # fetched only once, later
        open_image(source, limits)


def _note_photos(processor: Processor) -> None:
    """Say, once, what the demo model knows if it is asked about what looks like a photo."""
    from ..images.photo import looks_like_photo

    def look(image: Image.Image) -> None:
        if looks_like_photo(image):
            processor.look = None
            say(
                "note: the demo model knows drawn shapes and printed capitals, nothing else; "
                "for photos use --model LiquidAI/LFM2.5-VL-450M"
            )

    processor.look = look


def _plan(options: argparse.Namespace) -> int:
    from ..checkpoint.config import read_model_config
    from ..checkpoint.find import find_checkpoint
    from ..images.geometry import plan_image
    from ..images.source import open_image
    from ..prompt.processor import load_image_config

    if not options.image:
        raise InputError("--plan needs at least one --image")
    limits = _limits(options)
    sources = read_sources(options, limits)
    folder = find_checkpoint(
        options.model, options.revision, with_weights=False, update=options.update
    )
    read_model_config(folder)  # rejects other models
    config = load_image_config(folder).with_options(chosen_image_options(options))
    plans = []
    for source in sources:
        image = open_image(source, limits)
        image.say_notes()
        plans.append(plan_image(*image.size, config))
    named = list(zip(options.image, plans, strict=True))
    if options.json:
        total = sum(plan.image_tokens for plan in plans)
        print_object({"images": [plan_object(*pair) for pair in named], "image_tokens": total})
        return 0
    for name, plan in named:
        print(describe_plan(name, plan))
    return 0


def _answer(options: argparse.Namespace) -> int:
    limits = _limits(options)
    if not options.each:
        limits.check_count(len(options.image))
    sources = read_sources(options, limits)
    answer = _answer_options(options)
    if not options.each:
        _check_images(sources, limits)
        if len(sources) > 1:
            say(f"note: {len(sources)} images in one prompt; --each asks about each by itself")
    engine = _engine(options, limits, answer)
    return (_answer_each if options.each else _answer_one)(engine, options, sources, answer)


def _engine(options: argparse.Namespace, limits: ImageLimits, answer: AnswerOptions) -> Engine:
    with stage(f"loading {options.model}"):
        from ..generation.engine import Engine
        from ..loading import load

        model, processor = load(
            options.model,
            revision=options.revision,
            update=options.update,
            dtype=options.dtype,
            limits=limits,
            adapter=options.adapter,
        )
    if options.model == DEMO:
        _note_photos(processor)
    engine = Engine(model, processor)
    chosen = engine.limit_memory(_bytes(options.cache_limit), _bytes(options.wired_limit))
    if options.verbose:
        say(f"sampling: {describe_sampling(answer.sampling_over(model.config.sampling))}")
        say(f"device: {describe_device(model, chosen)}")
    return engine


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
        print(flush=True)
    if options.verbose:
        say_costs(result)
    return 0


def _answer_each(
    engine: Engine,
    options: argparse.Namespace,
    sources: Sequence[ImageSource],
    answer: AnswerOptions,
) -> int:
    """Answer the prompt about each image, as a batch; print the answers in the order given."""
    from ..prompt.messages import user_message

    questions = (user_message(options.prompt, [source], options.system) for source in sources)
    waiting: dict[int, Result | Lfm2VLError] = {}
    printed = failed = 0
    for number, outcome in engine.stream_batch(questions, answer):
        waiting[number] = outcome
        while printed in waiting:
            failed += not _print_one(options.image[printed], waiting.pop(printed), options)
            printed += 1
    if failed:
        say(f"{failed} of {len(sources)} images not answered")
    return 1 if failed else 0


def _print_one(file: str, outcome: Result | Lfm2VLError, options: argparse.Namespace) -> bool:
    """Print the answer about a file, or why there is none; return whether there is one."""
    if isinstance(outcome, Lfm2VLError):
        say(f"error: {file}: {outcome}")
        if options.json:
            error = {"error": str(outcome), "exit_code": outcome.exit_code}
            print_object({"file": file, **error})
        return False
    if options.json:
        values = result_object(outcome, [file], options.model, token_ids=options.token_ids)
        print_object({"file": file, **values})
    else:
        print(f"==> {file} <==\n{outcome.text}\n", flush=True)
    if options.verbose:
        say_costs(outcome)
    return True


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)
