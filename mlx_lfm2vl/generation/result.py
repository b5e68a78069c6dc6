"""A finished answer, a piece of a streamed one, and how long its stages took.

This module does not import MLX: a program that asks another process for answers needs it too.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..images.geometry import ImagePlan
from ..options import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Timings:
    """Duration of each stage of an answer, in seconds."""

    prepare: float  # image decoding, chat template and tokenizer, on the host
    first_token: float  # from patches to the first token on the host
    decode: float  # from the first token to the last

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return self.prepare + self.first_token + self.decode


@dataclass(frozen=True, repr=False)
class Result:
    """A finished answer. `str(result)` is its text."""

    text: str  # with the start it was given, without the stop string and tool calls
    token_ids: list[int]  # written by the model, without the end token
    finish_reason: FinishReason  # "stop": end token or stop string; "length": max_tokens
    prompt_tokens: int  # all tokens of the prompt, image tokens included
    image_tokens: int  # image tokens of the prompt
    images: list[ImagePlan]  # in the order of the prompt
    sampling: Sampling  # the sampling that was used
    seed: int  # the seed that was used
    timings: Timings
    peak_memory_bytes: int  # peak of MLX's memory since the answer or its batch began
    drafted_tokens: int = 0  # tokens drafted by a draft model or prompt lookup, and verified
    accepted_tokens: int = 0  # drafted tokens that were right
    logprobs: list[float] | None = None  # natural logarithm, per token; None if not requested
    cached_tokens: int = 0  # tokens of the prompt that an earlier answer had read
    tool_calls: list[dict[str, Any]] = field(
        default_factory=list[dict[str, Any]]
    )  # name and arguments of each
    rounds: dict[int, int] = field(
        default_factory=dict[int, int]
    )  # how many drafts had so many tokens accepted

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        return f"Result({text!r}, {len(self.token_ids)} tokens, {self.finish_reason})"

    def _repr_markdown_(self) -> str:
        """Show the answer as text in a notebook."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data; sizes of images are [height, width] in pixels."""
        values = {
            "text": self.text,
            "tool_calls": self.tool_calls,
            "token_ids": self.token_ids,
            "prompt_tokens": self.prompt_tokens,
            "image_tokens": self.image_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": len(self.token_ids),
            "finish_reason": self.finish_reason,
            "lookup": {"drafted": self.drafted_tokens, "accepted": self.accepted_tokens},
            "drafts": {
                "drafted": self.drafted_tokens,
                "accepted": self.accepted_tokens,
                "rounds": sum(self.rounds.values()),
                "accepted_lengths": [
                    self.rounds.get(length, 0) for length in range(max(self.rounds, default=-1) + 1)
                ],
                "tokens_per_round": round(self.tokens_per_round, 3),
            },
            "sampling": {**asdict(self.sampling), "seed": self.seed},
            "images": [plan.to_dict() for plan in self.images],
            "timings": {
                "prepare_seconds": round(self.timings.prepare, 4),
                "first_token_seconds": round(self.timings.first_token, 4),
                "decode_seconds": round(self.timings.decode, 4),
                "tokens_per_second": round(self.tokens_per_second, 2),
            },
            "peak_memory_bytes": self.peak_memory_bytes,
        }
        return values if self.logprobs is None else {**values, "logprobs": self.logprobs}

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token; 0 if there is no second one."""
        later = len(self.token_ids) - 1
        return later / self.timings.decode if later > 0 and self.timings.decode > 0 else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Tokens per verified draft: those accepted, and the model's own; 0 without drafts."""
        rounds = sum(self.rounds.values())
        accepted = sum(length * count for length, count in self.rounds.items())
        return (accepted + rounds) / rounds if rounds else 0.0


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed answer: new text, and the tokens since the last piece."""

    text: str
    token_ids: list[int]  # since the last piece; a stop string may withhold their text
    result: Result | None = None  # of the whole answer, on the last piece only
    logprobs: list[float] | None = None  # of these tokens; None if not requested
