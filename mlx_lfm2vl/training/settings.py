"""The settings of a training run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..checkpoint.names import PARTS
from ..errors import InputError
from ..options import ImageOptions

Method = Literal["lora", "dora", "full"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "constant"]
METHODS: tuple[str, ...] = get_args(Method)
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
TRAINED_PARTS = tuple(part for part in PARTS if part != "embed")  # "language" includes it
LARGEST_SEED = 2**32 - 1
MAX_EPOCHS = 1_000_000
FEATURE_GB = 1.0  # of image features; those of a 450M tile take 3 MB at most


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one run. Checkpoints store them; a run resumes with some changed."""

    method: Method = "lora"
    parts: tuple[str, ...] = ("language", "connector")
    steps: int = 300
    batch_size: int = 1  # samples per process and micro-step
    accumulate: int = 1  # micro-steps per update
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-4  # peak
    schedule: Schedule = "cosine"  # from the peak to the final fraction of it
    warmup_steps: int = 10
    final_fraction: float = 0.1  # of the peak, reached at the last step
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    rank: int = 16
    scale: float = 2.0  # factor on the low-rank update
    dropout: float = 0.0
    image_options: ImageOptions = ImageOptions()  # fewer image tokens need less memory
    max_length: int | None = None  # tokens; longer conversations are left out
    recompute: bool = False  # gradient checkpointing
    seed: int = 0
    validate_every: int = 100
    save_every: int = 100
    keep: int = 2  # number of newest checkpoints kept on disk
    compile: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        unknown = set(self.parts) - set(TRAINED_PARTS)
        if unknown or not self.parts:
            raise InputError(f"parts {sorted(unknown)} are not among {', '.join(TRAINED_PARTS)}")
        counts = ("steps", "batch_size", "accumulate", "rank")
        often = ("validate_every", "save_every", "keep")
        for name in (*counts, *often, "learning_rate", "max_grad_norm", "scale"):
            if not 0 < getattr(self, name) < math.inf:  # rejects NaN, too
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"max_length is {self.max_length}, expected 1 or more")
        if not 0 <= self.final_fraction <= 1:
            raise InputError(f"final_fraction is {self.final_fraction}, expected 0 to 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, expected 0 or more and less than 1")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"seed is {self.seed}, expected 0 to {LARGEST_SEED}")


def steps_of(epochs: float, conversations: int, update: int) -> int:
    """The number of updates in which every conversation is seen `epochs` times.

    Args:
        epochs: passes over the data; a part of one is allowed.
        conversations: number of conversations.
        update: conversations of one update, over all batches and processes.

    Raises:
        InputError: `epochs` is not a number above 0.
    """
    if not 0 < epochs < MAX_EPOCHS:
        raise InputError(f"epochs is {epochs}, expected more than 0 and less than {MAX_EPOCHS:,}")
    return max(1, math.ceil(epochs * conversations / update))


@dataclass(frozen=True)
class DrafterSettings(TrainSettings):
    """The settings of a run that trains a drafter: the recipe of DSpark, for fewer sequences."""

    method: Method = "full"
    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 6e-4
    warmup_steps: int = 24
    final_fraction: float = 0.0
    anchors: int = 16  # blocks of each conversation in an update
    answer_tokens: int = 512  # longest answer of the target

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("anchors", "answer_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
