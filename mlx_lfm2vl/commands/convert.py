"""The `convert` command: write a checkpoint quantized, dequantized, cast or in another layout.

Exit codes: 0 written, 1 failed (broken checkpoint, no network), 2 wrong use or disk full, 130
interrupted (nothing is left behind).
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.names import LAYOUTS
from ..checkpoint.packing import MODES
from ..errors import InputError
from ..quantize.choice import RECIPES, QuantizeOptions
from .common import LAYOUT_HELP, MODEL_HELP, UPDATE_HELP, progress_line, run_command
from .parser import Parser

if TYPE_CHECKING:
    from ..quantize.conversion import Conversion, ConvertOptions

logger = logging.getLogger(__name__)

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
EPILOG = """\
examples:
  mlx_lfm2vl convert -m 450m --bits 4
  mlx_lfm2vl convert -m 450m --bits 4 --vision-bits 8 --output small
  mlx_lfm2vl convert -m 450m --bits 4 --calibration photos --output mine
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl convert",
        description="Write a checkpoint quantized, dequantized, cast or in another layout.\n"
        "Its model card and quantization_report.json say how much quality was lost.",
        epilog=EPILOG,
    )
    add = parser.add_argument_group("model and output").add_argument
    add("-m", "--model", "--hf-path", metavar="MODEL", help=MODEL_HELP)
    add("--revision", help="branch, tag or commit of the Hub repo; default: its main branch")
    add("--update", action="store_true", help=UPDATE_HELP)
    add(
        "--output",
        "--mlx-path",
        type=Path,
        metavar="DIR",
        help="folder to write; default: the model's name and what was done, such as NAME-4bit",
    )
    add("--overwrite", action="store_true", help="replace an existing --output")
    add("--upload-repo", metavar="REPO", help="also publish the result in this Hub repo")
    add("--text-only", action="store_true", help="write only the decoder, for mlx-lm")
    add("--layout", choices=LAYOUTS, default="mlx", help=LAYOUT_HELP)
    add(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="largest size of a weight file, as in 500MB; default: 5GB",
    )
    add = parser.add_argument_group("weights").add_argument
    add("-q", "--quantize", action="store_true", help="quantize the decoder to 4 bits")
    add(
        "--bits",
        "--q-bits",
        type=int,
        metavar="N",
        help="bits per decoder weight: 2, 3, 4, 5, 6 or 8; default: do not quantize",
    )
    add(
        "--group-size",
        "--q-group-size",
        type=int,
        metavar="N",
        help="number of weights that share a scale: 32, 64 or 128; default: the largest that fits",
    )
    add(
        "--mode",
        "--q-mode",
        choices=tuple(MODES),
        default="affine",
        help="quantization format of MLX; default: affine",
    )
    add(
        "--recipe",
        "--quant-predicate",
        choices=tuple(RECIPES),
        metavar="RECIPE",
        help=f"of {', '.join(RECIPES)}: the first number of bits for most layers, the second for "
        "the head and the most sensitive layers",
    )
    add(
        "--embed-bits",
        type=int,
        metavar="N",
        help="bits of the embedding, which is also the output head; default: --bits",
    )
    add(
        "--vision-bits",
        type=int,
        metavar="N",
        help="bits of the vision tower; default: do not quantize it",
    )
    add(
        "--connector-bits",
        "--projector-bits",
        type=int,
        metavar="N",
        help="bits of the connector between tower and decoder; default: do not quantize it",
    )
    add(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="type of all weights that are not quantized; default: the checkpoint's",
    )
    add("-d", "--dequantize", action="store_true", help="turn quantized weights into plain ones")
    add = parser.add_argument_group("quality").add_argument
    add(
        "--learned",
        action="store_true",
        help="choose the rounding that changes the outputs on sample prompts least",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="your images, or conversations as `train` reads them, for --report and --learned; "
        "default: a few drawn pictures",
    )
    add(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the result with the source model; default: yes",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _convert, arguments)


def _convert(options: argparse.Namespace) -> int:
    asked = QuantizeOptions(
        bits=_bits(options),
        group_size=options.group_size,
        mode=options.mode,
        embed_bits=options.embed_bits,
        vision_bits=options.vision_bits,
        connector_bits=options.connector_bits,
        recipe=options.recipe,
    )
    _check_usable(options, asked)
    max_shard_bytes = parse_size(options.max_shard_size)

    from ..checkpoint.drafter_config import is_drafter
    from ..checkpoint.find import find_checkpoint
    from ..checkpoint.json_file import read_optional_json
    from ..quantize.conversion import Conversion, ConvertOptions
    from ..quantize.loss_report import compare_converted, quantization_report
    from ..quantize.model_card import write_model_card
    from ..quantize.study import Study, study_source
    from ..saving import REPORT
    from ..whole_folder import check_target

    target = options.output or Path(default_name(options, asked))
    target = target if target.name else target.resolve()
    needed = [options.calibration] if options.calibration else []
    check_target(target, overwrite=options.overwrite, keep=needed)
    source = find_checkpoint(options.model, options.revision, update=options.update)
    check_target(target, overwrite=options.overwrite, keep=[source])
    settings = ConvertOptions(
        quantize=asked,
        dtype=options.dtype,
        dequantize=options.dequantize,
        text_only=options.text_only,
        layout=options.layout,
        max_shard_bytes=max_shard_bytes,
        overwrite=options.overwrite,
    )
    if is_drafter(read_optional_json(source / "config.json")):
        return _convert_drafter(source, target, settings, options)
    conversion = Conversion(source, settings, options.model)
    conversion.check_space(target)
    changes = bool(conversion.plan.schemes or options.dtype or options.dequantize)
    compares = options.report and changes and not options.text_only
    if not changes and not options.text_only and options.layout == "mlx":
        logger.warning("nothing to quantize or cast: this writes a copy; --bits 4 makes it smaller")
    if options.learned:
        _check_learnable(conversion)
    study = Study()
    if compares or options.learned:
        study = study_source(
            conversion,
            options.calibration,
            compares=compares,
            learns=options.learned,
            reading=progress_line("reading the source"),
            learning=progress_line("learning"),
        )

    def finish(folder: Path) -> None:
        """Measure the new checkpoint and write its report and card, before it gets its name."""
        images = f"the images in {options.calibration.name}" if needed else "drawn images"
        report = quantization_report(
            conversion.plan,
            source=options.model if not Path(options.model).exists() else Path(options.model).name,
            output=target,
            upload=options.upload_repo,
            text_only=options.text_only,
            learned=bool(study.learned),
            samples=f"{len(study.samples)} prompts about {images}",
            layout=options.layout,
        )
        if compares:
            progress = progress_line("comparing")
            try:
                report |= compare_converted(folder, study.samples, study.observed, progress)
            except (RuntimeError, MemoryError) as error:  # out of memory; the weights are fine
                logger.warning("not compared with the source: %s", error)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        write_model_card(folder, source, report)
        _summarize(report, target)

    written = progress_line("writing")
    conversion.write(target, learned=study.learned, report=written, finish=finish)
    if options.upload_repo:
        from ..checkpoint.publish import publish

        print(publish(target, options.upload_repo), file=sys.stderr)
    return 0


def _convert_drafter(
    source: Path, target: Path, settings: "ConvertOptions", options: argparse.Namespace
) -> int:
    """Write a drafter. What it loses is only how often it guesses right, which no report says."""
    from ..checkpoint.names import some
    from ..quantize.drafter import convert_drafter

    for name in ("learned", "calibration"):
        if getattr(options, name):
            raise InputError(f"--{name} does not apply to a drafter: remove it")
    if kept := convert_drafter(source, target, settings):
        logger.warning("unchanged, because a row is no whole number of groups: %s", some(kept))
    size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    print(f"{target}: {size / 1e6:.1f} MB", file=sys.stderr)
    if options.upload_repo:
        from ..checkpoint.publish import publish

        print(publish(target, options.upload_repo), file=sys.stderr)
    return 0


def _bits(options: argparse.Namespace) -> int | None:
    """The decoder's bits: the user's, else the default of a mode the user chose, else None."""
    if options.bits is not None or options.recipe:
        return options.bits
    if options.mode != "affine":
        return MODES[options.mode][0][0]
    return 4 if options.quantize else None


def _check_usable(options: argparse.Namespace, asked: QuantizeOptions) -> None:
    """Reject options that would have no effect."""
    parts = options.vision_bits is not None or options.connector_bits is not None
    if options.text_only and parts:
        raise InputError(
            "--text-only drops the vision tower and connector: remove --vision-bits and "
            "--connector-bits"
        )
    if options.group_size is not None and not asked.quantizes:
        raise InputError("--group-size needs something to quantize: add --bits")
    if options.learned and not asked.quantizes:
        raise InputError("--learned needs something to quantize: add --bits")
    if options.calibration and not (options.report or options.learned):
        raise InputError("--calibration has no effect: remove --no-report, or add --learned")


def _check_learnable(conversion: "Conversion") -> None:
    from ..quantize.learned_rounding import learnable_paths

    if conversion.is_repacking:
        raise InputError("--learned needs a source that is not quantized: use --dequantize first")
    if not learnable_paths(conversion.model, conversion.plan.schemes):
        raise InputError(
            "--learned chooses the rounding of linear layers, and none is quantized: add --bits"
        )


def parse_size(text: str) -> int:
    """`"500MB"` -> 500,000,000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]B|)", text.upper())
    if not match:
        raise InputError(f"--max-shard-size {text!r}: expected a size such as 500MB or 5GB")
    return int(float(match[1]) * UNITS[match[2]])


def default_name(options: argparse.Namespace, asked: QuantizeOptions) -> str:
    """The new folder's name: the model's name and what was done to it."""
    name = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
    kind = asked.recipe or (options.mode if options.mode != "affine" else None)
    if kind is None:
        bits = asked.bits or asked.vision_bits or asked.embed_bits or asked.connector_bits
        kind = f"{bits}bit" if bits else options.dtype or options.layout
    return f"{name.split('/')[-1]}{'-text' if options.text_only else ''}-{kind}"


def _summarize(report: Mapping[str, Any], target: Path) -> None:
    total = report["sizes"]["all"]
    text = (
        f"{target}: {total['bytes'] / 1e6:.1f} MB, {total['bits_per_weight']:.2f} bits per weight"
    )
    print(text, file=sys.stderr)
    for path, reason in report["kept"].items():
        logger.warning("%s stays unchanged: %s", path, reason)
    if quality := report.get("quality"):
        answer, perplexity = quality["answer"], quality["perplexity"]["change"]
        text = f"answers compared with the source's: KL {answer['kl']:.4f}, same best token "
        text += f"{answer['agreement']:.1%}, perplexity {perplexity:+.1%}"
        print(text, file=sys.stderr)
    for sentence in report["warnings"]:
        logger.warning("%s", sentence)
