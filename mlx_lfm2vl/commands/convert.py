"""The `convert` command: a checkpoint becomes one in MLX layout, quantized as you like.

Exit codes: 0 written, 1 failed (broken checkpoint, no network), 2 wrong use or no room, 130
interrupted (nothing is left behind).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..checkpoint.packing import MODES, Scheme
from ..errors import InputError
from ..quantize.choice import RECIPES, QuantizeOptions
from .common import progress_line, run_command

if TYPE_CHECKING:
    import mlx.core as mx

    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor
    from ..quantize.conversion import Conversion
    from ..quantize.loss_report import Observation, Sample

logger = logging.getLogger(__name__)

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
MAX_SAMPLES = 128  # to learn from
MAX_COMPARED = 32  # each keeps some 30 MB of what the source computes
PICTURE_PROMPT = "Describe this image in detail."
EPILOG = """\
examples:
  convert --model LiquidAI/LFM2-VL-1.6B --bits 4
  convert --model LiquidAI/LFM2-VL-450M --bits 4 --vision-bits 8 --projector-bits 8
  convert --model LiquidAI/LFM2-VL-450M --bits 4 --learned --calibration my_photos
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx_lfm2vl convert",
        description="Write a checkpoint in MLX layout: quantized, dequantized or cast. Says what "
        "was lost, in the model card and in quantization_report.json.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    model_help = "checkpoint folder, Hub repo id, or demo: the tiny model in this package"
    add("--model", "--hf-path", required=True, metavar="DIR_OR_REPO", help=model_help)
    add("--revision", help="branch, tag or commit of the repo")
    add("--output", "--mlx-path", type=Path, metavar="DIR", help="default: the model's name-4bit")
    add("--overwrite", action="store_true", help="replace an existing --output")
    add("-q", "--quantize", action="store_true", help="the same as --bits 4")
    add("--bits", "--q-bits", type=int, help="of the decoder: 2, 3, 4, 5, 6 or 8")
    add(
        "--group-size",
        "--q-group-size",
        type=int,
        help="weights that share a scale: 32, 64 or 128; default: the largest that fits",
    )
    add("--mode", "--q-mode", choices=tuple(MODES), default="affine", help="default: affine")
    add(
        "--recipe",
        "--quant-predicate",
        choices=tuple(RECIPES),
        help="fewer bits, and more for values, down projections of some layers, and the head",
    )
    add("--embed-bits", type=int, help="of the embedding, which is the head, too; default: --bits")
    add("--vision-bits", type=int, help="of the vision tower; default: as it is")
    add(
        "--connector-bits", "--projector-bits", type=int, help="of the connector; default: as it is"
    )
    add("--dtype", choices=["float32", "float16", "bfloat16"], help="of what is not quantized")
    add("-d", "--dequantize", action="store_true", help="unpack a quantized checkpoint")
    add("--text-only", action="store_true", help="write the decoder alone, for mlx-lm")
    add("--max-shard-size", default="5GB", metavar="SIZE", help="500MB, 5GB, ...; default: 5GB")
    add(
        "--learned",
        action="store_true",
        help="round so that the outputs on sample images change least, instead of to nearest",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images, or conversations as `train` reads them, for the report and for --learned",
    )
    add(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare with the source; default: yes, on a few drawn pictures or --calibration",
    )
    add("--upload-repo", metavar="REPO", help="publish the result on the Hub, too")
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

    from ..checkpoint.find import find_checkpoint
    from ..quantize.conversion import Conversion, ConvertOptions
    from ..whole_folder import check_target

    target = options.output or Path(default_name(options, asked))
    target = target if target.name else target.resolve()
    needed = [options.calibration] if options.calibration else []
    check_target(target, overwrite=options.overwrite, keep=needed)
    source = find_checkpoint(options.model, options.revision)
    check_target(target, overwrite=options.overwrite, keep=[source])
    settings = ConvertOptions(
        quantize=asked,
        dtype=options.dtype,
        dequantize=options.dequantize,
        text_only=options.text_only,
        max_shard_bytes=max_shard_bytes,
        overwrite=options.overwrite,
    )
    conversion = Conversion(source, settings, options.model)
    conversion.check_space(target)
    schemes = {} if options.dequantize else conversion.plan.schemes
    changes = bool(schemes or options.dtype or options.dequantize)
    compares = options.report and changes and not options.text_only
    if options.learned:
        _check_learnable(conversion, schemes)
    samples: list[Sample] = []
    observed: list[Observation] = []
    learned: dict[str, tuple[mx.array, ...]] = {}
    if compares or options.learned:
        samples, observed, learned = _study(options, conversion, schemes, compares)

    def finish(folder: Path) -> None:
        """Measure the new checkpoint and write its card, before it gets its name."""
        from ..quantize.model_card import write_model_card
        from ..saving import REPORT

        report = _report(options, conversion, target, samples, bool(learned))
        if compares:
            try:
                report |= _compare(folder, samples[:MAX_COMPARED], observed)
            except (RuntimeError, MemoryError) as error:  # out of memory: the weights are good
                logger.warning("not compared with the source: %s", error)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        write_model_card(folder, source, report)
        _summarise(report, target)

    conversion.write(target, learned=learned, report=progress_line("writing"), finish=finish)
    if options.upload_repo:
        from ..checkpoint.publish import publish

        print(publish(target, options.upload_repo), file=sys.stderr)
    return 0


def _bits(options: argparse.Namespace) -> int | None:
    """Of the decoder: as said, or the mode's own where no number is given."""
    if options.bits is not None or options.recipe:
        return options.bits
    if options.mode != "affine":
        return MODES[options.mode][0][0]
    return 4 if options.quantize else None


def _check_usable(options: argparse.Namespace, asked: QuantizeOptions) -> None:
    """Refuse options that would do nothing, rather than to leave their user in the belief."""
    parts = options.vision_bits is not None or options.connector_bits is not None
    if options.text_only and parts:
        raise InputError("--text-only leaves out tower and connector: so do --vision-bits and such")
    if options.group_size is not None and not asked.quantizes:
        raise InputError("--group-size needs something to quantize: pass --bits")
    if options.learned and not asked.quantizes:
        raise InputError("--learned needs something to quantize: pass --bits")
    if options.calibration and not (options.report or options.learned):
        raise InputError("--calibration is for the report and for --learned: ask for one of them")


def _check_learnable(conversion: Conversion, schemes: Mapping[str, Scheme]) -> None:
    from ..quantize.learned_rounding import learnable_paths

    if conversion.is_repacking:
        raise InputError("--learned needs a source that is not quantized: --dequantize it first")
    if not learnable_paths(conversion.model, schemes):
        raise InputError(
            "--learned: no layer is quantized in affine mode, only that can be learned"
        )


def parse_size(text: str) -> int:
    """`"500MB"` -> 500,000,000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]B|)", text.upper())
    if not match:
        raise InputError(f"--max-shard-size {text!r}: expected a size such as 500MB or 5GB")
    return int(float(match[1]) * UNITS[match[2]])


def default_name(options: argparse.Namespace, asked: QuantizeOptions) -> str:
    """The new folder's name: the model's and what is done to it."""
    name = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
    kind = asked.recipe or (options.mode if options.mode != "affine" else None)
    if kind is None:
        bits = asked.bits or asked.vision_bits or asked.embed_bits or asked.connector_bits
        kind = f"{bits}bit" if bits else options.dtype or "mlx"
    return f"{name.split('/')[-1]}{'-text' if options.text_only else ''}-{kind}"


def _study(
    options: argparse.Namespace,
    conversion: Conversion,
    schemes: Mapping[str, Scheme],
    compares: bool,
) -> tuple[list[Sample], list[Observation], dict[str, tuple[mx.array, ...]]]:
    """Samples, what the source computes for them, and learned rounding; the source is dropped."""
    from ..loading import load
    from ..quantize.loss_report import observe

    # What a layer learns is a difference of outputs: not to be had in 16 bits.
    model, processor = load(conversion.source, dtype="float32" if options.learned else None)
    samples = _samples(options.calibration, model, processor)
    observed = []
    if compares:
        progress = progress_line("reading the source")
        for number, sample in enumerate(samples[:MAX_COMPARED], 1):
            observed.append(observe(model, sample))
            progress(number, min(len(samples), MAX_COMPARED))
    learned: dict[str, tuple[mx.array, ...]] = {}
    if options.learned:
        from ..quantize.learned_rounding import learn_rounding

        learned |= learn_rounding(
            model,
            schemes,
            [sample.inputs for sample in samples],
            dtype=conversion.scale_type,
            report=progress_line("learning"),
        )
    return samples, observed, learned


def _samples(folder: Path | None, model: Lfm2VL, processor: Processor) -> list[Sample]:
    """Prompts with answers: the user's, or the source's own answers to the user's images."""
    from ..prompt.messages import user_message
    from ..prompt.samples import SampleMaker, read_rows
    from ..quantize.drawn_samples import sample_conversations
    from ..quantize.loss_report import Sample, with_answer

    end_ids = set(model.config.eos_token_ids)
    if folder is not None and not folder.is_dir():
        raise InputError(f"--calibration {folder} is no folder")
    if folder is not None and (files := sorted(folder.glob("[!.]*.jsonl"))):
        make = SampleMaker(processor, end_ids)
        rows = [row for path in files for row in read_rows(path)]
        made = [make(row) for row in _capped(rows)]
        return [Sample(sample.inputs, sample.learnt) for sample in made]
    prompts = sample_conversations()
    if folder is not None:
        prompts = [user_message(PICTURE_PROMPT, [path]) for path in _capped(_images(folder))]
    return [with_answer(model, processor(prompt), end_ids) for prompt in prompts]


def _images(folder: Path) -> list[Path]:
    suffixes = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic")
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in suffixes)
    if not found:
        raise InputError(f"--calibration {folder} holds neither *.jsonl nor images")
    return found


def _capped(items: list[Any]) -> list[Any]:
    if len(items) > MAX_SAMPLES:
        logger.warning("--calibration: the first %d of %d are used", MAX_SAMPLES, len(items))
    return items[:MAX_SAMPLES]


def _report(
    options: argparse.Namespace,
    conversion: Conversion,
    target: Path,
    samples: Sequence[Sample],
    learned: bool,
) -> dict[str, Any]:
    """What is known without running the new checkpoint."""
    from ..quantize.loss_report import decode_ceiling

    sizes = conversion.plan.parts()
    per_token = sum(sizes[part]["bytes"] for part in ("language", "embed") if part in sizes)
    images = f"the images in {options.calibration.name}" if options.calibration else "drawn images"
    return {
        "version": __version__,
        "source": options.model if not Path(options.model).exists() else Path(options.model).name,
        "output": str(target),
        "upload": options.upload_repo,
        "settings": describe(conversion.plan.schemes, learned=learned),
        "text_only": options.text_only,
        "sizes": sizes,
        "kept": dict(conversion.plan.kept),
        "decode_ceiling": decode_ceiling(int(per_token)),
        "samples": f"{len(samples)} prompts about {images}",
        "warnings": [],
    }


def describe(schemes: Mapping[str, Scheme], *, learned: bool) -> str:
    """`"decoder layers 4 bits in groups of 128, vision tower 8 bits in groups of 64"`."""
    from ..checkpoint.names import part_of
    from ..quantize.model_card import PART_NAMES

    parts: dict[str, list[str]] = {}
    for path, scheme in schemes.items():
        text = f"{scheme.bits} bits in groups of {scheme.group_size}"
        text += f" ({scheme.mode})" if scheme.mode != "affine" else ""
        known = parts.setdefault(PART_NAMES[part_of(path)], [])
        if text not in known:
            known.append(text)
    if not parts:
        return "not quantized"
    texts = ", ".join(f"{part} {' and '.join(known)}" for part, known in parts.items())
    return f"{texts}; rounding learned on sample images" if learned else texts


def _compare(
    folder: Path, samples: Sequence[Sample], observed: Sequence[Observation]
) -> dict[str, Any]:
    """Run the new checkpoint on the samples."""
    from ..loading import load
    from ..quantize.loss_report import compare, observe, warnings

    model, _ = load(folder)
    progress = progress_line("comparing")

    def converted(number: int) -> Observation:
        result = observe(model, samples[number])
        progress(number + 1, len(samples))
        return result

    quality = compare(observed, converted)
    return {"quality": quality, "warnings": warnings(quality)}


def _summarise(report: Mapping[str, Any], target: Path) -> None:
    total = report["sizes"]["all"]
    text = (
        f"{target}: {total['bytes'] / 1e6:.1f} MB, {total['bits_per_weight']:.2f} bits per weight"
    )
    print(text, file=sys.stderr)
    for path, reason in report["kept"].items():
        logger.warning("%s stays as it is: %s", path, reason)
    if quality := report.get("quality"):
        answer, perplexity = quality["answer"], quality["perplexity"]["change"]
        text = f"answers against the source's: KL {answer['kl']:.4f}, same best token "
        text += f"{answer['agreement']:.1%}, perplexity {perplexity:+.1%}"
        print(text, file=sys.stderr)
    for sentence in report["warnings"]:
        logger.warning("%s", sentence)
