"""What a caller may set, checked once: how tokens are drawn, how images are cut, how long to go on.

Nothing here imports MLX, so that a command can refuse wrong options before it loads anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from .errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

    # (tokens, logits) -> logits, as mlx-lm has them: (L,) ids of the prompt and the answer so far,
    # and (1, vocab_size).
    LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

DType = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[DType, ...] = get_args(DType)
MAX_LOOKUP = 31  # tokens drafted at a time
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. The defaults are plain greedy."""

    temperature: float = 0.0  # 0: always the most likely token
    top_p: float = 1.0  # 1: off
    top_k: int = 0  # 0: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off; acts on every token of prompt and answer

    def __post_init__(self) -> None:
        limits = {
            "temperature": 0 <= self.temperature <= 100,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty <= 100,
        }
        for name, within in limits.items():
            if not within:
                raise InputError(f"{name} {getattr(self, name)} is out of range")

    @property
    def is_greedy(self) -> bool:
        """Whether every token is simply the most likely one."""
        return self.temperature == 0 and self.repetition_penalty == 1


@dataclass(frozen=True)
class ImageOptions:
    """What a caller may change of a checkpoint's image settings; None keeps the checkpoint's."""

    min_image_tokens: int | None = None
    max_image_tokens: int | None = None
    do_image_splitting: bool | None = None
    min_tiles: int | None = None
    max_tiles: int | None = None
    use_thumbnail: bool | None = None
    jpeg_draft: bool | None = None


@dataclass(frozen=True)
class AnswerOptions:
    """What a caller may set for an answer. Every field is a keyword of `generate`, too.

    Raises:
        InputError: a value is out of range or of another type.
    """

    # How long the answer is.
    max_tokens: int = 512  # at most
    stop: Sequence[str] = ()  # strings that end it and are cut off; a single string will do

    # How its tokens are drawn.
    sampling: Sampling | None = None  # None: as recommended for the checkpoint
    temperature: float | None = None  # these five replace single values of `sampling`
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None  # makes a drawn answer repeatable; None picks one and reports it

    # What the prompt is made of, beside the messages.
    image_options: ImageOptions = ImageOptions()
    tools: Sequence[dict[str, Any]] | None = None  # function descriptions for the chat template

    # How fast it comes.
    lookup: int = 0  # tokens drafted from earlier text and verified in one step; 0 is off

    # What a program may look at or change on the way.
    logits_processors: Sequence[LogitsProcessor] = ()  # act before the sampling, in this order
    logprobs: bool = False  # report the log-probability of every token, before the sampling
    on_prefill: Callable[[int, int], object] | None = None  # gets prompt tokens read, and of all

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        _expect_number("max_tokens", self.max_tokens, int)
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}, expected at least 1")
        if not all(isinstance(text, str) for text in stop):
            raise InputError(f"stop holds {stop!r:.80}, expected strings")
        if not all(stop):
            raise InputError("a stop string is empty")
        _expect("sampling", self.sampling, Sampling | None)
        _expect("image_options", self.image_options, ImageOptions)
        for name in SAMPLING_KEYS:
            if getattr(self, name) is not None:
                _expect_number(name, getattr(self, name), int if name == "top_k" else float)
        self._over(Sampling())  # refuses what is out of range
        if self.seed is not None:
            _expect_number("seed", self.seed, int)
            if not 0 <= self.seed <= LARGEST_SEED:
                raise InputError(f"seed {self.seed} is not from 0 to 2**63 - 1")
        _expect_number("lookup", self.lookup, int)
        if not 0 <= self.lookup <= MAX_LOOKUP:
            raise InputError(f"lookup {self.lookup} is not from 0 to {MAX_LOOKUP}")
        if self.lookup and self.logits_processors:
            raise InputError("lookup cannot be combined with logits_processors")

    def changed(self, changes: Mapping[str, Any]) -> AnswerOptions:
        """These options with some fields set anew.

        Raises:
            TypeError: a name is not one of a field.
            InputError: a value is out of range or of another type.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                import difflib

                near = difflib.get_close_matches(name, [*names, "image", "system"], 1)
                hint = f"; did you mean {near[0]!r}?" if near else f", only {', '.join(names)}"
                raise TypeError(f"there is no answer option {name!r}{hint}")
        return replace(self, **changes)

    def sampling_over(self, recommended: Sampling) -> Sampling:
        """How tokens are drawn with a checkpoint that comes with a recommendation.

        Raises:
            InputError: lookup is on and the sampling is not greedy.
        """
        sampling = self._over(self.sampling or recommended)
        if self.lookup and not sampling.is_greedy:
            raise InputError("lookup needs greedy sampling: temperature 0 and repetition_penalty 1")
        return sampling

    def drawn_seed(self) -> int:
        """The seed, or a new one for None."""
        return int.from_bytes(os.urandom(4), "big") if self.seed is None else self.seed

    def _over(self, sampling: Sampling) -> Sampling:
        given = {name: getattr(self, name) for name in SAMPLING_KEYS}
        return replace(sampling, **{k: value for k, value in given.items() if value is not None})


SAMPLING_KEYS = tuple(field.name for field in fields(Sampling))


class AnswerChanges(TypedDict, total=False):
    """The keywords of `generate`: the fields of `AnswerOptions`, for editors and type checkers."""

    max_tokens: int
    stop: Sequence[str]
    sampling: Sampling | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    image_options: ImageOptions
    tools: Sequence[dict[str, Any]] | None
    lookup: int
    logits_processors: Sequence[LogitsProcessor]
    logprobs: bool
    on_prefill: Callable[[int, int], object] | None


def _expect(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind))
        raise InputError(f"{name} is {value!r:.60}, expected {expected}")


def _expect_number(name: str, value: object, kind: type) -> None:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, expected {kind.__name__}")
