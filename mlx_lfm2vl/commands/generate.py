"""The `generate` command: answer a prompt on stdout; everything else goes to stderr.

Exit codes: 0 answered, 1 failed, 2 wrong use or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import InputError
from ..options import SAMPLING_KEYS, AnswerOptions, ImageOptions, Sampling
from .common import add_model_options, run_command

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..device import Limits
    from ..generation.answer import Result
    from ..images.geometry import ImagePlan
    from ..images.source import ImageLimits, ImageSource
    from ..model.lfm2vl import Lfm2VL

EPILOG = """\
exit codes: 0 answered, 1 failed, 2 wrong use or bad input, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx_lfm2vl generate",
        description="Answer a prompt about images with an LFM2-VL model. "
        "The answer goes to stdout, everything else to stderr.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_model_options(parser)
    add("--adapter", type=Path, metavar="DIR", help="folder that `train` wrote for this checkpoint")
    add("--prompt", help="your question or instruction; - reads it from stdin")
    add("--system", help="system message; default: none")
    image = parser.add_argument_group("images (most defaults are the checkpoint's settings)")
    add = image.add_argument
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="one or more images, all in one prompt; - reads stdin; demo is a built-in picture, "
        "unless there is a file of that name",
    )
    add("--allow-url", action="store_true", help="let --image fetch http and https URLs")
    add("--min-image-tokens", type=int, metavar="N", help="enlarge images with fewer tokens")
    add(
        "--max-image-tokens",
        type=int,
        metavar="N",
        help="most tokens per view; a larger image is shrunk or split into tiles",
    )
    add(
        "--image-splitting",
        action=argparse.BooleanOptionalAction,
        dest="do_image_splitting",
        help="split large images into tiles",
    )
    add("--min-tiles", type=int, metavar="N", help="fewest tiles of an image that is split")
    add("--max-tiles", type=int, metavar="N", help="most tiles of an image; fewer are faster")
    add(
        "--thumbnail",
        action=argparse.BooleanOptionalAction,
        dest="use_thumbnail",
        help="also show the model a small copy of an image that is split",
    )
    add(
        "--jpeg-draft",
        action=argparse.BooleanOptionalAction,
        help="decode a JPEG at 1/2, 1/4 or 1/8 of its size if the model needs no more: several "
        "times faster for huge ones, and pixel values differ by about 0.5 of 255; default: yes",
    )
    add(
        "--max-megapixels",
        type=float,
        default=200,
        metavar="N",
        help="reject images with more megapixels; default: 200",
    )
    answer = parser.add_argument_group("answer (sampling defaults to the checkpoint's settings)")
    add = answer.add_argument
    add("--max-tokens", type=int, default=512, metavar="N", help="longest answer; default: 512")
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="randomness of the answer; 0 always takes the most likely token",
    )
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the most likely tokens whose probabilities add up to P; 1 is off",
    )
    add("--top-k", type=int, metavar="K", help="draw from the K most likely tokens; 0 is off")
    add(
        "--min-p",
        type=float,
        metavar="P",
        help="exclude tokens less likely than P times the most likely one; 0 is off",
    )
    add(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="make tokens less likely that occurred before; 1 is off",
    )
    add("--seed", type=int, metavar="N", help="seed that makes a random answer repeatable")
    add(
        "--lookup",
        type=int,
        default=0,
        metavar="N",
        help="copy up to N tokens from where the text repeats and verify them in one step; needs "
        "--temperature 0 --repetition-penalty 1; default: 0 (off)",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; can be repeated",
    )
    device = parser.add_argument_group("GPU memory (the defaults depend on the Mac's memory)")
    add = device.add_argument
    add("--cache-limit", type=float, metavar="GB", help="most freed memory to keep for reuse")
    add("--wired-limit", type=float, metavar="GB", help="most memory to protect from paging out")
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--json", action="store_true", help="print one JSON object instead of the text")
    add("--plan", action="store_true", help="print how many tokens the images take, and stop")
    add("--verbose", action="store_true", help="print settings and speed on stderr")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(
        build_parser(),
        lambda options: _plan(options) if options.plan else _answer(options),
        arguments,
    )


def _image_options(options: argparse.Namespace) -> ImageOptions:
    return ImageOptions(**{f.name: getattr(options, f.name) for f in fields(ImageOptions)})


def _limits(options: argparse.Namespace) -> ImageLimits:
    from ..images.source import ImageLimits

    if not 0 < options.max_megapixels < 1e6:
        raise InputError(
            f"--max-megapixels is {options.max_megapixels}, expected more than 0 and less than 1e6"
        )
    return ImageLimits(max_pixels=int(options.max_megapixels * 1e6), allow_url=options.allow_url)


def _sources(options: argparse.Namespace, limits: ImageLimits) -> list[ImageSource]:
    """The user's images: each file and pipe is read here, once; `demo` is the built-in picture."""
    from ..checkpoint.find import find_image
    from ..images.read import read_once

    if options.image.count("-") + (options.prompt == "-") > 1:
        raise InputError("stdin (-) can be used only once")
    return [
        _stdin().buffer.read(limits.max_bytes + 1)
        if source == "-"
        else read_once(find_image(source), limits)
        for source in options.image
    ]


def _stdin() -> TextIO:
    if sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to read for -")
    return sys.stdin


def _read_prompt() -> str:
    try:
        return _stdin().buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt on standard input is not UTF-8: {error}") from None


def _answer_options(options: argparse.Namespace) -> AnswerOptions:
    """The options of the answer, checked before anything is loaded."""
    answer = AnswerOptions(
        max_tokens=options.max_tokens,
        stop=options.stop,
        **{name: getattr(options, name) for name in SAMPLING_KEYS},
        seed=options.seed,
        image_options=_image_options(options),
        lookup=options.lookup,
    )
    for name in ("cache_limit", "wired_limit"):
        size = getattr(options, name)
        if size is not None and not 0 <= size < 1e4:
            raise InputError(
                f"--{name.replace('_', '-')} is {size}, expected 0 or more and less than 10000 GB"
            )
    if options.lookup:
        from ..checkpoint.config import read_model_config
        from ..checkpoint.find import find_checkpoint

        answer.sampling_over(Sampling())  # finds what no checkpoint allows, without a download

        folder = find_checkpoint(options.model, options.revision, with_weights=False)
        answer.sampling_over(read_model_config(folder).sampling)
    return answer


def _check_images(sources: Sequence[ImageSource], limits: ImageLimits) -> None:
    """Find bad images before a checkpoint is downloaded or loaded."""
    from ..images.source import is_url, open_image

    for source in sources:
        if limits.allow_url and is_url(source):
            continue  # fetched only once, later
        open_image(source, limits)


def _warn_of_photos(sources: Sequence[ImageSource], limits: ImageLimits) -> None:
    """Say, once, what the demo model knows if it is asked about what looks like a photo."""
    from ..images.photo import looks_like_photo
    from ..images.source import is_url, open_image

    files = [source for source in sources if not is_url(source)]
    if any(looks_like_photo(open_image(source, limits).decode()) for source in files):
        _say(
            "note: the demo model knows drawn shapes and printed capitals, nothing else; "
            "for photos use --model LiquidAI/LFM2.5-VL-450M"
        )


def _plan(options: argparse.Namespace) -> int:
    from ..checkpoint.config import read_model_config
    from ..checkpoint.find import find_checkpoint
    from ..images.geometry import plan_image
    from ..images.source import open_image
    from ..prompt.processor import load_image_config

    if not options.image:
        raise InputError("--plan needs at least one --image")
    limits = _limits(options)
    sources = _sources(options, limits)
    folder = find_checkpoint(options.model, options.revision, with_weights=False)
    read_model_config(folder)  # rejects other models
    config = load_image_config(folder).with_options(_image_options(options))
    plans = [plan_image(*open_image(source, limits).size, config) for source in sources]
    if options.json:
        total = sum(plan.image_tokens for plan in plans)
        print(json.dumps({"images": [plan.to_dict() for plan in plans], "image_tokens": total}))
        return 0
    for name, plan in zip(options.image, plans, strict=True):
        height, width = plan.size
        print(f"{name}: {width} x {height} pixels, {_views(plan)}, {plan.image_tokens} tokens")
    return 0


def _views(plan: ImagePlan) -> str:
    rows, columns = plan.grid
    height, width = plan.canvas
    if rows * columns == 1:
        return f"1 view of {width} x {height}"
    text = f"{columns} x {rows} tiles of {width // columns} x {height // rows}"
    if plan.thumbnail:
        text += f" + thumbnail of {plan.thumbnail[1]} x {plan.thumbnail[0]}"
    return text


def _answer(options: argparse.Namespace) -> int:
    if options.prompt is None:
        raise InputError("--prompt is missing (only --plan works without it)")
    limits = _limits(options)
    sources = _sources(options, limits)
    prompt = _read_prompt() if options.prompt == "-" else options.prompt
    answer = _answer_options(options)
    _check_images(sources, limits)
    if options.model == "demo":
        _warn_of_photos(sources, limits)

    from ..generation.engine import Engine
    from ..loading import load
    from ..prompt.messages import user_message

    model, processor = load(
        options.model, revision=options.revision, dtype=options.dtype, limits=limits
    )
    if options.adapter:
        from ..training.adapters import load_adapter

        load_adapter(model, options.adapter)
    engine = Engine(model, processor)
    chosen = engine.limit_memory(_bytes(options.cache_limit), _bytes(options.wired_limit))
    if options.verbose:
        _say(f"sampling: {_settings(answer.sampling_over(model.config.sampling))}")
        _say(f"device: {_device(model, chosen)}")
    pieces = engine.stream(user_message(prompt, sources, options.system), answer)
    text, token_ids, result = "", [], None
    try:
        for piece in pieces:
            text += piece.text
            token_ids += piece.token_ids
            result = piece.result
            if not options.json:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        if options.json:
            partial = {"text": text, "token_ids": token_ids, "finish_reason": "interrupted"}
            print(json.dumps({**partial, "model": options.model}, ensure_ascii=False))
        else:
            print(flush=True)
        return 130
    assert result is not None
    if options.json:
        print(json.dumps({**result.to_dict(), "model": options.model}, ensure_ascii=False))
    else:
        print(flush=True)
    if options.verbose:
        _report(result)
    return 0


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


def _device(model: Lfm2VL, limits: Limits) -> str:
    """The number types and memory limits in use, for --verbose."""
    import mlx.core as mx

    from ..arrays import dtype_name, named_arrays

    arrays = named_arrays(model.parameters()).values()
    floats = {dtype_name(x.dtype) for x in arrays if mx.issubdtype(x.dtype, mx.floating)}
    sizes = [
        f"{name} limit {'MLX default' if size is None else f'{size / 1e9:.1f} GB'}"
        for name, size in asdict(limits).items()
    ]
    ops = os.environ.get("MLX_MAX_OPS_PER_BUFFER", "MLX default")
    return ", ".join([" and ".join(sorted(floats)), *sizes, f"operations per buffer {ops}"])


def _settings(sampling: Sampling) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in asdict(sampling).items()
    )


def _report(result: Result) -> None:
    for plan in result.images:
        height, width = plan.size
        _say(f"image: {width} x {height} pixels, {_views(plan)}, {plan.image_tokens} tokens")
    timings = result.timings
    _say(
        f"prompt: {result.prompt_tokens} tokens ({result.image_tokens} of images), "
        f"prepared in {timings.prepare:.2f} s, first token after {timings.first_token:.2f} s"
    )
    _say(
        f"answer: {len(result.token_ids)} tokens, {result.tokens_per_second:.1f} tokens/s, "
        f"ended by {result.finish_reason}, seed {result.seed}"
    )
    if result.drafted_tokens:
        _say(f"lookup: {result.accepted_tokens} of {result.drafted_tokens} copied tokens accepted")
    _say(f"peak memory: {result.peak_memory_bytes / 1e9:.2f} GB")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
