"""A model's tokens as llguidance needs them, made once for each tokenizer."""

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..constraints.constraint import engine
from ..prompt.token_bytes import SPECIAL
from ..prompt.tokenizer import Tokenizer

_CLOSING = b'"]})'
_VALUES = (b"[]", b"{}", b"null", b"0", b"true", b"false")  # short JSON values
_OPENING = (b"[", b"{", b"(")
_LETTER = b"k"  # begins no JSON value, so it is allowed within text only
_MOST_LIKELY = 3
_WHITE = 200  # the kind of tokens of white space alone, which comes last


class _Wrapped:
    """What llguidance reads of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes], ends: Sequence[int]) -> None:
        self.tokens, self.eos_token_id = tokens, ends[0]
        self.special_token_ids = [i for i, token in enumerate(tokens) if token[:1] == SPECIAL]
        # llguidance holds this object, and Python cannot find a cycle through it.
        self._encode = tokenizer.plain_encoder()

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: of llguidance.
        ends: ids that end an answer.
        rows: number of logits.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int, ends: Sequence[int]) -> None:
        data = tokenizer.token_bytes(rows)
        wrapped = _Wrapped(tokenizer, data, ends)
        self.tokens = engine().LLTokenizer(wrapped, n_vocab=rows, eos_token=list(ends))
        self.ends, self.rows = frozenset(ends), rows
        self._data = data
        self._classes: list[np.ndarray] = []  # ids by their first byte, longest first
        self._likely = self._quotes = np.array([], np.int64)  # ids, best first
        self._letter = 0

    def matcher(self, grammar: str) -> Any:
        """Return llguidance's matcher of a grammar, at its beginning."""
        return engine().LLMatcher(self.tokens, grammar, log_level=0)

    def words(self, matcher: Any) -> np.ndarray:
        """Return the tokens that may come next as bits, in int32 words."""
        words = np.zeros((self.rows + 31) // 32, np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        return words

    def unpacked(self, words: np.ndarray) -> np.ndarray:
        """Return (rows,) bool of the bits of `words`."""
        return np.unpackbits(words.view(np.uint8), bitorder="little")[: self.rows].view(bool)

    def toward_the_end(self, words: np.ndarray) -> Iterator[int]:
        """Yield tokens that may come next, the one that likely leads to an end first.

        Within text that is a quotation mark. Elsewhere these are tokens that close something, a
        comma, short values. Then comes the longest token of each kind: letters, digits, and every
        sign.
        """
        if not self._classes:
            self._sort()
        allowed = self.unpacked(words)
        likely = self._quotes if allowed[self._letter] else self._likely
        yield from likely[allowed[likely]][:_MOST_LIKELY].tolist()
        for ids in self._classes:
            hits = allowed[ids]
            first = int(hits.argmax())
            if hits[first]:
                yield int(ids[first])

    def _sort(self) -> None:
        lengths = np.fromiter(map(len, self._data), np.int64, self.rows)
        firsts = np.frombuffer(b"".join(data[:1] or SPECIAL for data in self._data), np.uint8)
        longest_first = np.argsort(-lengths, kind="stable")
        kinds = np.array([_kind(byte) for byte in range(256)])[firsts][longest_first]
        kinds[[not self._data[i].strip() for i in longest_first]] = _WHITE
        classes = [longest_first[kinds == kind] for kind in np.unique(kinds) if kind >= 0]
        signs = np.flatnonzero(np.isin(firsts, list(_CLOSING + b",[{(ntf0123456789")))
        ranks = [(rank, i) for i in signs.tolist() if (rank := _rank(self._data[i])) is not None]
        self._likely = np.array([token for _, token in sorted(ranks)], np.int64)
        quotes = [token for token in self._likely.tolist() if self._data[token][:1] == b'"']
        self._quotes = np.array(quotes, np.int64)
        self._letter = self._data.index(_LETTER) if _LETTER in self._data else 0
        self._classes = classes  # last, because other threads look at it


def _rank(data: bytes) -> tuple[int, int] | None:
    """Say how well a token leads to the end of JSON: lower is better, None is badly."""
    if not data.strip(_CLOSING):
        return (0 if data[0] != ord('"') else 1), -len(data)
    if data in (b",", b", "):
        return 2, -len(data)
    if data in _VALUES:
        return 3, _VALUES.index(data)
    if data.isdigit():
        return 4, -len(data)
    if data in _OPENING:
        return 5, _OPENING.index(data)
    return None


def _kind(byte: int) -> int:
    """Return the kind of tokens that begin with a byte; those of text come first."""
    if byte == SPECIAL[0]:
        return -1
    if bytes([byte]).isalpha():
        return 0
    if bytes([byte]).isdigit():
        return 1
    return 2 if byte >= 0x80 else 3 + byte


_kept: WeakKeyDictionary[Tokenizer, Any] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer, rows: int, ends: Sequence[int]) -> Vocabulary:
    """Return the vocabulary of a tokenizer; it is made at first and then kept.

    Args:
        tokenizer: of the model.
        rows: number of the model's logits.
        ends: ids that end an answer, at least one.

    Raises:
        CheckpointError: the tokenizer is not of bytes.
    """
    kept = _kept.setdefault(tokenizer, {})
    key = rows, tuple(ends)
    if key not in kept:
        kept[key] = Vocabulary(tokenizer, rows, ends)
    return kept[key]
