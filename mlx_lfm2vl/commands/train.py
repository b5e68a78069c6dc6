"""The `train` command: fine-tune a checkpoint on your own images with LoRA, DoRA or fully.

Exit codes: 0 trained, 1 failed, 2 wrong use or bad data, 130 interrupted (--resume continues).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..options import AtMost, DType
from ..training.settings import TrainSettings
from .common import run_command
from .train_options import build_parser, refuse_drafter_options
from .train_start import (
    Progress,
    check_options,
    chosen_settings,
    found_checkpoint,
    open_model,
    with_epochs,
)

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor
    from ..prompt.samples import SampleMaker
    from ..training.trainer import Rows, Trainer

MAX_ANSWER = AtMost(128)  # tokens of a sample answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _train, arguments)


def _train(options: argparse.Namespace) -> int:
    if options.drafter is not None:
        from .train_drafter import train_drafter

        return train_drafter(options)
    refuse_drafter_options(options)
    import mlx.core as mx

    from ..prompt.rows import read_rows
    from ..training.adapters import check_text_only, make_trainable, save_adapter
    from ..training.checkpoints import check_room, identify
    from ..training.trainer import Trainer

    checkpoint = found_checkpoint(options)
    settings, dtype = _settings(options, checkpoint)
    rows, validation, test = (
        read_rows(path) if path else [] for path in (options.data, options.validation, options.test)
    )
    check_options(options)
    start, mark = _start(options, checkpoint)
    model, processor, maker = open_model(options, settings, dtype)
    if options.show:
        for row in rows[: options.show]:
            print(maker.show(row), end="\n\n")
        return 0
    rows, validation, test = (
        _short_enough(maker, part, settings) for part in (rows, validation, test)
    )
    if not rows:
        raise InputError(f"no conversation has at most {settings.max_length} tokens (--max-length)")
    settings = with_epochs(options, settings, rows)
    identity = identify(model, options.data)
    if options.special_tokens:  # without them the same rows are other ids
        identity["special_tokens"] = " ".join(sorted(options.special_tokens))
    if mark:
        identity["adapter"] = mark
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
        save=partial(save_adapter, model, settings=adapter, text_only=options.text_only),
        validation=validation,
        identity=identity,
        report=_Progress(settings.steps),
        feature_gb=options.feature_memory,
        answers=_sampler(model, processor, validation[: options.sample_answers], settings),
    )
    maker.lengths(test, "the test data")  # reports bad rows now, not at the end
    if trainer.is_first:
        check_room(options.output, model, trainer.optimizer, settings)
    trainer.train(resume=options.resume)
    if trainer.is_first:
        _conclude(options, trainer, test)
    return 0


def _start(options: argparse.Namespace, checkpoint: Path | None) -> tuple[Path | None, str]:
    """The adapter to start from, and its mark; a run that resumes has it in its checkpoints."""
    from ..adapters.choice import find_adapters
    from ..training.checkpoints import identify_adapter, start_of

    start = find_adapters(Path(options.adapter))[0][0] if options.adapter else None
    given = identify_adapter(start) if start else ""
    if checkpoint is None:
        return start, given
    mark = start_of(checkpoint)
    if given not in ("", mark):
        raise InputError(
            "cannot resume from another --adapter than the run began with; leave it out"
        )
    return (checkpoint if mark else None), mark


def _settings(
    options: argparse.Namespace, checkpoint: Path | None
) -> tuple[TrainSettings, DType | None]:
    """The settings and number type that were given, on top of the defaults or of the run's."""
    import mlx.core as mx

    settings, dtype, given = chosen_settings(options, checkpoint, TrainSettings)
    if checkpoint is None and "compile" not in given:
        use = mx.metal.is_available() and not settings.recompute
        settings = replace(settings, compile=use)
    return settings, _dtype(dtype, settings)


def _short_enough(maker: SampleMaker, rows: Rows, settings: TrainSettings) -> Rows:
    """Leave out the conversations that are longer than `--max-length`."""
    if settings.max_length is None or not rows:
        return rows
    kept = maker.up_to(settings.max_length, rows)
    if len(kept) < len(rows):
        out = f"{len(rows) - len(kept)} of {len(rows)} conversations are left out"
        print(f"note: {out}: longer than {settings.max_length} tokens", file=sys.stderr)
    return kept


def _sampler(
    model: Lfm2VL, processor: Processor, rows: Rows, settings: TrainSettings
) -> Callable[[], list[dict[str, str]]] | None:
    """Make a function that answers the last question of some conversations."""
    from ..generation.engine import Engine

    if not rows:
        return None
    engine = Engine(model, processor)

    def answers() -> list[dict[str, str]]:
        found = []
        for row in rows:
            place = max(i for i, message in enumerate(row) if message["role"] == "assistant")
            result = engine.generate(
                row[:place],
                temperature=0.0,
                max_tokens=MAX_ANSWER,
                image_options=settings.image_options,
            )
            found.append({"answer": result.text, "expected": _text(row[place]["content"])})
        return found

    return answers


def _text(content: Any) -> str:
    parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content or []]
    return " ".join(parts)


def _conclude(options: argparse.Namespace, trainer: Trainer, test: Rows) -> None:
    """Write the adapter and the plot, and measure the loss on the test data."""
    import mlx.core as mx

    from ..drawing import dark_name, describe_origin
    from ..training.loss import mean_loss
    from ..training.plot import plot_log
    from ..training.trainer import BEST
    from ..whole_folder import new_file

    trainer.save(options.output)
    picture = options.output / "loss.png"
    origin = describe_origin(options.model, str(mx.device_info()["device_name"]))
    plot_log(options.output / "log.jsonl", picture, origin)
    written = f"log.jsonl, {picture.name} and {dark_name(picture).name}"
    print(f"{options.output}: adapter, {written}", file=sys.stderr)
    if math.isfinite(trainer.best):
        best = options.output / BEST
        print(
            f"{best}: adapter with the lowest validation loss, {trainer.best:.4f}", file=sys.stderr
        )
    if test:
        loss = mean_loss(trainer.frozen, map(trainer.maker, test))
        found = {"conversations": len(test), "loss": loss, "perplexity": math.exp(min(loss, 700))}
        with new_file(options.output / "test.json") as path:
            path.write_text(json.dumps(found, indent=2) + "\n")
        print(
            f"test: loss {loss:.4f}, perplexity {found['perplexity']:.4g}, "
            f"{len(test)} conversations",
            file=sys.stderr,
        )


def _dtype(given: DType | None, settings: TrainSettings) -> DType | None:
    """The type to load the model in.

    Full training defaults to float32: 16 bits lose small updates and squares of small gradients.
    """
    if settings.method != "full":
        return given
    if given == "float16":
        raise InputError("--method full cannot train in float16: use float32 or bfloat16")
    return given or "float32"


class _Progress(Progress):
    """Prints every update on a terminal, else only those that were validated."""

    def __call__(self, entry: dict[str, Any]) -> None:
        rest = f"  {entry['tokens'] / max(entry['seconds'], 1e-9):.0f} tokens/s"
        validated = "validation_loss" in entry
        if validated:
            rest += f"  validation {entry['validation_loss']:.4f}"
        self.show(entry, rest, stays=validated, logged=validated)
        for sample in entry.get("answers", ()):
            print(f"  answer {sample['answer']!r}", file=sys.stderr)
            print(f"  expected {sample['expected']!r}", file=sys.stderr)
