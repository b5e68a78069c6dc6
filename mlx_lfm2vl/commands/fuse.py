"""The `fuse` command: merge an adapter into its checkpoint.

Exit codes: 0 written, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.names import LAYOUTS
from ..errors import InputError
from .common import (
    LAYOUT_HELP,
    add_adapter_option,
    add_model_options,
    progress_line,
    run_command,
)
from .parser import Parser

if TYPE_CHECKING:
    from ..checkpoint.packing import Scheme
    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor

logger = logging.getLogger(__name__)

EPILOG = """\
examples:
  mlx_lfm2vl fuse -m 450m --adapter adapter --output merged
  mlx_lfm2vl fuse -m 450m --adapter adapter --output merged --overwrite
  mlx_lfm2vl fuse -m 450m --adapter adapter --output whole --dtype bfloat16
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl fuse",
        usage="mlx_lfm2vl fuse --adapter DIR --output DIR [options]",
        description="Merge an adapter into a new checkpoint.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add_model_options(parser)
    add_adapter_option(parser, required=True)
    add("--output", required=True, type=Path, metavar="DIR", help="checkpoint folder to write")
    add("--layout", choices=LAYOUTS, default="mlx", help=LAYOUT_HELP)
    add("--overwrite", action="store_true", help="replace an existing --output")
    add = parser.add_argument_group("quantized checkpoints").add_argument
    add(
        "--dequantize",
        action="store_true",
        help="leave merged layers unquantized, with --layout hub all layers",
    )
    add(
        "--learned",
        action="store_true",
        help="quantize merged layers again by the rounding that changes their outputs least",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="your images, or conversations as `train` reads them, for --learned and to measure "
        "what merging loses; default: a few drawn pictures",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _fuse, arguments)


def _fuse(options: argparse.Namespace) -> int:
    if options.learned and options.dequantize:
        raise InputError("--learned quantizes what --dequantize does not: remove one of the two")

    from ..adapters.apply import apply_adapters
    from ..adapters.choice import find_adapters
    from ..checkpoint.find import find_checkpoint
    from ..checkpoint.tensors import weight_files
    from ..disk_space import check_space
    from ..loading import load
    from ..saving import save_checkpoint
    from ..training.adapters import fuse_adapter, quantized_bases
    from ..whole_folder import check_target

    target = options.output if options.output.name else options.output.resolve()
    adapters = find_adapters(options.adapter)
    needed = [folder for folder, _ in adapters]
    needed += [options.calibration] if options.calibration else []
    check_target(target, overwrite=options.overwrite, keep=needed)
    source = find_checkpoint(options.model, options.revision, update=options.update)
    check_target(target, overwrite=options.overwrite, keep=[source])
    if options.dtype is None and not options.dequantize:  # before the work, as far as it is known
        check_space(target, sum(path.stat().st_size for path in weight_files(source)))
    model, processor = load(source, dtype=options.dtype)
    _check_layout(options, model)
    apply_adapters(model, adapters, options.model)
    schemes = quantized_bases(model)
    if not schemes and (options.learned or options.calibration):
        raise InputError(
            "--learned and --calibration are for an adapter on quantized layers: remove them"
        )
    if schemes and not options.dequantize:
        _fuse_quantized(options, model, processor, schemes)
    else:
        fuse_adapter(model, dequantize=options.dequantize)
    save_checkpoint(model, source, target, overwrite=options.overwrite, layout=options.layout)
    print(f"wrote {target}", file=sys.stderr)
    return 0


def _check_layout(options: argparse.Namespace, model: Lfm2VL) -> None:
    from ..arrays import named_arrays

    is_quantized = any(name.endswith(".scales") for name in named_arrays(model.parameters()))
    if options.layout == "hub" and is_quantized and not options.dequantize:
        raise InputError(
            "--layout hub: the checkpoint is quantized, and transformers cannot read weights that "
            "MLX has packed; add --dequantize"
        )


def _fuse_quantized(
    options: argparse.Namespace, model: Lfm2VL, processor: Processor, schemes: dict[str, Scheme]
) -> None:
    """Merge an adapter into quantized layers, in place, and say what that loses."""
    from ..quantize.merging import learn_merged, measure_merge, observe_answers
    from ..quantize.study import MAX_COMPARED, read_samples
    from ..training.adapters import fuse_adapter, without_adapter

    samples = read_samples(options.calibration, model, processor)
    compared = samples[:MAX_COMPARED]
    adapted = observe_answers(model, compared, progress_line("reading base and adapter"))
    with without_adapter(model):
        base = observe_answers(model, compared, progress_line("reading the base"))
    fuse_adapter(model, dequantize=options.learned)
    if options.learned:
        learn_merged(model, schemes, samples, report=progress_line("learning"))
    merged = observe_answers(model, compared, progress_line("comparing"))
    loss = measure_merge(adapted, base, merged)
    advice = "--dequantize keeps all of it"
    if not options.learned:
        advice += ", --learned most of it at the same size"
    elif not options.calibration:
        advice += ", --calibration with the rows it was trained on more of it"
    text = f"merging into quantized layers changes answers by KL {loss.lost:.4f}, the adapter by "
    print(f"{text}{loss.learnt:.4f} ({len(compared)} prompts): {advice}", file=sys.stderr)
    if loss.is_too_much:
        logger.warning(
            "little of the adapter is left: the merged model is %.4f from the base, and %.4f from "
            "base and adapter",
            loss.kept,
            loss.lost,
        )
