"""The options of an answer, checked once: sampling, image tiling, length.

This module does not import MLX, so a command can reject bad options before it loads anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from .constraints.constraint import Constraint
from .errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

    # (tokens, logits) -> logits, as in mlx-lm: tokens are the (L,) ids of the prompt and the answer
    # so far, logits are (1, vocab_size).
    LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

DType = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[DType, ...] = get_args(DType)
MAX_LOOKUP = 31  # tokens per draft
KV_BITS = (0, 8, 4)  # of keys and values; 0 keeps them in the weights' dtype
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled. The defaults give greedy decoding.

    Raises:
        InputError: a value is out of range.
    """

    temperature: float = 0.0  # 0 to 100; 0 always takes the most likely token
    top_p: float = 1.0  # above 0, up to 1; total probability of the tokens to draw from; 1 is off
    top_k: int = 0  # number of most likely tokens to draw from; 0 is off
    min_p: float = 0.0  # 0 to 1; least probability relative to the most likely token; 0 is off
    repetition_penalty: float = 1.0  # above 0, up to 100; on tokens that occurred before; 1 is off

    def __post_init__(self) -> None:
        limits = {
            "temperature": (0 <= self.temperature <= 100, "0 to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "min_p": (0 <= self.min_p <= 1, "0 to 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= 100, "above 0 and at most 100"),
        }
        for name, (within, expected) in limits.items():
            if not within:
                value = getattr(self, name)
                raise InputError(f"{name} {value} is out of range, expected {expected}")

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return self.temperature == 0 and self.repetition_penalty == 1


@dataclass(frozen=True)
class ImageOptions:
    """Image settings that override the checkpoint's; None keeps the checkpoint's value."""

    min_image_tokens: int | None = None  # smaller single views are enlarged to about this
    max_image_tokens: int | None = None  # larger views are reduced to this, unless very thin
    do_image_splitting: bool | None = None  # cut large images into tiles
    min_tiles: int | None = None  # minimum number of tiles of an image that is cut
    max_tiles: int | None = None  # maximum number of tiles of an image that is cut
    use_thumbnail: bool | None = None  # add a view of the whole image to its tiles
    jpeg_draft: bool | None = None  # decode large JPEGs at a reduced size
    background: str | None = None  # color below transparent pixels; black below light writing


class AtMost(int):
    """A number of tokens that nobody chose: fewer will do where the context has less room."""


MAX_TOKENS = AtMost(512)


@dataclass(frozen=True)
class AnswerOptions:
    """Options of an answer. Every field is also a keyword of `generate`.

    Raises:
        InputError: a value is out of range or has the wrong type.
    """

    # Length
    # Longest answer, at least 1. A number that was chosen is refused if the context has no room for
    # it; the default becomes what the context leaves.
    max_tokens: int = MAX_TOKENS
    stop: Sequence[str] = ()  # strings that end the answer and are cut off; one string works too

    # Sampling
    sampling: Sampling | None = None  # None uses the checkpoint's recommendation
    temperature: float | None = None  # this and the next four override fields of `sampling`
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None  # 0 to 2**63 - 1; None picks one at random, and `Result` reports it

    # Prompt
    image_options: ImageOptions = ImageOptions()
    tools: Sequence[dict[str, Any]] | None = None  # function descriptions for the chat template
    special_tokens: Sequence[str] = ()  # a fine-tune's own, allowed in messages, shown in answers
    answer_start: str = ""  # the answer begins with this text, and the model continues it

    # Form
    constraint: Constraint | None = None  # what the whole answer must match, `answer_start` too

    # Speed
    lookup: int = 0  # tokens drafted from earlier text and verified in one step; 0 is off
    draft_tokens: int | None = None  # most per round of a draft model; None chooses; 0 is off
    kv_bits: int = 0  # 8 or 4 quantizes keys and values, for long contexts; 0 is off

    # Hooks
    logits_processors: Sequence[LogitsProcessor] = ()  # applied in this order, before sampling
    logprobs: bool = False  # report each token's log-probability before penalty and temperature
    on_encode: Callable[[int, int], object] | None = None  # told image tokens encoded, and all
    on_prefill: Callable[[int, int], object] | None = None  # told prompt tokens read, and all

    def __post_init__(self) -> None:
        for name in ("stop", "special_tokens"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        _expect_number("max_tokens", self.max_tokens, int)
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}, expected at least 1")
        _expect("sampling", self.sampling, Sampling | None)
        _expect("image_options", self.image_options, ImageOptions)
        _expect("answer_start", self.answer_start, str)
        _expect("constraint", self.constraint, Constraint | None)
        for name in SAMPLING_KEYS:
            if getattr(self, name) is not None:
                _expect_number(name, getattr(self, name), int if name == "top_k" else float)
        self._over(Sampling())  # its check raises on values out of range
        if self.seed is not None:
            _expect_number("seed", self.seed, int)
            if not 0 <= self.seed <= LARGEST_SEED:
                raise InputError(f"seed is {self.seed}, expected 0 to 2**63 - 1")
        _expect_number("lookup", self.lookup, int)
        if not 0 <= self.lookup <= MAX_LOOKUP:
            raise InputError(f"lookup is {self.lookup}, expected 0 to {MAX_LOOKUP}")
        if self.draft_tokens is not None:
            _expect_number("draft_tokens", self.draft_tokens, int)
            if not 0 <= self.draft_tokens <= MAX_LOOKUP:
                raise InputError(f"draft_tokens is {self.draft_tokens}, expected 0 to {MAX_LOOKUP}")
        _expect_number("kv_bits", self.kv_bits, int)
        if self.kv_bits not in KV_BITS:
            raise InputError(f"kv_bits is {self.kv_bits}, expected 8, 4 or 0 (off)")

    def changed(self, changes: Mapping[str, Any]) -> AnswerOptions:
        """Return a copy with some fields replaced.

        Raises:
            TypeError: a name is not a field.
            InputError: a value is out of range or has the wrong type.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                import difflib

                near = difflib.get_close_matches(name, [*names, "image", "system"], 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; expected {', '.join(names)}"
                raise TypeError(f"there is no answer option {name!r}{hint}")
        return replace(self, **changes)

    def sampling_over(self, recommended: Sampling) -> Sampling:
        """Return the sampling to use with a checkpoint, given what it recommends.

        Args:
            recommended: used where these options set nothing.
        """
        return self._over(self.sampling or recommended)

    def drawn_seed(self) -> int:
        """Return the seed, or a random one if it is None."""
        return int.from_bytes(os.urandom(4), "big") if self.seed is None else self.seed

    def _over(self, sampling: Sampling) -> Sampling:
        given = {name: getattr(self, name) for name in SAMPLING_KEYS}
        return replace(sampling, **{k: value for k, value in given.items() if value is not None})


Options = AnswerOptions | ImageOptions | None

SAMPLING_KEYS = tuple(field.name for field in fields(Sampling))


class AnswerChanges(TypedDict, total=False):
    """Keywords of `generate`: the fields of `AnswerOptions`, for editors and type checkers."""

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
    special_tokens: Sequence[str]
    answer_start: str
    constraint: Constraint | None
    lookup: int
    draft_tokens: int | None
    kv_bits: int
    logits_processors: Sequence[LogitsProcessor]
    logprobs: bool
    on_encode: Callable[[int, int], object] | None
    on_prefill: Callable[[int, int], object] | None


def merged(options: Options, changes: AnswerChanges) -> AnswerOptions:
    """Return the options of an answer with some fields replaced.

    Args:
        options: None for the defaults; `ImageOptions` stand for defaults with these image options.
        changes: fields of `AnswerOptions` to replace.

    Raises:
        InputError: a value is out of range or has the wrong type.
        TypeError: a name is not a field of `AnswerOptions`.
    """
    if isinstance(options, ImageOptions):
        options = AnswerOptions(image_options=options)
    # Not every caller has a type checker.
    if not isinstance(options, AnswerOptions | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"options is {options!r:.60}, expected AnswerOptions or ImageOptions")
    return (options or AnswerOptions()).changed(changes)


def _texts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple of texts."""
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} holds {texts!r:.80}, expected strings")
    if not all(texts):
        raise InputError(f"{name} holds an empty string; remove it")
    return texts


def _expect(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind))
        raise InputError(f"{name} is {value!r:.60}, expected {expected}")


def _expect_number(name: str, value: object, kind: type) -> None:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, expected {kind.__name__}")
