"""Converts text to ids and back: special ids by name, user text as plain text, streaming."""

import re
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream

from ..checkpoint.json_file import read_optional_json
from ..errors import CheckpointError

DEFAULT_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail": "<|img_thumbnail|>",
}


class Tokenizer:
    """A checkpoint's `tokenizer.json` with the names its `tokenizer_config.json` gives.

    Attributes:
        bos_token, eos_token: strings, empty if the checkpoint names none.
        image_token_id, image_start_id, image_end_id: ids of the image markers; the latter two
            are None in a vocabulary without markers.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        try:
            self._rust = RustTokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001  the library raises a bare Exception
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        # Files saved after a tokenizing with limits keep them, and would cut or pad every prompt.
        self._rust.no_truncation()
        self._rust.no_padding()
        # Encoding plain text then never gives a special id.
        self._rust.encode_special_tokens = True
        added = self._rust.get_added_tokens_decoder()
        self._special = {token.content: i for i, token in added.items() if token.special}
        config = read_optional_json(folder / "tokenizer_config.json")
        self.bos_token = _content(config.get("bos_token"))
        self.eos_token = _content(config.get("eos_token"))
        names = {key: _named(config, key) or text for key, text in DEFAULT_TOKENS.items()}
        self.image_token = names["image_token"]
        image_token_id = self.id_of(self.image_token)
        if image_token_id is None:
            raise CheckpointError(f"{path} does not know the image token {self.image_token!r}")
        self.image_token_id = image_token_id
        self.image_start_id = self.id_of(names["image_start_token"])
        self.image_end_id = self.id_of(names["image_end_token"])
        self.image_thumbnail_id = self.id_of(names["image_thumbnail"])
        # User text could form an image token that is not flagged as special.
        self._special.setdefault(self.image_token, self.image_token_id)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token given by its text; None if the vocabulary lacks it."""
        return self._rust.token_to_id(token)

    @property
    def largest_id(self) -> int:
        """The highest id that encoding can give."""
        # The model's own ids have no gaps; listing them all would take longer than loading them.
        added = self._rust.get_added_tokens_decoder()
        return max(self._rust.get_vocab_size(with_added_tokens=False) - 1, *added)

    @property
    def special_tokens(self) -> Collection[str]:
        """The text of every special token."""
        return self._special

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode_plain(self, text: str) -> list[int]:
        """Encode text in which nothing is special."""
        return self._rust.encode(text, add_special_tokens=False).ids

    def encode_rendered(self, text: str, guard: str = "") -> list[int]:
        """Encode a rendered chat template, whose special tokens become special ids.

        Args:
            text: output of the template.
            guard: the character that splits special tokens in user text, removed here. See
                `template.guard_specials`.
        """
        ids: list[int] = []
        for i, part in enumerate(self._special_pattern.split(text)):
            if i % 2:
                ids.append(self._special[part])
            elif part:
                ids += self.encode_plain(part.replace(guard, "") if guard else part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids, without the special ones."""
        return self._rust.decode(list(ids), skip_special_tokens=True)

    def decode_all(self, ids: Iterable[int]) -> str:
        """Decode ids, with special ones spelled out."""
        return self._rust.decode(list(ids), skip_special_tokens=False)

    def text_stream(self) -> "TextStream":
        """Return a decoder that takes one id at a time."""
        return TextStream(self._rust)


class TextStream:
    """Decodes ids one by one, in pieces of text that never split a character."""

    def __init__(self, rust: RustTokenizer) -> None:
        self._rust = rust
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._length = 0  # characters given out

    def add(self, token: int) -> str:
        """The text that `token` completes, often empty."""
        self._ids.append(token)
        text = self._stream.step(self._rust, token) or ""
        self._length += len(text)
        return text

    def finish(self) -> str:
        """Return the rest of the text after the last token; half a character becomes U+FFFD."""
        rest = self._rust.decode(self._ids, skip_special_tokens=True)[self._length :]
        self._length += len(rest)
        return rest


def _content(token: object) -> str:
    """Return the text of a token entry, which is a string or an object that holds one."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _named(config: dict, key: str) -> str:
    """Return the name of a token, from any of the places that config revisions use."""
    places = (
        config,
        config.get("extra_special_tokens"),
        config.get("model_specific_special_tokens"),
    )
    for place in places:
        if isinstance(place, dict) and _content(place.get(key)):
            return _content(place[key])
    return ""
