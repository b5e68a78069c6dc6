"""A loaded engine, and the options of its answers, from a command's arguments."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, cast

from ..checkpoint.aliases import DEMO
from ..errors import InputError
from ..images.limits import ImageLimits
from ..options import SAMPLING_KEYS, AnswerOptions
from .answer_output import describe_device, describe_sampling, say
from .common import stage
from .draft_options import check_draft_model, check_draft_options, load_draft_model
from .image_options import chosen_image_options, chosen_max_pixels
from .resident_options import check_resident_options, open_resident

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.engine import Engine
    from ..generation.prefix_store import PrefixStore

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def image_limits(options: argparse.Namespace) -> ImageLimits:
    """The limits on images that were given."""
    return ImageLimits(max_pixels=chosen_max_pixels(options), allow_url=options.allow_url)


def answer_options(options: argparse.Namespace) -> AnswerOptions:
    """The options of an answer, checked before anything is loaded."""
    check_draft_options(options)
    return AnswerOptions(
        max_tokens=options.max_tokens,
        stop=[unescaped(text) for text in options.stop],
        **{name: getattr(options, name) for name in SAMPLING_KEYS},
        seed=options.seed,
        image_options=chosen_image_options(options),
        special_tokens=options.special_tokens,
        lookup=options.lookup,
        draft_tokens=options.draft_tokens,
        kv_bits=options.kv_bits,
    )


def check_memory_options(options: argparse.Namespace) -> None:
    """Refuse memory limits that nobody can mean, and those of another process."""
    check_resident_options(options)
    for name in ("cache_limit", "wired_limit"):
        size = getattr(options, name)
        if size is not None and not 0 <= size < 1e4:
            raise InputError(
                f"--{name.replace('_', '-')} is {size}, expected 0 or more and less than 10000 GB"
            )


def unescaped(text: str) -> str:
    r"""Return a text with `\n`, `\t`, `\r` and `\\` replaced; other backslashes stay."""
    return re.sub(r"\\([ntr\\])", lambda match: ESCAPES[match[1]], text)


def open_engine(
    options: argparse.Namespace,
    limits: ImageLimits,
    answer: AnswerOptions,
    store: PrefixStore | None = None,
) -> Engine:
    """Load the model that was chosen, and set the memory limits; or find who has it loaded."""
    if options.resident:
        with stage(f"loading {options.model}"):
            remote = open_resident(options, limits)
        if options.verbose:
            sampling = answer.sampling_over(remote.model.config.sampling)
            say(f"sampling: {describe_sampling(sampling)}")
        return cast("Engine", remote)  # it has what commands use of an engine
    with stage(f"loading {options.model}"):
        check_draft_model(options)
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
        drafter = load_draft_model(options, model)
    if options.model == DEMO:
        from ..images.photo import note_photo

        processor.look = note_photo
    engine = Engine(model, processor, store=store, drafter=drafter)
    chosen = engine.limit_memory(_bytes(options.cache_limit), _bytes(options.wired_limit))
    if options.verbose:
        say(f"sampling: {describe_sampling(answer.sampling_over(model.config.sampling))}")
        say(f"device: {describe_device(model, chosen)}")
    return engine


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)
