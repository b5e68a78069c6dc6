"""The `benchmark` command: measure where the time goes on this machine, and its limits.

Exit codes: 0 measured, 1 failed, 2 wrong use or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError
from ..whole_folder import check_file
from .benchmark_drafts import describe, measure_drafts
from .common import add_model_options, progress_line, run_command
from .draft_options import add_draft_options, check_draft_model, check_draft_options
from .parser import Parser

if TYPE_CHECKING:
    from ..speed.drafts import DraftSpeed
    from ..speed.peer import Peer, PeerImage
    from ..speed.plot import Group
    from ..speed.stages import Device, ImageSpeed

logger = logging.getLogger(__name__)

ROWS = (
    "pixels",
    "views",
    "prompt tokens",
    "image preparation, ms",
    "tower and connector, ms",
    "prefill, ms",
    "first token, ms",
    "decode, tokens/s",
    "read per token, MB",
    "of the bandwidth, %",
    "peak memory, MB",
)
EPILOG = """\
examples:
  mlx_lfm2vl benchmark -m 450m
  mlx_lfm2vl benchmark -m 450m --image photo.jpg --plot stages.png
  mlx_lfm2vl benchmark -m 450m --tokens 128 --json

compare with mlx-vlm: --compare PYTHON, the Python of its environment
"""


@dataclass(frozen=True)
class Report:
    """All measurements.

    Attributes:
        model: the user's name for it.
        tokens: number of tokens decoded per image after the first one.
        repeats: number of runs, of which the best counts.
        load_seconds: time from files to a model that is ready.
        device: what the device achieves.
        images: name of an image -> its measurements.
        peer: mlx-vlm on the same images, or None.
        drafts: name of an image -> what the draft model gains; empty without one.
    """

    model: str
    tokens: int
    repeats: int
    load_seconds: float
    device: Device
    images: dict[str, ImageSpeed]
    peer: Peer | None
    drafts: dict[str, DraftSpeed]


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl benchmark",
        description="Measure this machine and each stage from an image to its answer.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add_model_options(parser)
    add(
        "-i",
        "--image",
        metavar="FILE",
        help="image to measure; default: a small and a large picture",
    )
    add("--tokens", type=int, default=64, metavar="N", help="tokens to decode; default: 64")
    add(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="runs per image, of which the best counts; default: 3",
    )
    add(
        "--compare",
        metavar="PYTHON",
        help="also measure mlx-vlm, in the Python that has it installed",
    )
    add_draft_options(parser)
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--plot", type=Path, metavar="FILE.png", help="also draw a chart of where the time goes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> int:
    _check_early(options)
    with tempfile.TemporaryDirectory() as folder:
        report = _measure(options, Path(folder))
    if options.json:
        print(json.dumps(_as_json(report), ensure_ascii=False))
    else:
        print(_table(report))
    if any(speed.bandwidth_percent(report.device) > 100 for speed in report.images.values()):
        logger.warning("decoding exceeds the measured bandwidth: a cache holds these weights")
    if options.plot:
        from ..drawing import dark_name, describe_origin
        from ..speed.plot import plot_stages

        origin = describe_origin(report.model, report.device.name)
        plot_stages(_groups(report), options.plot, origin)
        print(f"wrote {options.plot} and {dark_name(options.plot)}", file=sys.stderr)
    return 0


def _check_early(options: argparse.Namespace) -> None:
    """Find mistakes before a checkpoint is downloaded or loaded."""
    check_draft_options(options)
    for name in ("tokens", "repeats"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}, expected 1 or more")
    if options.plot and options.plot.suffix.lower() not in ("", ".png"):
        raise InputError(f"--plot {options.plot}: expected a name that ends in .png")
    if options.plot:
        check_file(options.plot)
    if options.image:
        from ..checkpoint.find import find_image
        from ..images.source import ImageLimits, open_image

        open_image(find_image(options.image), ImageLimits())


def _measure(options: argparse.Namespace, folder: Path) -> Report:
    """Measure mlx-vlm if requested, then our package, so that memory holds one of them at a time.

    Args:
        options: the command's.
        folder: where to write pictures if the user gives none.
    """
    from ..checkpoint.find import find_checkpoint
    from ..speed.peer import find_peer

    program = find_peer(options.compare) if options.compare else None
    source = find_checkpoint(options.model, options.revision, update=options.update)
    images = _images(options.image, source, folder)

    from ..speed.stages import measure_device, measure_image, timed_load

    check_draft_model(options)

    peer = _measure_peer(program, source, images, options) if program else None
    model, processor, load_seconds = timed_load(source, options.dtype)
    device = measure_device(model)
    speeds = {
        name: measure_image(
            model,
            processor,
            path,
            tokens=options.tokens,
            repeats=options.repeats,
            report=progress_line(f"measuring {name}"),
        )
        for name, path in images.items()
    }
    drafts = measure_drafts(options, model, processor, images)
    return Report(
        model=options.model,
        tokens=options.tokens,
        repeats=options.repeats,
        load_seconds=load_seconds,
        device=device,
        images=speeds,
        peer=peer,
        drafts=drafts,
    )


def _images(given: str | None, source: Path, folder: Path) -> dict[str, Path]:
    """The user's image, or JPEG pictures of the sizes that matter for this checkpoint."""
    from PIL import Image

    from ..checkpoint.find import DEMO, find_image
    from ..checkpoint.image_config import load_image_config
    from ..speed.stages import sample_sizes

    if given:
        path = Path(find_image(given))
        return {path.name: path}
    images = {}
    with Image.open(find_image(DEMO)) as picture:
        for name, (height, width) in sample_sizes(load_image_config(source)).items():
            images[name] = folder / f"{name}.jpg"
            picture.resize((width, height)).save(images[name], quality=90)
    return images


def _measure_peer(
    program: str, source: Path, images: dict[str, Path], options: argparse.Namespace
) -> Peer:
    from ..speed.peer import measure_peer
    from ..speed.stages import PROMPT

    progress = progress_line("measuring mlx-vlm")
    progress(0, 1)
    peer = measure_peer(
        program,
        source,
        list(images.values()),
        prompt=PROMPT,
        tokens=options.tokens,
        repeats=options.repeats,
    )
    progress(1, 1)
    return peer


def _as_json(report: Report) -> dict[str, Any]:
    images = [
        {
            "name": name,
            **asdict(speed),
            "bandwidth_percent": speed.bandwidth_percent(report.device),
        }
        for name, speed in report.images.items()
    ]
    peer = {"mlx_vlm": asdict(report.peer)} if report.peer else {}
    drafts = [
        {"name": name, **asdict(speed), "gain": speed.gain} for name, speed in report.drafts.items()
    ]
    return {
        "model": report.model,
        "version": __version__,
        "tokens": report.tokens,
        "repeats": report.repeats,
        "device": asdict(report.device),
        "load_seconds": report.load_seconds,
        "images": images,
        **peer,
        **({"drafts": drafts} if drafts else {}),
    }


def _table(report: Report) -> str:
    """Lines about the device, then a table with one column per image and program."""
    device, peer = report.device, report.peer
    lines = [
        f"{report.model} in {device.dtype} on {device.name}, loaded in {report.load_seconds:.2f} s",
        f"matrix x vector: {_digits(device.bytes_per_second / 1e9)} GB/s",
        f"matrix x matrix: {_digits(device.flops_per_second / 1e12)} TFLOP/s",
    ]
    if peer:
        loaded = f"{peer.dtype}, loaded in {peer.load_seconds:.2f} s"
        lines.append(f"mlx-vlm {peer.version} in {loaded}")
    columns = [["", *ROWS]]
    for number, (name, speed) in enumerate(report.images.items()):
        columns.append([name, *_column(speed, device)])
        if peer:
            columns.append(["mlx-vlm", *_peer_column(peer.images[number])])
    widths = [max(map(len, column)) for column in columns]
    lines.append("")
    for label, *cells in zip(*columns, strict=True):
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([f"{label:{widths[0]}}", *padded]).rstrip())
    lines += [describe(name, speed) for name, speed in report.drafts.items()]
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Show a measured number with two digits or all before the point: "2,500", "46", "3.2"."""
    decimals = 0 if value >= 9.95 else 1 if value >= 0.995 else 2
    return f"{value:,.{decimals}f}"


def _column(speed: ImageSpeed, device: Device) -> list[str]:
    """The cells of our column, in the order of ROWS."""
    height, width = speed.size
    stages = (
        speed.prepare_seconds,
        speed.encode_seconds,
        speed.prefill_seconds,
        speed.first_token_seconds,
    )
    return [
        f"{width} x {height}",
        str(speed.views),
        f"{speed.prompt_tokens:,}",
        *(_digits(1000 * seconds) for seconds in stages),
        _digits(speed.tokens_per_second),
        _digits(speed.bytes_per_token / 1e6),
        f"{speed.bandwidth_percent(device):.0f}",
        f"{speed.peak_memory_bytes / 1e6:,.0f}",
    ]


def _peer_column(image: PeerImage) -> list[str]:
    """The cells of mlx-vlm's column, empty for what cannot be measured from outside."""
    return [
        "",
        str(image.views),
        f"{image.prompt_tokens:,}",
        _digits(1000 * image.prepare_seconds),
        _digits(1000 * image.encode_seconds),
        "",
        _digits(1000 * image.first_token_seconds),
        _digits(image.tokens_per_second),
        "",
        "",
        f"{image.peak_memory_bytes / 1e6:,.0f}",
    ]


def _groups(report: Report) -> list[Group]:
    """The bars of every image: the first token and its stages, then the remaining tokens."""
    from ..speed.plot import Bar, Group

    groups = []
    for number, (name, speed) in enumerate(report.images.items()):
        peer = report.peer.images[number] if report.peer else None
        tokens, prepare, encode = report.tokens, speed.prepare_seconds, speed.encode_seconds
        bars = [
            Bar("first token", speed.first_token_seconds, peer and peer.first_token_seconds),
            Bar("image preparation", prepare, peer and peer.prepare_seconds, is_part=True),
            Bar("tower and connector", encode, peer and peer.encode_seconds, is_part=True),
            Bar("prefill", speed.prefill_seconds, is_part=True),
            Bar(
                f"{tokens} more tokens",
                tokens / speed.tokens_per_second,
                peer and tokens / peer.tokens_per_second,
            ),
        ]
        height, width = speed.size
        views = "1 view" if speed.views == 1 else f"{speed.views} views"
        title = f"{name}: {width} x {height} pixels, {views}"
        groups.append(Group(f"{title}, {speed.prompt_tokens:,} prompt tokens", bars))
    return groups
