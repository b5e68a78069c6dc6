"""The probabilities of an answer's tokens, as OpenAI's protocols have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...prompt.token_bytes import SPECIAL


def token_logprobs(
    tokens: Sequence[bytes], token_ids: Sequence[int], logprobs: Sequence[float]
) -> list[dict[str, Any]]:
    """Describe tokens with their probabilities.

    A token may hold a part of a character: its bytes are exact, and its text is not.

    Args:
        tokens: bytes of all tokens, by id; see `token_bytes`. A model may have more ids than its
            tokenizer has tokens.
        token_ids: tokens of an answer.
        logprobs: natural logarithm of the probability of each of them.
    """
    return [
        _described(tokens[token] if token < len(tokens) else b"", logprob)
        for token, logprob in zip(token_ids, logprobs, strict=True)
    ]


def _described(data: bytes, logprob: float) -> dict[str, Any]:
    data = data.removeprefix(SPECIAL)
    return {
        "token": data.decode(errors="replace"),
        "logprob": logprob,
        "bytes": list(data),
        "top_logprobs": [],
    }
