"""How much longer the steps of a `tokenizer.json` can make a text.

The tokenizer library runs any chain of steps, without limits on time or memory: sixty steps that
replace "a" by "aa" never end. Its work cannot be interrupted, so the chain is judged beforehand.
"""

import json
import math
from typing import Any

from ..errors import CheckpointError

# Bytes that one byte can become. Unicode itself gives those of the normal forms.
FACTORS = {
    "BertNormalizer": 4,
    "BertPreTokenizer": 1,
    "ByteFallback": 4,
    "ByteLevel": 2,
    "CharDelimiterSplit": 1,
    "Digits": 1,
    "FixedLength": 1,
    "Fuse": 1,
    "Lowercase": 2,
    "Metaspace": 4,
    "NFC": 3,
    "NFD": 3,
    "NFKC": 11,
    "NFKD": 11,
    "Nmt": 3,
    "Punctuation": 1,
    "Split": 1,
    "Strip": 1,
    "StripAccents": 1,
    "UnicodeScripts": 1,
    "Whitespace": 1,
    "WhitespaceSplit": 1,
}
WRITERS = {"Prepend": "prepend", "WordPiece": "prefix", "BPEDecoder": "suffix", "CTC": "pad_token"}
NEEDED = {"FixedLength": "length", "Prepend": "prepend"}  # values that must not be 0 or empty
CHAINS = ("normalizers", "pretokenizers", "decoders")


def growth(step: Any) -> float:
    """Return a bound on the bytes that a step, or a chain of them, makes of one byte.

    Args:
        step: a normalizer, pre-tokenizer or decoder of the tokenizer library, or None.

    Raises:
        CheckpointError: the step is of a kind that has no bound here.
    """
    return 1 if step is None else _growth(json.loads(step.__getstate__()))


def number_of_steps(step: Any) -> int:
    """Return how many steps a normalizer, pre-tokenizer or decoder consists of."""
    return 0 if step is None else _number(json.loads(step.__getstate__()))


def is_byte_level(decoder: Any) -> bool:
    """Return whether a decoder does no more than turn the characters of tokens into bytes."""
    if decoder is None:
        return False
    values = json.loads(decoder.__getstate__())
    return [step["type"] for step in _inner(values) or [values]] == ["ByteLevel"]


def _number(values: dict[str, Any]) -> int:
    inner = _inner(values)
    return 1 if inner is None else sum(map(_number, inner))


def _inner(values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the steps of a chain; None if it is a single step."""
    return next((values[key] for key in CHAINS if key in values), None)


def _growth(values: dict[str, Any]) -> float:
    kind = values["type"]
    inner = _inner(values)
    if inner is not None:
        return math.prod(map(_growth, inner))
    if _gives_up(values):
        raise CheckpointError(f"tokenizer.json: the step {kind} has a value that is not supported")
    if kind == "Replace":
        pattern, content = values["pattern"], len(values["content"].encode())
        if "String" not in pattern:
            return 1 + content  # an expression can match between all characters
        return max(1, content / max(1, len(pattern["String"].encode())))
    if kind in WRITERS:
        return 1 + len(values[WRITERS[kind]].encode())
    if kind not in FACTORS:
        raise CheckpointError(f"tokenizer.json: the step {kind} is not supported")
    return FACTORS[kind]


def _gives_up(values: dict[str, Any]) -> bool:
    """Tell whether the library gives up on some texts, with a trace on stderr, at a step."""
    kind = values["type"]
    if kind == "Strip":  # of a normalizer, which has no such key, or of a decoder
        return values.get("stop", 0) > 0
    return kind in NEEDED and not values[NEEDED[kind]]
