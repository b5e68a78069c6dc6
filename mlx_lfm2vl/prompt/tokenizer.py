"""Converts text to ids and back: special ids by name, user text as plain text, streaming."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream
from tokenizers.models import BPE

from ..checkpoint.json_file import read_optional_json
from ..checkpoint.plain_file import read_bytes
from ..checkpoint.redownload import download_again
from ..errors import CheckpointError, InputError
from .expressions import check_expressions
from .growth import growth, is_byte_level, number_of_steps
from .token_bytes import token_bytes

MAX_FILE_BYTES = 32 * 2**20  # the largest real file has 18 MB
MAX_BYTES = 8 * 2**20  # of a text once it is normalized: beyond any context, some 8 s and 1 GB
MAX_GROWTH = 64
MAX_STEPS = 32  # each is a pass over the text; the family's tokenizers have 2
MAX_SPECIALS = 10_000_000  # sum of squared lengths; the family's have 0.3 million
MAX_PIECE = 2**16  # characters of a token
MAX_REASON = 200  # characters of a foreign message

DEFAULT_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail": "<|img_thumbnail|>",
    "tool_call_start_token": "<|tool_call_start|>",
    "tool_call_end_token": "<|tool_call_end|>",
}


class Tokenizer:
    """A checkpoint's `tokenizer.json` with the names its `tokenizer_config.json` gives.

    Attributes:
        bos_token, eos_token: strings, empty if the checkpoint names none.
        spaced_tokens: tokens that take in the spaces beside them, or stand as words only.
        image_token_id, image_start_id, image_end_id: ids of the image markers; the latter two
            are None in a vocabulary without markers.
        tool_call_ids: ids before and after the tool calls of an answer, with their texts; empty in
            a vocabulary that lacks one.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            data = read_bytes(path, MAX_FILE_BYTES)
        except FileNotFoundError:
            again = download_again(folder, path.name)
            raise CheckpointError(f"{folder} has no tokenizer.json; {again}") from None
        check_expressions(data)
        with _library_errors(f"{path} cannot be read"):
            self._rust = RustTokenizer.from_buffer(data)
        self._most_bytes = MAX_BYTES // _checked_work(self._rust)
        # Files saved after a tokenizing with limits keep them, and would cut or pad every prompt.
        self._rust.no_truncation()
        self._rust.no_padding()
        # Encoding plain text then never gives a special id.
        self._rust.encode_special_tokens = True
        added = self._rust.get_added_tokens_decoder()
        self._special = {t.content: i for i, t in added.items() if t.special and t.content}
        self.spaced_tokens = {
            t.content for t in added.values() if t.lstrip or t.rstrip or t.single_word
        }
        # Their beginnings are listed, to find those at the end of a user's text.
        if sum(len(text) ** 2 for text in self._special) > MAX_SPECIALS:
            raise CheckpointError(f"{path} has too many special tokens, or too long ones")
        config = read_optional_json(folder / "tokenizer_config.json")
        # Older tools write the names of the tokens here, too.
        config = config or read_optional_json(folder / "special_tokens_map.json")
        if not config:  # prompts would lack their beginning
            again = download_again(folder, "tokenizer_config.json")
            raise CheckpointError(f"{folder} has no tokenizer_config.json; {again}")
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
        calls = [names["tool_call_start_token"], names["tool_call_end_token"]]
        ids = {name: token for name in calls if (token := self.id_of(name)) is not None}
        self.tool_call_ids = ids if len(ids) == 2 else {}
        self._hidden = frozenset(self._special.values())  # from the text of answers
        # User text could form an image token that is not flagged as special.
        self._special.setdefault(self.image_token, self.image_token_id)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token given by its text; None if the vocabulary lacks it."""
        token_id = self._rust.token_to_id(token)
        return None if token_id is None else self._checked([token_id])[0]

    def _checked(self, ids: list[int]) -> list[int]:
        """Return ids that are checked to have a row in the embedding; MLX does not check."""
        if ids and max(ids) > self.largest_id:
            raise CheckpointError("tokenizer.json: the ids of the vocabulary have gaps")
        return ids

    @cached_property
    def largest_id(self) -> int:
        """The highest id that encoding can give."""
        # The model's own ids have no gaps; listing them all would take longer than loading them.
        added = self._rust.get_added_tokens_decoder()
        return max([self._rust.get_vocab_size(with_added_tokens=False) - 1, *added])

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The id of every special token, by its text."""
        return self._special

    def encode_plain(self, text: str) -> list[int]:
        """Encode text in which nothing is special.

        Raises:
            InputError: the text is too long, or not valid Unicode.
            CheckpointError: the tokenizer fails on it.
        """
        self._check_length(text)
        with _library_errors("tokenizer.json fails on this text"):
            return self._checked(self._rust.encode(text, add_special_tokens=False).ids)

    def _check_length(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InputError("the text is not valid Unicode") from None
        if size > self._most_bytes:
            raise InputError(f"the text has {size} bytes, expected at most {self._most_bytes:g}")

    def encode_rendered(self, text: str, guard: str = "") -> list[int]:
        """Encode a rendered chat template, whose special tokens become special ids.

        Args:
            text: output of the template.
            guard: the character that splits special tokens in user text, removed here. See
                `template.guard_specials`.
        """
        self._check_length(text)
        ids: list[int] = []
        # A pattern of all the hundreds of tokens takes longer to compile than to use.
        found = sorted((token for token in self._special if token in text), key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, found))})", text) if found else [text]
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._special[part])
            elif part:
                ids += self.encode_plain(part.replace(guard, "") if guard else part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids, without the special ones."""
        return _decoded(self._rust, [i for i in ids if i not in self._hidden])

    def decode_all(self, ids: Iterable[int]) -> str:
        """Decode ids, with special ones spelled out."""
        return _decoded(self._rust, list(ids))

    def token_bytes(self, rows: int) -> list[bytes]:
        """Return the bytes of every token by its id; see `token_bytes.token_bytes`.

        Raises:
            CheckpointError: the vocabulary is not of bytes.
        """
        if not is_byte_level(self._rust.decoder):
            raise CheckpointError("tokenizer.json: only byte-level tokens can follow a constraint")
        vocabulary = self._rust.get_vocab(with_added_tokens=True)
        return token_bytes(vocabulary, self._special, rows)

    def plain_encoder(self) -> Callable[[str], list[int]]:
        """Return a function that does what `encode_plain` does without holding this tokenizer."""
        rust = self._rust
        return lambda text: rust.encode(text, add_special_tokens=False).ids

    def text_stream(self, shown: Collection[str] = ()) -> "TextStream":
        """Return a decoder that takes one id at a time.

        Args:
            shown: special tokens that are spelled out; others are left out.
        """
        return TextStream(self._rust, self._hidden - {self._special[name] for name in shown})


class TextStream:
    """Decodes ids one by one, in pieces of text that never split a character."""

    def __init__(self, rust: RustTokenizer, hidden: Collection[int]) -> None:
        self._rust, self._hidden = rust, hidden
        self._stream = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._length = 0  # characters given out

    def add(self, token: int) -> str:
        """The text that `token` completes, often empty."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        with _library_errors("tokenizer.json cannot decode an answer"):
            text = self._stream.step(self._rust, token) or ""
        if len(text) > MAX_PIECE:
            raise CheckpointError(f"tokenizer.json: token {token} has {len(text)} characters")
        self._length += len(text)
        return text

    def finish(self) -> str:
        """Return the rest of the text after the last token; half a character becomes U+FFFD."""
        rest = _decoded(self._rust, self._ids)[self._length :]
        self._length += len(rest)
        return rest


@contextlib.contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Turn what the tokenizer library raises into a CheckpointError.

    It raises bare Exceptions. Where its Rust code panics it raises a BaseException, after a trace
    on stderr that Python cannot stop. So files that are known to make it panic are refused before
    (`expressions`, `growth`). A redirection of stderr around every prompt would also swallow what
    other threads write.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001
        raise CheckpointError(f"{what}: {str(error)[:MAX_REASON]}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: the tokenizer library gave up") from None


def _decoded(rust: RustTokenizer, ids: list[int]) -> str:
    with _library_errors("tokenizer.json cannot decode an answer"):
        return rust.decode(ids, skip_special_tokens=False)


def _checked_work(rust: RustTokenizer) -> float:
    """Return the bytes that encoding can make of one, times its steps, if this has bounds.

    The library's work on a text cannot be interrupted or limited. So only steps are run whose
    growth is known, and only the family's model of tokens: others take quadratic time.

    Raises:
        CheckpointError: the tokenizer has a step or a model without bounds, or grows too much.
    """
    if not isinstance(rust.model, BPE):
        raise CheckpointError(f"tokenizer.json: {type(rust.model).__name__} is not supported")
    rust.model.dropout = None  # left over from training: it would make every encoding another one
    # The steps behind the model only place special tokens, which the chat template writes here.
    rust.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    affixes = (rust.model.continuing_subword_prefix, rust.model.end_of_word_suffix)
    factor = growth(rust.normalizer) * growth(rust.pre_tokenizer)
    factor *= 1 + sum(len((affix or "").encode()) for affix in affixes)
    if max(factor, growth(rust.decoder)) > MAX_GROWTH:
        raise CheckpointError(f"tokenizer.json makes texts more than {MAX_GROWTH} times as long")
    steps = number_of_steps(rust.normalizer) + number_of_steps(rust.pre_tokenizer)
    if max(steps, number_of_steps(rust.decoder)) > MAX_STEPS:
        raise CheckpointError(f"tokenizer.json has more than {MAX_STEPS} steps")
    return factor * max(1, steps)


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
