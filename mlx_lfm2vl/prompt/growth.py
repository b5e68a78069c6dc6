"""How much longer the steps of a `tokenizer.json` can make a text.

The tokenizer library runs any chain of steps, without limits on time or memory: sixty steps that
replace "a" by "aa" never end. Its work cannot be interrupted, so the chain is judged beforehand.
"""

import json
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
CHAINS = ("normalizers", "pretokenizers", "decoders")


def growth(step: Any) -> float:
    """Return a bound on the bytes that a step, or a chain of them, makes of one byte.

    Args:
        step: a normalizer, pre-tokenizer or decoder of the tokenizer library, or None.

    Raises:
        CheckpointError: the step is of a kind that has no bound here.
    """
    return 1 if step is None else _growth(json.loads(step.__getstate__()))


def _growth(values: dict[str, Any]) -> float:
    kind = values["type"]
    if kind == "Sequence":
        factor = 1.0
        for step in next(values[key] for key in CHAINS if key in values):
            factor *= _growth(step)
        return factor
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
