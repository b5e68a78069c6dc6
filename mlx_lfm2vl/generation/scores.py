"""How likely given answers are, as numbers. This module does not import MLX."""

import math
from dataclasses import dataclass

from ..images.geometry import ImagePlan


@dataclass(frozen=True)
class Likelihood:
    """How likely one answer is.

    Attributes:
        token_ids: of the answer, without the end token.
        logprobs: natural logarithm of the probability of each token, and of the end after them.
    """

    token_ids: list[int]
    logprobs: list[float]

    @property
    def total(self) -> float:
        """Logarithm of the probability that the model gives exactly this answer."""
        return math.fsum(self.logprobs)


@dataclass(frozen=True)
class Scores:
    """How likely several answers to one conversation are.

    Attributes:
        answers: in the order in which they were given.
        prompt_tokens: all tokens of the prompt, image tokens included.
        image_tokens: image tokens of the prompt.
        cached_tokens: tokens of the prompt that an earlier answer had read.
        images: in the order of the prompt.
    """

    answers: list[Likelihood]
    prompt_tokens: int
    image_tokens: int
    cached_tokens: int
    images: list[ImagePlan]
