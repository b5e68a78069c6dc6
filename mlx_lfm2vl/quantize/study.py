"""What the source computes for samples, before anything is written.

Opens the source, gives its answers to the samples, notes what it computes for them, learns rounding
from them, and drops it from memory before the new checkpoint is made.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from ..loading import load
from ..model.lfm2vl import Lfm2VL
from ..prompt.messages import user_message
from ..prompt.processor import Processor
from ..prompt.samples import Sample, SampleMaker, read_rows
from .conversion import Conversion
from .drawn_samples import sample_conversations
from .learned_rounding import learn_rounding
from .loss_report import Observation, observe, with_answer
from .rounding import Packed

logger = logging.getLogger(__name__)

MAX_SAMPLES = 128  # to learn from
MAX_COMPARED = 32  # each keeps some 30 MB of what the source computes
PICTURE_PROMPT = "Describe this image in detail."
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Study:
    """What is known of the source once it is dropped.

    Attributes:
        samples: prompts with answers, at most MAX_SAMPLES.
        observed: what the source computes for the first MAX_COMPARED of them, in order; empty if
            nothing is to be compared.
        learned: packed arrays by our path; empty if nothing was learned.
    """

    samples: Sequence[Sample] = ()
    observed: Sequence[Observation] = ()
    learned: Mapping[str, Packed] = field(default_factory=dict)


def study_source(
    conversion: Conversion,
    folder: Path | None = None,
    *,
    compares: bool,
    learns: bool,
    reading: Callable[[int, int], object] = lambda *_: None,
    learning: Callable[[int, int], object] = lambda *_: None,
) -> Study:
    """Run the source over samples.

    Args:
        conversion: its source is studied, for what its plan will quantize.
        folder: images, or conversations as `train` reads them; None for a few drawn pictures.
        compares: note what the source computes.
        learns: learn rounding; the plan must have layers that can be learned.
        reading: called with the samples observed so far, and of all.
        learning: called with the layers learned so far, and of all.

    Raises:
        InputError: the folder holds no samples, or bad ones.
    """
    # Learning takes differences of outputs, which 16 bits are too coarse for.
    model, processor = load(conversion.source, dtype="float32" if learns else None)
    samples = _samples(folder, model, processor)
    observed = []
    compared = samples[:MAX_COMPARED] if compares else []
    for number, sample in enumerate(compared, 1):
        observed.append(observe(model, sample))
        reading(number, len(compared))
    learned: Mapping[str, Packed] = {}
    if learns:
        learned = learn_rounding(
            model,
            conversion.plan.schemes,
            samples,
            dtype=conversion.scale_type,
            report=learning,
        )
    return Study(samples, observed, learned)


def _samples(folder: Path | None, model: Lfm2VL, processor: Processor) -> list[Sample]:
    """Conversations of the user, or the source's own answers to images: the user's, else drawn."""
    end_ids = set(model.config.eos_token_ids)
    if folder is not None and not folder.is_dir():
        raise InputError(f"--calibration {folder} is no folder")
    if folder is not None and (files := sorted(folder.glob("[!.]*.jsonl"))):
        make = SampleMaker(processor, end_ids)
        rows = [row for path in files for row in read_rows(path)]
        return [make(row) for row in _first(rows)]
    prompts = sample_conversations()
    if folder is not None:
        prompts = [user_message(PICTURE_PROMPT, [path]) for path in _first(_images(folder))]
    return [with_answer(model, processor(prompt), end_ids) for prompt in prompts]


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"--calibration {folder} holds neither *.jsonl nor images")
    return found


def _first(items: list[Item]) -> list[Item]:
    """At most MAX_SAMPLES of them; says so if there are more."""
    if len(items) > MAX_SAMPLES:
        logger.warning("--calibration: the first %d of %d are used", MAX_SAMPLES, len(items))
    return items[:MAX_SAMPLES]
