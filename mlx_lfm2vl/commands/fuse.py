"""The `fuse` command: merge an adapter into its checkpoint.

Exit codes: 0 written, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .common import add_adapter_option, add_model_options, run_command
from .parser import Parser

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
    add(
        "--dequantize",
        action="store_true",
        help="leave merged layers of a quantized checkpoint unquantized",
    )
    add("--overwrite", action="store_true", help="replace an existing --output")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _fuse, arguments)


def _fuse(options: argparse.Namespace) -> int:
    from ..adapters.apply import apply_adapters
    from ..adapters.choice import find_adapters
    from ..checkpoint.find import find_checkpoint
    from ..loading import load
    from ..saving import save_checkpoint
    from ..training.adapters import fuse_adapter
    from ..whole_folder import check_target

    target = options.output if options.output.name else options.output.resolve()
    adapters = find_adapters(options.adapter)
    folders = [folder for folder, _ in adapters]
    check_target(target, overwrite=options.overwrite, keep=folders)
    source = find_checkpoint(options.model, options.revision)
    check_target(target, overwrite=options.overwrite, keep=[source])
    model, _ = load(source, dtype=options.dtype)
    apply_adapters(model, adapters, options.model)
    fuse_adapter(model, dequantize=options.dequantize)
    save_checkpoint(model, source, target, overwrite=options.overwrite)
    print(f"wrote {target}", file=sys.stderr)
    return 0
