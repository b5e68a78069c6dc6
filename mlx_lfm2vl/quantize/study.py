"""Run the source model over samples, before the new checkpoint is written.

This records what the source computes and learns rounding from it. The source leaves memory before
the new checkpoint is made.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from ..images.endings import is_image_name
from ..images.folders import images_below
from ..loading import load
from ..model.lfm2vl import Lfm2VL
from ..prompt.data_files import find_data
from ..prompt.messages import user_message
from ..prompt.processor import Processor
from ..prompt.rows import read_rows
from ..prompt.samples import Sample, SampleMaker
from .conversion import Conversion
from .drawn_samples import sample_conversations
from .learned_rounding import learn_rounding
from .loss_report import Observation, observe, with_answer
from .rounding import Packed

logger = logging.getLogger(__name__)

MAX_SAMPLES = 128  # used for learning
MAX_COMPARED = 32  # what the source computes takes about 30 MB for each
PICTURE_PROMPT = "Describe this image in detail."

Item = TypeVar("Item")


@dataclass(frozen=True)
class Study:
    """What is kept of the source model.

    Attributes:
        samples: prompts with answers, at most MAX_SAMPLES.
        observed: what the source computes for the first MAX_COMPARED samples, in order; empty if
            nothing will be compared.
        learned: path (our names) -> packed arrays; empty if nothing was learned.
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
        conversion: names the source and plans what will be quantized.
        folder: images, or conversations as `train` reads them; None for a few drawn pictures.
        compares: whether to record what the source computes.
        learns: whether to learn rounding; the plan must then have layers that can be learned.
        reading: called with the number of samples observed so far and the total.
        learning: called with the number of layers learned so far and the total.

    Raises:
        InputError: the folder holds no samples, or invalid ones.
    """
    # Learning subtracts outputs from each other, for which 16 bits are too coarse.
    model, processor = load(conversion.source, dtype="float32" if learns else None)
    samples = read_samples(folder, model, processor)
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


def read_samples(folder: Path | None, model: Lfm2VL, processor: Processor) -> list[Sample]:
    """The user's conversations; else the source's own answers about the user's or drawn images."""
    end_ids = set(model.config.eos_token_ids)
    if folder is not None and not folder.is_dir():
        raise InputError(f"--calibration {folder} is not a folder")
    if folder is not None and find_data(folder):
        make = SampleMaker(processor, end_ids)
        return [make(row) for row in _first(read_rows(folder))]
    prompts = sample_conversations()
    if folder is not None:
        prompts = [user_message(PICTURE_PROMPT, [path]) for path in _first(_images(folder))]
    return [with_answer(model, processor(prompt), end_ids) for prompt in prompts]


def _images(folder: Path) -> list[Path]:
    listed = images_below(folder, recursive=False)
    found = [Path(name) for name, problem in listed if not problem and is_image_name(name)]
    if not found:
        raise InputError(f"--calibration {folder} contains neither data (*.jsonl) nor images")
    return found


def _first(items: list[Item]) -> list[Item]:
    """The first MAX_SAMPLES items; a warning says so if there are more."""
    if len(items) > MAX_SAMPLES:
        logger.warning("--calibration: using the first %d of %d samples", MAX_SAMPLES, len(items))
    return items[:MAX_SAMPLES]
