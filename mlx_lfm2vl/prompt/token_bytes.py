"""The bytes that each token of a byte-level vocabulary stands for."""

from collections.abc import Mapping

SPECIAL = b"\xff"  # begins the name of a special token; no UTF-8 text holds this byte


def _characters() -> dict[int, int]:
    """Map the characters of a byte-level vocabulary to their bytes, as GPT-2's tokenizer does."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{byte: byte for byte in shown}, **{256 + n: byte for n, byte in enumerate(hidden)}}


_BYTES = _characters()


def token_bytes(
    vocabulary: Mapping[str, int], special: Mapping[str, int], rows: int
) -> list[bytes]:
    """Return the bytes of every token by its id.

    Args:
        vocabulary: ids by text, of all tokens.
        special: ids by text, of special tokens; their bytes are `SPECIAL` and the name.
        rows: length of the list; ids without a token have no bytes.
    """
    names = {token: name for name, token in special.items()}
    found = [b""] * rows
    for text, token in vocabulary.items():
        if token >= rows:
            continue
        if token in names:
            found[token] = SPECIAL + names[token].encode()
            continue
        try:
            found[token] = text.translate(_BYTES).encode("latin-1")
        except UnicodeEncodeError:  # an added token in plain text
            found[token] = text.encode(errors="replace")
    return found
