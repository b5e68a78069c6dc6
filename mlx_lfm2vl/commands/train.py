"""The `train` command: fine-tune a checkpoint on your own images with LoRA, DoRA or fully.

Exit codes: 0 trained, 1 failed, 2 wrong use or bad data, 130 interrupted (--resume continues).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import DType
from ..training.settings import METHODS, OPTIMIZERS, TRAINED_PARTS, TrainSettings
from .common import add_model_options, run_command
from .parser import Parser

DEFAULTS = TrainSettings()
EPILOG = """\
examples:
  mlx_lfm2vl train -m 450m --data plants.jsonl --show 1
  mlx_lfm2vl train -m 450m --data plants.jsonl --output plants --steps 200
  mlx_lfm2vl train -m 450m --data plants.jsonl --method dora --output dora

data: JSON Lines, a JSON array, Parquet, or a folder with metadata.jsonl.
Image paths are relative to the file. Rows of TRL, LLaMA-Factory, LLaVA and
ShareGPT are read, too, and:
  {"messages": [
    {"role": "user", "content": [{"type": "image", "image": "a.jpg"},
      {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A fern."}]}
or in short form:
  {"image": "a.jpg", "prompt": "What is it?", "answer": "A fern."}
several machines or processes: mlx.launch -n 2 -- python -m mlx_lfm2vl.train ...
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl train",
        usage="mlx_lfm2vl train --data JSONL [options]",
        description="Fine-tune a checkpoint on your own images and answers. Writes an adapter in\n"
        "mlx-vlm's format, a log, a plot of the loss, and checkpoints to resume from.",
        epilog=EPILOG,
    )
    add_model_options(parser)
    add = parser.add_argument_group("data and output").add_argument
    add("--data", required=True, type=Path, metavar="JSONL", help="conversations to train on")
    add("--validation", type=Path, metavar="JSONL", help="conversations to measure the loss on")
    add("--output", type=Path, default=Path("adapter"), help="folder to write; default: adapter")
    add("--resume", action="store_true", help="continue from the newest checkpoint in --output")
    add(
        "--adapter",
        metavar="ADAPTER",
        help="adapter to go on from, of train, mlx-lm, mlx-vlm or PEFT; its layers, rank and scale "
        "are kept",
    )
    add(
        "--text-only",
        action="store_true",
        help="name the adapter's layers as mlx-lm does in text-only conversions",
    )
    add("--show", type=int, metavar="N", help="print N samples, learned parts in ⟦ ⟧, and stop")
    add = parser.add_argument_group("method").add_argument
    add(
        "--method",
        choices=METHODS,
        default=DEFAULTS.method,
        help="lora and dora train an adapter; full trains all weights of --parts, in float32 "
        "unless --dtype is bfloat16; default: lora",
    )
    add(
        "--parts",
        nargs="+",
        choices=TRAINED_PARTS,
        metavar="PART",
        default=list(DEFAULTS.parts),
        help=f"what to train, of {', '.join(TRAINED_PARTS)}; default: language connector",
    )
    add("--rank", type=int, default=DEFAULTS.rank, help="rank of the adapter; default: 16")
    add(
        "--scale",
        type=float,
        default=DEFAULTS.scale,
        help="factor on the adapter's update; default: 2",
    )
    add(
        "--dropout",
        type=float,
        default=DEFAULTS.dropout,
        help="share of the adapter's inputs to drop during training; default: 0",
    )
    add = parser.add_argument_group("schedule").add_argument
    add(
        "--steps",
        type=int,
        default=DEFAULTS.steps,
        metavar="N",
        help=f"number of updates; default: {DEFAULTS.steps}",
    )
    add("--batch-size", type=int, default=DEFAULTS.batch_size, help="samples per batch; default: 1")
    add(
        "--accumulate", type=int, default=DEFAULTS.accumulate, help="batches per update; default: 1"
    )
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default=DEFAULTS.optimizer,
        help="muon is faster when training from scratch; default: adamw",
    )
    add(
        "--learning-rate",
        type=float,
        default=DEFAULTS.learning_rate,
        help="peak learning rate; default: 1e-4",
    )
    add(
        "--warmup-steps",
        type=int,
        default=DEFAULTS.warmup_steps,
        help="updates until the learning rate reaches its peak; default: 10",
    )
    add(
        "--weight-decay",
        type=float,
        default=DEFAULTS.weight_decay,
        help="weight decay, multiplied by the learning rate; default: 0",
    )
    add(
        "--max-grad-norm",
        type=float,
        default=DEFAULTS.max_grad_norm,
        help="scale larger gradients down to this norm; default: 1",
    )
    add(
        "--validate-every",
        type=int,
        default=DEFAULTS.validate_every,
        metavar="STEPS",
        help="updates between two validations; default: 100",
    )
    add(
        "--save-every",
        type=int,
        default=DEFAULTS.save_every,
        metavar="STEPS",
        help="updates between two checkpoints; default: 100",
    )
    add(
        "--seed",
        type=int,
        default=DEFAULTS.seed,
        help="seed of the data order and the adapter's initial weights; default: 0",
    )
    add = parser.add_argument_group("memory and speed").add_argument
    add("--recompute", action="store_true", help="gradient checkpointing: less memory, slower")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the update; default: yes on a GPU without --recompute",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _train, arguments)


def _train(options: argparse.Namespace) -> int:
    import mlx.core as mx

    from ..adapters.choice import find_adapters
    from ..drawing import dark_name, describe_origin
    from ..loading import load
    from ..prompt.rows import read_rows
    from ..prompt.samples import SampleMaker
    from ..training.adapters import check_text_only, make_trainable, save_adapter
    from ..training.checkpoints import identify, identify_adapter, newest
    from ..training.plot import plot_log
    from ..training.trainer import Trainer

    if options.compile is None:
        options.compile = mx.metal.is_available() and not options.recompute
    options.parts = tuple(part for part in TRAINED_PARTS if part in options.parts)
    names = [field.name for field in fields(TrainSettings) if field.name in options]
    settings = TrainSettings(**{name: getattr(options, name) for name in names})
    rows = read_rows(options.data)
    validation = read_rows(options.validation) if options.validation else []
    if options.show is not None and options.show < 1:
        raise InputError(f"--show is {options.show}, expected 1 or more")
    if (options.output / "checkpoints").exists() and not options.resume and not options.show:
        raise InputError(
            f"{options.output} already holds a run: add --resume, or choose another --output"
        )
    start = find_adapters(Path(options.adapter))[0][0] if options.adapter else None
    model, processor = load(options.model, revision=options.revision, dtype=_dtype(options))
    maker = SampleMaker(processor, set(model.config.eos_token_ids))
    if options.show:
        for row in rows[: options.show]:
            print(maker.show(row), end="\n\n")
        return 0
    identity = identify(model, options.data)
    if start is not None:
        identity["adapter"] = identify_adapter(start)
    mx.random.seed(settings.seed)
    adapter = make_trainable(model, settings, start=start, name=options.model)
    if options.text_only:
        check_text_only(model)
    trainer = Trainer(
        model,
        maker,
        rows,
        settings,
        options.output,
        validation=validation,
        identity=identity,
        report=_Progress(settings.steps),
    )
    if options.resume and trainer.is_first and newest(options.output / "checkpoints") is None:
        print(f"{options.output} has no checkpoint: starting at update 1", file=sys.stderr)
    trainer.train(resume=options.resume)
    if trainer.is_first:
        save_adapter(model, options.output, adapter, text_only=options.text_only)
        picture = options.output / "loss.png"
        origin = describe_origin(options.model, str(mx.device_info()["device_name"]))
        plot_log(options.output / "log.jsonl", picture, origin)
        written = f"log.jsonl, {picture.name} and {dark_name(picture).name}"
        print(f"{options.output}: adapter, {written}", file=sys.stderr)
    return 0


def _dtype(options: argparse.Namespace) -> DType | None:
    """The type to load the model in.

    Full training defaults to float32: 16 bits lose small updates and squares of small gradients.
    """
    if options.method != "full":
        return options.dtype
    if options.dtype == "float16":
        raise InputError("--method full cannot train in float16: use float32 or bfloat16")
    return options.dtype or "float32"


class _Progress:
    """Print progress: one rewritten line on a terminal, else only validation results."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, entry: dict[str, Any]) -> None:
        is_terminal = sys.stderr.isatty()
        text = f"step {entry['step']}/{self.steps}  loss {entry['loss']:.4f}"
        text += f"  {entry['tokens'] / max(entry['seconds'], 1e-9):.0f} tokens/s"
        validated = "validation_loss" in entry
        if validated:
            text += f"  validation {entry['validation_loss']:.4f}"
        if is_terminal:
            last = validated or entry["step"] == self.steps
            print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif validated:
            print(text, file=sys.stderr)
