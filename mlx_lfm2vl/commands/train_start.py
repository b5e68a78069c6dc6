"""How both kinds of training begin and report: the settings, the model, a line of progress."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError
from ..options import DType
from ..training.settings import TRAINED_PARTS, TrainSettings, steps_of
from .image_options import chosen_image_options

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor
    from ..prompt.samples import SampleMaker

Settings = TypeVar("Settings", bound=TrainSettings)


def check_options(options: argparse.Namespace) -> None:
    """Refuse what nobody can mean, before anything is loaded."""
    if options.show is not None and options.show < 1:
        raise InputError(f"--show is {options.show}, expected 1 or more")
    if options.sample_answers < 0:
        raise InputError(f"--sample-answers is {options.sample_answers}, expected 0 or more")
    if not 0 <= options.feature_memory < math.inf:
        raise InputError(f"--feature-memory is {options.feature_memory}, expected 0 or more")
    if options.sample_answers and not options.validation:
        raise InputError("--sample-answers needs --validation")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output} is a file, expected a folder for --output")
    if (options.output / "checkpoints").exists() and not options.resume and not options.show:
        raise InputError(
            f"{options.output} already holds a run: add --resume, or choose another --output"
        )


def found_checkpoint(options: argparse.Namespace) -> Path | None:
    """Return the checkpoint that --resume continues; say so if there is none."""
    from ..training.checkpoints import newest

    checkpoint = newest(options.output / "checkpoints") if options.resume else None
    if options.resume and checkpoint is None:
        print(f"{options.output} has no checkpoint: starting at update 1", file=sys.stderr)
    return checkpoint


def chosen_settings(
    options: argparse.Namespace, checkpoint: Path | None, kind: type[Settings]
) -> tuple[Settings, DType | None, dict[str, Any]]:
    """Return the settings that were given, on top of the defaults or of the run's.

    Args:
        options: of the command; settings that were not given are not among them.
        checkpoint: of the run that is continued.
        kind: of the settings.

    Returns:
        The settings, the number type, and the settings that were given by name.
    """
    from ..training.checkpoints import saved_settings

    base, dtype = kind(), None
    if checkpoint is not None:
        base, dtype = saved_settings(checkpoint, kind)
    given = {f.name: getattr(options, f.name) for f in fields(kind) if f.name in options}
    if "parts" in given:
        given["parts"] = tuple(part for part in TRAINED_PARTS if part in given["parts"])
    images = {k: v for k, v in asdict(chosen_image_options(options)).items() if v is not None}
    settings = replace(base, image_options=replace(base.image_options, **images), **given)
    return settings, options.dtype or dtype, given


def open_model(
    options: argparse.Namespace, settings: TrainSettings, dtype: DType | None
) -> tuple[Lfm2VL, Processor, SampleMaker]:
    """Load the model, and what makes samples for it."""
    from ..loading import load
    from ..prompt.samples import SampleMaker

    model, processor = load(
        options.model, revision=options.revision, update=options.update, dtype=dtype
    )
    ends = set(model.config.eos_token_ids)
    maker = SampleMaker(processor, ends, settings.image_options, options.special_tokens)
    return model, processor, maker


def with_epochs(
    options: argparse.Namespace, settings: Settings, rows: Sequence[object]
) -> Settings:
    """Return the settings with the updates that --epochs means, if it was given."""
    import mlx.core as mx

    if options.epochs is None:
        return settings
    update = settings.batch_size * settings.accumulate * mx.distributed.init().size()
    return replace(settings, steps=steps_of(options.epochs, len(rows), update))


class Progress:
    """Prints progress: one rewritten line on a terminal, else only what was measured."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def is_last(self, entry: dict[str, Any]) -> bool:
        """Return whether an update is the last one."""
        return entry["step"] == self._steps

    def show(self, entry: dict[str, Any], rest: str, *, stays: bool, logged: bool) -> None:
        """Show an update.

        Args:
            entry: of the log.
            rest: what to say after the loss.
            stays: whether a terminal keeps the line, as it does that of the last update.
            logged: whether a log gets it.
        """
        text = f"step {entry['step']}/{self._steps}  loss {entry['loss']:.4f}{rest}"
        if sys.stderr.isatty():
            end = "\n" if stays or self.is_last(entry) else ""
            print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)
        elif logged:
            print(text, file=sys.stderr)
