"""The options of `train`.

Settings of a run have no defaults here, so that a resumed run keeps those it began with.
"""

import argparse
from argparse import SUPPRESS
from pathlib import Path

from ..errors import InputError
from ..training.settings import (
    FEATURE_GB,
    METHODS,
    OPTIMIZERS,
    SCHEDULES,
    TRAINED_PARTS,
    DrafterSettings,
    TrainSettings,
)
from .common import add_model_options, add_special_tokens
from .image_options import add_image_options
from .parser import Parser

DEFAULTS, DRAFTER = TrainSettings(), DrafterSettings()
EPILOG = """\
examples:
  mlx_lfm2vl train -m 450m --data plants.jsonl --show 1
  mlx_lfm2vl train -m 450m --data plants.jsonl --output plants --steps 200
  mlx_lfm2vl train -m 450m --data plants.jsonl --drafter --output drafter

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
        description="Fine-tune a checkpoint on your own images and answers. Writes an adapter\n"
        "(which mlx-vlm reads, too), a log, a plot of the loss, and checkpoints to\n"
        "resume from. Each checkpoint is an adapter, too.",
        epilog=EPILOG,
    )
    add_model_options(parser)
    data = parser.add_argument_group("data and output")
    add = data.add_argument
    add("--data", required=True, type=Path, metavar="JSONL", help="conversations to train on")
    add("--validation", type=Path, metavar="JSONL", help="conversations to measure the loss on")
    add("--test", type=Path, metavar="JSONL", help="measure the loss on these at the end")
    add(
        "--sample-answers",
        type=int,
        default=0,
        metavar="N",
        help="at each validation, answer its first N questions; default: 0",
    )
    add("--output", type=Path, default=Path("adapter"), help="folder to write; default: adapter")
    add(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in --output, with its settings; those given "
        "here replace them, for example more --steps",
    )
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
    add_special_tokens(data)
    add = parser.add_argument_group("method").add_argument
    add(
        "--method",
        choices=METHODS,
        default=SUPPRESS,
        help="lora and dora train an adapter; full trains all weights of --parts, in float32 "
        "unless --dtype is bfloat16; default: lora",
    )
    add(
        "--parts",
        nargs="+",
        choices=TRAINED_PARTS,
        metavar="PART",
        default=SUPPRESS,
        help=f"what to train, of {', '.join(TRAINED_PARTS)}; default: language connector",
    )
    add("--rank", type=int, default=SUPPRESS, help="rank of the adapter; default: 16")
    add(
        "--scale",
        type=float,
        default=SUPPRESS,
        help="factor on the adapter's update; default: 2",
    )
    add(
        "--dropout",
        type=float,
        default=SUPPRESS,
        help="share of the adapter's inputs to drop during training; default: 0",
    )
    drafter = parser.add_argument_group("a drafter, which makes answers of the model faster")
    add = drafter.add_argument
    add(
        "--drafter",
        nargs="?",
        const="",
        metavar="START",
        help="train a drafter for the model instead, on the model's own answers to the questions "
        "of --data; START is a drafter to go on from, a folder or a Hub repo; default: a new one",
    )
    add("--draft-layers", type=int, metavar="N", help="its layers; default: chosen by the model")
    add("--draft-block", type=int, metavar="N", help="tokens it drafts at a time; default: 7")
    add("--draft-rank", type=int, metavar="N", help="rank of its table of token pairs")
    add(
        "--draft-taps",
        type=int,
        nargs="+",
        metavar="LAYER",
        help="layers of the model that it reads, from 0; default: up to five, evenly spread",
    )
    add(
        "--anchors",
        type=int,
        default=SUPPRESS,
        metavar="N",
        help=f"drafts learned in each conversation of an update; default: {DRAFTER.anchors}",
    )
    add(
        "--answer-tokens",
        type=int,
        default=SUPPRESS,
        metavar="N",
        help=f"longest answer of the model; default: {DRAFTER.answer_tokens}",
    )
    schedule = parser.add_argument_group("schedule")
    length = schedule.add_mutually_exclusive_group().add_argument
    length(
        "--steps",
        type=int,
        default=SUPPRESS,
        metavar="N",
        help=f"number of updates; default: {DEFAULTS.steps}",
    )
    length("--epochs", type=float, metavar="N", help="passes over the data, instead of --steps")
    add = schedule.add_argument
    add("--batch-size", type=int, default=SUPPRESS, help="samples per batch; default: 1")
    add("--accumulate", type=int, default=SUPPRESS, help="batches per update; default: 1")
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default=SUPPRESS,
        help="muon is faster when training from scratch; default: adamw",
    )
    add(
        "--learning-rate",
        type=float,
        default=SUPPRESS,
        help="peak learning rate; default: 1e-4",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        default=SUPPRESS,
        help="how the learning rate falls after the warmup; default: cosine",
    )
    add(
        "--final-fraction",
        type=float,
        default=SUPPRESS,
        metavar="F",
        help="learning rate of the last update, as a fraction of the peak; default: 0.1",
    )
    add(
        "--warmup-steps",
        type=int,
        default=SUPPRESS,
        help="updates until the learning rate reaches its peak; default: 10",
    )
    add(
        "--weight-decay",
        type=float,
        default=SUPPRESS,
        help="weight decay, multiplied by the learning rate; default: 0",
    )
    add(
        "--max-grad-norm",
        type=float,
        default=SUPPRESS,
        help="scale larger gradients down to this norm; default: 1",
    )
    add(
        "--validate-every",
        type=int,
        default=SUPPRESS,
        metavar="STEPS",
        help="updates between two validations; default: 100",
    )
    add(
        "--save-every",
        type=int,
        default=SUPPRESS,
        metavar="STEPS",
        help="updates between two checkpoints; default: 100",
    )
    add(
        "--keep",
        type=int,
        default=SUPPRESS,
        metavar="N",
        help="newest checkpoints to keep; the best adapter is kept besides; default: 2",
    )
    add(
        "--seed",
        type=int,
        default=SUPPRESS,
        help="seed of the data order and the adapter's initial weights; default: 0",
    )
    group = parser.add_argument_group("images (default: the checkpoint's settings)")
    add_image_options(group)
    add = parser.add_argument_group("memory and speed").add_argument
    add(
        "--max-length",
        type=int,
        default=SUPPRESS,
        metavar="TOKENS",
        help="leave out longer conversations; default: leave out none",
    )
    add(
        "--feature-memory",
        type=float,
        default=FEATURE_GB,
        metavar="GB",
        help="most memory for image features of parts that are not trained, so that each image is "
        f"encoded once; default: {FEATURE_GB:g}",
    )
    add(
        "--recompute",
        action="store_true",
        default=SUPPRESS,
        help="gradient checkpointing: less memory, slower",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=SUPPRESS,
        help="compile the update; default: yes on a GPU without --recompute",
    )
    return parser


def refuse_drafter_options(options: argparse.Namespace) -> None:
    """Refuse options of a drafter where none is trained."""
    shape = ("draft_layers", "draft_block", "draft_rank", "draft_taps")
    given = [name for name in shape if getattr(options, name) is not None]
    given += [name for name in ("anchors", "answer_tokens") if name in options]
    if given:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{shown} needs --drafter")
