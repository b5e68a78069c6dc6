"""Renders a checkpoint's chat template in a sandbox, and keeps user text apart from markers."""

import datetime
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoint.json_file import read_optional_json
from ..checkpoint.plain_file import read_bytes
from ..checkpoint.redownload import download_again
from ..errors import CheckpointError, InputError
from .messages import Message

MAX_BYTES = 2**17  # the largest templates in use have 30 kB

TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates/default.jinja")

MAX_REASON = 300  # characters of a template's own message

PRIVATE_USE = (*range(0xE000, 0xF8FF), *range(0xF0000, 0xFFFFD))

# Besides jinja2's own errors, what a template raises on messages it was not written for.
REFUSALS = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


class ChatTemplate:
    """Renders messages as the prompt text that a checkpoint was trained on.

    The environment is the one of transformers 5.23: `trim_blocks`, `lstrip_blocks`, loop controls,
    `{% generation %}`, `strftime_now`, `raise_exception`, and a `tojson` that neither sorts keys
    nor escapes HTML.
    """

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token

    @classmethod
    def from_folder(cls, folder: Path, bos_token: str, eos_token: str) -> "ChatTemplate":
        """Read the template of a checkpoint folder; see `find_template`.

        Raises:
            CheckpointError: the folder has none, or it cannot be read.
        """
        return cls(find_template(folder), bos_token, eos_token)

    def names(self, key: str) -> bool:
        """Whether the template mentions a key of messages."""
        return re.search(rf"\b{re.escape(key)}\b", self.source) is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Render the prompt text of a conversation.

        Args:
            messages: `{"role": ..., "content": text or list of items}`.
            tools: function descriptions, for templates that know tools.
            add_generation_prompt: end with the header of the assistant's turn.

        Raises:
            InputError: the template rejects these messages.
        """
        import jinja2

        template = _compiled(self.source)
        from .template_limits import BASE_UNITS, METER, UNITS_PER_INPUT, Meter, weight

        # Far more than any input weighs, so that weighing ends at the inputs' own size.
        token = METER.set(Meter(2**40))
        try:
            METER.set(Meter(BASE_UNITS + UNITS_PER_INPUT * weight([messages, tools])))
            return template.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (jinja2.TemplateError, *REFUSALS) as error:
            raise InputError(
                f"the chat template refuses these messages: {_reason(error)}"
            ) from None
        finally:
            METER.reset(token)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """Return the template of a source. It holds nothing of a rendering, so processors share it."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols

    from .template_limits import LimitedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the model writes; here it is only its body."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    if len(source) > MAX_BYTES:
        raise CheckpointError(f"the chat template has more than {MAX_BYTES} characters")
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, SyntaxError, *REFUSALS) as error:
        raise CheckpointError(f"the chat template does not compile: {_reason(error)}") from None


def find_template(folder: Path) -> str:
    """Return the source of a checkpoint's chat template.

    The places are tried in the order of transformers 5.24: those of its processor, and then the
    tokenizer's, which its processor does not read. Of several named templates, the one named
    `default` is used, with tools and without.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    for name in ("processor_config.json", "chat_template.json"):
        source = _default(read_optional_json(folder / name).get("chat_template"))
        if source is not None:
            return source
    for name in TEMPLATE_FILES:
        if (folder / name).exists():
            return _read_text(folder / name)
    source = _default(read_optional_json(folder / "tokenizer_config.json").get("chat_template"))
    if source is None:
        again = download_again(folder, TEMPLATE_FILES[0])
        raise CheckpointError(f"{folder} has no chat template ({TEMPLATE_FILES[0]}); {again}")
    return source


def _default(value: object) -> str | None:
    """Return the default of a template or of several, by name or listed; None if there is none."""
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        value = {str(entry.get("name")): entry.get("template") for entry in entries}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) and value else None


def _read_text(path: Path) -> str:
    """Read a template as a text file is read: every kind of line end becomes "\\n"."""
    try:
        return io.StringIO(read_bytes(path, MAX_BYTES).decode(), newline=None).read()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def guard_specials(value: Any, specials: Collection[str]) -> tuple[Any, str]:
    """Make sure no string in `value` can form a special token, alone or with its neighbors.

    A private-use character splits what could become one. The tokenizer removes the character after
    it has found the template's own special tokens.

    Args:
        value: strings in nested lists and dicts.
        specials: text of all special tokens.

    Returns:
        The same structure with guarded strings, and the guard character.

    Raises:
        InputError: the value holds something other than plain data and valid text.
    """
    guard = _unused_character(value)
    split_beginning = _beginning_splitter(frozenset(specials))

    def guarded(item: Any) -> Any:
        if isinstance(item, str):
            return split_beginning(_split_whole(item, specials, guard), guard)
        if isinstance(item, dict):
            return {guarded(key): guarded(entry) for key, entry in item.items()}
        if isinstance(item, (list, tuple)):
            return [guarded(entry) for entry in item]
        return item

    return guarded(value), guard


def _unused_character(value: Any) -> str:
    """Return a private-use character that `value` does not contain."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the messages hold text that is not valid Unicode") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the messages are not plain data: {error}") from None
    used = set(text)
    guard = next((c for c in map(chr, PRIVATE_USE) if c not in used), None)
    if guard is None:
        raise InputError("the messages use up all private-use characters")
    return guard


def _split_whole(text: str, specials: Collection[str], guard: str) -> str:
    """Split every special token in a string, after its first character.

    With `|` as the guard, "Bye.<eos>" becomes "Bye.<|eos>".
    """
    # A pattern of all the hundreds of tokens takes longer to compile than a short prompt to answer.
    found = [re.escape(token) for token in specials if token in text]
    if not found:
        return text
    # Looking ahead finds tokens that overlap, too.
    return re.sub(f"(?={'|'.join(found)})(.)", rf"\1{guard}", text, flags=re.DOTALL)


@lru_cache(maxsize=8)  # a checkpoint has hundreds of special tokens
def _beginning_splitter(specials: frozenset[str]) -> Callable[[str, str], str]:
    """Make a function that splits the beginning of a special token at the end of a string.

    The template may write the next string right after it, and then "Bye.<e" and "os>" would give
    "Bye.<eos>". With `|` as the guard, the first string becomes "Bye.<|e".

    Returns:
        (text, guard) -> text.
    """
    beginnings = {token[:end] for token in specials for end in range(1, len(token))}
    longest = max(map(len, specials))

    def split_beginning(text: str, guard: str) -> str:
        for start in range(max(0, len(text) - longest), len(text)):
            if text[start:] in beginnings:
                return f"{text[: start + 1]}{guard}{text[start + 1 :]}"
        return text

    return split_beginning


def _reason(error: BaseException) -> str:
    """Return an error's message on one short line."""
    return " ".join(str(error)[:MAX_REASON].split())


def _now(form: str) -> str:
    if len(form) > MAX_REASON:
        raise ValueError("the form of the date is too long")
    return datetime.datetime.now().strftime(form)


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
