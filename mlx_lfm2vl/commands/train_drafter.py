"""`train --drafter`: train a draft model for a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, Lfm2VLError
from ..options import AnswerOptions, DType
from ..training.settings import DrafterSettings, steps_of
from .common import progress_line
from .image_options import chosen_image_options
from .train import check_options

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
    import mlx.core as mx

    from ..loading import load
    from ..prompt.rows import read_rows
    from ..prompt.samples import SampleMaker
    from ..training.checkpoints import check_room, identify, newest
    from ..training.drafter_answers import answered
    from ..training.drafter_data import Lessons
    from ..training.drafter_trainer import DrafterTrainer

    refuse_others(options)
    check_options(options)
    checkpoint = newest(options.output / "checkpoints") if options.resume else None
    if options.resume and checkpoint is None:
        print(f"{options.output} has no checkpoint: starting at update 1", file=sys.stderr)
    settings, dtype = _settings(options, checkpoint)
    rows, held = (read_rows(path) if path else [] for path in (options.data, options.validation))
    model, processor = load(
        options.model, revision=options.revision, update=options.update, dtype=dtype
    )
    maker = SampleMaker(
        processor, set(model.config.eos_token_ids), settings.image_options, options.special_tokens
    )
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
    if options.epochs is not None:
        update = settings.batch_size * settings.accumulate * mx.distributed.init().size()
        settings = replace(settings, steps=steps_of(options.epochs, len(rows), update))
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


def _settings(
    options: argparse.Namespace, checkpoint: Path | None
) -> tuple[DrafterSettings, DType | None]:
    """The settings and number type that were given, on top of the defaults or of the run's."""
    from ..training.checkpoints import saved_settings

    base, dtype = DrafterSettings(), None
    if checkpoint is not None:
        base, dtype = saved_settings(checkpoint, DrafterSettings)
    names = [field.name for field in fields(DrafterSettings) if field.name in options]
    given = {name: getattr(options, name) for name in names}
    images = {k: v for k, v in asdict(chosen_image_options(options)).items() if v is not None}
    image_options = replace(base.image_options, **images)
    return replace(base, image_options=image_options, **given), options.dtype or dtype


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
        max_tokens=settings.answer_tokens,
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


class _Progress:
    """Print progress: one rewritten line on a terminal, else only results of replays."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, entry: dict[str, Any]) -> None:
        is_terminal = sys.stderr.isatty()
        text = f"step {entry['step']}/{self.steps}  loss {entry['loss']:.4f}"
        measured = "tokens_per_round" in entry
        if measured:
            text += f"  {entry['tokens_per_round']:.2f} tokens a round"
            text += f"  accepted 0, 1, ...: {' '.join(map(str, entry['accepted']))}"
        last = measured or entry["step"] == self.steps
        if is_terminal:
            print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last:
            print(text, file=sys.stderr)
