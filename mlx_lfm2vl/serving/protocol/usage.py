"""What answers have cost, and the names of replies, as OpenAI's protocols have them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ...generation.result import Result

if TYPE_CHECKING:
    from ...generation.score import Scores


Answered: TypeAlias = "Result | Scores"


def token_usage(answers: Sequence[Answered]) -> dict[str, Any]:
    """Return the tokens of several answers to one prompt, which counts once.

    The answer that came first has read the prompt for the others.
    """
    first = min(answers, key=lambda answer: answer.cached_tokens)
    return _usage([first], answers)


def summed_usage(answers: Sequence[Answered]) -> dict[str, Any]:
    """Return the tokens of several prompts and their answers."""
    return _usage(answers, answers)


def _usage(prompts: Sequence[Answered], answers: Sequence[Answered]) -> dict[str, Any]:
    read = sum(answer.prompt_tokens for answer in prompts)
    written = sum(len(answer.token_ids) for answer in answers if isinstance(answer, Result))
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {
            "cached_tokens": sum(answer.cached_tokens for answer in prompts),
            "image_tokens": sum(answer.image_tokens for answer in prompts),
        },
    }


def new_id(prefix: str) -> str:
    """Return a name that no other reply has, such as "call_9f86d081884c7d65"."""
    return f"{prefix}_{secrets.token_hex(12)}"
