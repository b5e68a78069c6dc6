"""`train --drafter`: train a draft model for a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError, Lfm2VLError
from ..options import AnswerOptions, AtMost
from ..training.settings import DrafterSettings
from .common import progress_line
from .train_start import (
    Progress,
    check_options,
    chosen_settings,
    found_checkpoint,
    open_model,
    with_epochs,
)

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..model.drafter import DraftModel
    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor
    from ..prompt.template import Message
    from ..training.drafter_answers import Ask
    from ..training.drafter_trainer import DrafterTrainer

WARMUP = 0.04  # share of the updates
PREFIX_BYTES = 2**30  # of the conversations that are being answered
# Options of adapters and of the target's own training.
OTHERS = ("method", "parts", "rank", "scale", "dropout", "recompute", "compile")
SHAPE = ("draft_layers", "draft_block", "draft_rank", "draft_taps")


def train_drafter(options: argparse.Namespace) -> int:
    """Train a drafter; returns the exit code."""
    from ..prompt.rows import read_rows
    from ..training.checkpoints import check_room, identify
    from ..training.drafter_answers import answered
    from ..training.drafter_data import Lessons
    from ..training.drafter_trainer import DrafterTrainer

    refuse_others(options)
    check_options(options)
    checkpoint = found_checkpoint(options)
    settings, dtype, _ = chosen_settings(options, checkpoint, DrafterSettings)
    rows, held = (
        read_rows(path, answered=False) if path else []
        for path in (options.data, options.validation)
    )
    model, processor, maker = open_model(options, settings, dtype)
    lengths = maker.lengths(rows, "the training data")
    maker.lengths(held, "the validation data")
    identity = identify(model, options.data)
    origin = {
        "model": identity["model"],
        "images": asdict(settings.image_options),
        "seed": settings.seed,
        "most": settings.answer_tokens,
    }
    drafter = _start(options, model, settings.seed)
    settings = with_epochs(options, settings, rows)
    if checkpoint is None and "warmup_steps" not in options:
        settings = replace(settings, warmup_steps=math.ceil(WARMUP * settings.steps))
    ask = _asker(model, processor, options, settings, {})
    rows = answered(
        rows,
        options.output / "answers.jsonl",
        {**origin, "data": identity["data"]},
        ask,
        progress_line("answering"),
    )
    taps, limit = drafter.config.target_layer_ids, int(options.feature_memory * 1e9)
    validation = None
    if held:
        held = answered(
            held,
            options.output / "answers-validation.jsonl",
            {**origin, "data": identify(model, options.validation)["data"]},
            _asker(model, processor, options, settings, {"temperature": 0.0}),
            progress_line("answering validation"),
        )
        validation = Lessons(model, taps, maker, held, limit)
    trainer = DrafterTrainer(
        drafter,
        model,
        Lessons(model, taps, maker, rows, limit),
        lengths,
        settings,
        options.output,
        validation=validation,
        identity={**identity, "drafter": json.loads(json.dumps(asdict(drafter.config)))},
        report=_Progress(settings.steps),
    )
    if trainer.is_first:
        check_room(options.output, drafter, trainer.optimizer, settings)
    trainer.train(resume=options.resume)
    if trainer.is_first:
        _conclude(options, trainer)
    return 0


def refuse_others(options: argparse.Namespace) -> None:
    """Refuse options that would do nothing here."""
    unused = [name for name in OTHERS if name in options]
    unused += [name for name in ("adapter", "test", "show", "text_only") if getattr(options, name)]
    unused += ["sample_answers"] if options.sample_answers else []
    unused += ["max_length"] if "max_length" in options else []
    if unused:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise InputError(f"{shown} cannot be used with --drafter: leave it out")
    given = [name for name in SHAPE if getattr(options, name) is not None]
    if options.drafter and given:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"{shown} is that of {options.drafter}, from which it starts: leave it out"
        )


def _start(options: argparse.Namespace, model: Lfm2VL, seed: int) -> DraftModel:
    """The drafter before training: a published one, or one of random weights."""
    from ..drafter_loading import load_drafter
    from ..training.drafter_shape import choose_shape, new_drafter

    if options.drafter:
        drafter = load_drafter(options.drafter, model, dtype="float32")
        if drafter.config.quantization:
            raise InputError(f"{options.drafter} is quantized: training needs one that is not")
        return drafter
    taps = tuple(options.draft_taps) if options.draft_taps else None
    shape = choose_shape(
        model.config.text, options.draft_layers, options.draft_block, options.draft_rank, taps
    )
    return new_drafter(shape, seed)


def _asker(
    model: Lfm2VL,
    processor: Processor,
    options: argparse.Namespace,
    settings: DrafterSettings,
    changes: dict[str, Any],
) -> Ask:
    """Make a function that answers conversations as a batch."""
    from ..generation.engine import Engine
    from ..generation.prefix_store import PrefixStore

    engine = Engine(model, processor, store=PrefixStore(PREFIX_BYTES))
    chosen = AnswerOptions(
        max_tokens=AtMost(settings.answer_tokens),
        seed=settings.seed,
        image_options=settings.image_options,
        special_tokens=options.special_tokens,
        **changes,
    )

    def ask(
        conversations: Iterable[Sequence[Message]],
    ) -> Iterator[tuple[int, str | Lfm2VLError]]:
        for number, result in engine.stream_batch(conversations, chosen):
            yield number, result if isinstance(result, Lfm2VLError) else result.text

    return ask


def _conclude(options: argparse.Namespace, trainer: DrafterTrainer) -> None:
    """Write the drafter and the plots."""
    import mlx.core as mx

    from ..drawing import describe_origin
    from ..training.plot import TOKENS, plot_log

    trainer.save(options.output)
    origin = describe_origin(options.model, str(mx.device_info()["device_name"]))
    log = options.output / "log.jsonl"
    plot_log(log, options.output / "loss.png", origin)
    written = "drafter, log.jsonl, loss.png"
    if trainer.validation is not None:
        plot_log(log, options.output / "tokens.png", origin, TOKENS)
        written += ", tokens.png"
    print(f"{options.output}: {written}", file=sys.stderr)
    if trainer.best:
        best = options.output / "best"
        print(
            f"{best}: drafter with the most tokens per round, {trainer.best:.2f}", file=sys.stderr
        )


class _Progress(Progress):
    """Prints every update on a terminal, else only results of replays."""

    def __call__(self, entry: dict[str, Any]) -> None:
        measured, rest = "tokens_per_round" in entry, ""
        if measured:
            rest += f"  {entry['tokens_per_round']:.2f} tokens a round"
            rest += f"  accepted 0, 1, ...: {' '.join(map(str, entry['accepted']))}"
        logged = measured or self.is_last(entry)
        self.show(entry, rest, stays=measured, logged=logged)
