"""Rows of training data: the forms that data sets have, read into conversations and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import InputError
from ..images.source import ImageLimits, ImageSource, open_image, read_size
from .data_files import DATA_SUFFIXES, find_data, read_entries
from .keys import is_empty, known_values, unknown
from .messages import read_messages
from .placing import place_images, refuse_other_marks
from .sources import read_path_or_base64
from .template import Message

PROBLEMS_SHOWN = 20
NAME_SHOWN = 100  # characters of an image's name in an error

# Each group has one meaning, and a row uses one key of it.
CONVERSATION_KEYS = ("messages", "conversations")
QUESTION_KEYS = ("prompt", "question", "query", "instruction")
INPUT_KEYS = ("input",)  # what an instruction is about, as Alpaca writes it
ANSWER_KEYS = ("answer", "completion", "response", "output")
CAPTION_KEYS = ("text", "caption")  # of an image without a question
IMAGE_KEYS = ("image", "images", "file_name")
GROUPS = (
    *(CONVERSATION_KEYS, QUESTION_KEYS, INPUT_KEYS, ANSWER_KEYS, CAPTION_KEYS, IMAGE_KEYS),
    ("system",),
)
ROW_KEYS = tuple(key for group in GROUPS for key in group)
# They say where a row comes from, and nothing to the model.
ROW_BESIDE = ("id", "question_id", "image_id", "source", "dataset", "split", "metadata")
ROW_BESIDE += ("width", "height")  # of the image, in rows of InternVL
PANDAS_INDEX = "__index_level_0__"  # a column of Parquet files that pandas writes
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
SHAREGPT_ROLES |= {role: role for role in ("system", "user", "assistant")}


def read_rows(path: Path, *, answered: bool = True) -> list[list[Message]]:
    """Read and check the conversations of a file or folder, without decoding images.

    A row is `{"messages": [...]}`, or the short form `{"image": PATH or [PATHS], "prompt": ...,
    "answer": ...}` with an optional `"system"`, or a form of other tools; `docs/training.md` lists
    them. Image paths are relative to the file.

    Args:
        path: of the file or folder.
        answered: whether rows must have answers; if not, a row that ends with a question gets an
            empty one.

    Raises:
        InputError: some rows are wrong. The message lists their places.
    """
    files = find_data(path)
    if not files:
        raise InputError(f"{path} has no data: no file ends with {', '.join(DATA_SUFFIXES)}")
    rows: list[list[Message]] = []
    for file in files:
        problems = []
        for place, row in read_entries(file):
            try:
                rows.append(_conversation(row, file.parent, answered))
            except InputError as error:
                problems.append(f"{place}: {error}")
        if problems:
            raise bad_rows(str(file), problems)
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def bad_rows(where: str, problems: Sequence[str]) -> InputError:
    """Return the error that lists what is wrong with some rows."""
    shown = "\n  ".join(problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    shown += f"\n  and {more} more" if more > 0 else ""
    rows = "row" if len(problems) == 1 else "rows"
    return InputError(f"{where} has {len(problems)} bad {rows}:\n  {shown}")


@dataclass(frozen=True)
class _Row:
    """What a row holds, one value for each group of keys; None if it has no such key."""

    conversation: Any
    question: Any
    input: Any
    answer: Any
    caption: Any
    images: Any
    system: Any


def _conversation(row: object, folder: Path, answered: bool) -> list[Message]:
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"a {type(row).__name__}, expected an object")
    given = known_values(row, ROW_KEYS, (*ROW_BESIDE, PANDAS_INDEX), "the row")
    parts = _Row(*(_only(given, group) for group in GROUPS))
    messages = read_messages(_messages(parts, answered))
    refuse_other_marks(messages)
    messages = place_images(messages, _images(parts.images))
    messages = [_checked(message, folder) for message in messages]
    if answered and not any(m["role"] == "assistant" and _text_of(m).strip() for m in messages):
        raise InputError("no assistant message with text: nothing to learn")
    if not answered and messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages


def _only(given: Mapping[str, Any], group: Sequence[str]) -> Any:
    """Return the value of the one key of a group that says something, or else of any."""
    found = [key for key in group if key in given]
    filled = [key for key in found if not is_empty(given[key])]
    if len(filled) > 1:
        raise InputError(f"the row holds both {' and '.join(filled)}; expected one of them")
    return next((given[key] for key in [*filled, *found]), None)


def _messages(row: _Row, answered: bool) -> list[Any]:
    """Return the messages of a row, in whatever form they are."""
    system = [] if is_empty(row.system) else [{"role": "system", "content": row.system}]
    question = _question(row)
    forms = (row.conversation, question or row.answer, row.caption)
    if sum(not is_empty(form) for form in forms) > 1:
        raise InputError("the row holds more than one of messages, a prompt and a caption")
    if row.conversation is not None:
        if not isinstance(row.conversation, list) or not row.conversation:
            raise InputError("messages is not a list of messages")
        turns = [_from_sharegpt(turn) for turn in row.conversation]
    elif not is_empty(row.caption):
        if is_empty(row.images):
            raise InputError("a caption without an image")
        turns = [{"role": "user", "content": []}, *_turns(row.caption, "assistant")]
    elif question is None or (answered and row.answer is None):
        values = (("prompt", question), ("answer", row.answer))
        missing = [name for name, value in values if value is None]
        raise InputError(f"neither messages nor {' and '.join(missing)}")
    else:
        answer = [] if row.answer is None else _turns(row.answer, "assistant")
        turns = [*_turns(question, "user"), *answer]
    if system and isinstance(turns[0], Mapping) and turns[0].get("role") == "system":
        raise InputError("the row holds both system and a system message")
    return [*system, *turns]


def _question(row: _Row) -> Any:
    """Return the question of a row, followed by its input on a new line."""
    if is_empty(row.input):
        return row.question
    if is_empty(row.question):
        return row.input
    if not isinstance(row.question, str) or not isinstance(row.input, str):
        raise InputError("the row holds an input beside a prompt that is not text")
    return f"{row.question}\n{row.input}"


def _turns(value: object, role: str) -> list[Any]:
    """Return a prompt or an answer as messages; TRL writes lists of them, too."""
    if isinstance(value, str):
        content = [{"type": "text", "text": value}] if role == "user" else value
        return [{"role": role, "content": content}]
    if isinstance(value, list) and value:
        return value
    raise InputError(f"the text of the {role} is {value!r:.60}, expected text")


def _from_sharegpt(turn: Any) -> Any:
    """Return a message for a turn with `from` and `value`; anything else as it is."""
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    given = known_values(turn, ("from", "value"), ("id",), "a turn")
    role = given.get("from")
    if not isinstance(role, str) or role not in SHAREGPT_ROLES:
        raise unknown("a turn is from the unknown role", role, SHAREGPT_ROLES)
    return {"role": SHAREGPT_ROLES[role], "content": given.get("value")}


def _images(value: object) -> list[ImageSource]:
    if is_empty(value):
        return []
    return [read_path_or_base64(image) for image in (value if isinstance(value, list) else [value])]


def _checked(message: Message, folder: Path) -> Message:
    """Return a message whose images can be opened."""
    if isinstance(message["content"], str):
        return message
    content = [
        {"type": "image", "image": _checked_image(part["image"], folder)}
        if part["type"] == "image"
        else part
        for part in message["content"]
    ]
    return {**message, "content": content}


def _checked_image(source: ImageSource, folder: Path) -> ImageSource:
    if not isinstance(source, str | Path) or is_data(source):
        open_image(source, ImageLimits())
        return source
    name = str(source)
    path = _existing(name, folder)
    is_heic = path.suffix.lower() in (".heic", ".heif")
    if not is_heic and read_size(path, ImageLimits()) is None:
        raise InputError(f"not an image: {name}")
    return str(path)


def is_data(source: str | Path) -> bool:
    """Whether a source is a data URI."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def _existing(name: str, folder: Path) -> Path:
    try:
        local = _local(name)
        path = folder / local
        if not path.is_file() and "\\" in local:  # as Windows writes it
            path = folder / local.replace("\\", "/")
        if not path.is_file():
            path = folder / Path(local).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, or with NUL
        pass
    raise InputError(f"no such image: {_short(name)}")


def _local(name: str) -> str:
    """Return the path of a name, which may be a `file://` URL."""
    if name[:7].lower() == "file://":
        return unquote(urlsplit(name).path)
    if "://" in name:
        raise InputError(f"{_short(name)} is not a path, and training reads images from files")
    return name


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}..."


def _text_of(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
