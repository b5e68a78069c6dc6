"""A conversation in a folder: what was said, the images, and what the model has read of it.

- `session.json` has the messages and settings. Images are files named by their content.
- `cache.safetensors` saves reading everything again; see `session_cache`. Without it, the next
  question reads the conversation again and gets the same answer.
- Nothing outside of the folder is read, whatever its files say.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from .. import __version__
from ..checkpoint.json_file import Section, read_json, shown
from ..checkpoint.plain_file import read_bytes
from ..errors import CheckpointError, InputError
from ..images.endings import is_image_name
from ..images.source import open_image
from ..options import LARGEST_SEED, SAMPLING_KEYS, AtMost, ImageOptions
from ..whole_folder import new_folder
from .conversation import Conversation, Ended, Picture, Turn
from .session_cache import CACHE, read_cache, write_cache

FILE = "session.json"
KIND = (FILE, "chat")
FORMAT = 1
PICTURE = re.compile(r"image-([0-9a-f]{64})(\.[a-z0-9]{1,5})?")
MAX_NAME = 300  # characters of an image's name
KINDS = {"bool | None": bool, "int | None": int, "str | None": str}  # of image options
SETTINGS = ("max_tokens", "stop", "seed", *SAMPLING_KEYS)


@dataclass(frozen=True)
class Restored:
    """What a folder held besides the conversation.

    Attributes:
        model: that it was saved with, as its user had named it.
        is_read: whether the cache came with it, so that little must be read again.
    """

    model: str
    is_read: bool


def save_session(
    conversation: Conversation, folder: Path, *, model: str, secret: bytes, overwrite: bool = False
) -> None:
    """Write a conversation into a folder, whole or not at all.

    Args:
        conversation: what was said, and the images that wait.
        folder: to write.
        model: what the user calls the model.
        secret: of this user and machine; the cache is used only with the same one.
        overwrite: replace the folder, if it has nothing but a saved conversation.

    Raises:
        InputError: the folder exists and may not be replaced, or cannot be written.
    """
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists already; choose another name")
    if overwrite:
        _refuse_others(folder)
    values = _values(conversation, model)
    with new_folder(folder, overwrite=overwrite, kind=KIND) as new:
        new.chmod(0o700)  # it holds what was in the images
        for picture in [*conversation.pictures, *conversation.waiting]:
            (new / _file_name(picture)).write_bytes(picture.data)
        values["cache"] = write_cache(conversation, new / CACHE, secret)
        text = json.dumps(values, ensure_ascii=False, indent=1)
        (new / FILE).write_text(text + "\n", encoding="utf-8")


def load_session(conversation: Conversation, folder: Path, *, secret: bytes) -> Restored:
    """Replace a conversation by the one in a folder; special tokens stay those of its options.

    Args:
        conversation: changed in place, or not at all if something is wrong.
        folder: that `save_session` has written.
        secret: see `save_session`.

    Raises:
        InputError: there is no saved conversation, or a setting is out of range.
        CheckpointError: a file of the folder is missing, damaged or not of the kind expected.
    """
    if not (folder / FILE).exists():
        raise InputError(f"{folder} has no {FILE}: it is no saved chat")
    values = read_json(folder / FILE)
    session = _Reader(values, str(folder / FILE))
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{session.name}: format is {shown(values.get('format'))}, expected {FORMAT}; "
            "was it written by another version?"
        )
    options = conversation.options.changed(_settings(session))
    shown_turns = [_Reader(value, f"{session.name}: a turn") for value in session.items("turns")]
    names = [value for turn in shown_turns for value in turn.items("images")]
    waiting = session.items("waiting")
    limits = conversation.engine.processor.limits
    limits.check_count(len(names) + len(waiting))

    def pictures(values: list[Any]) -> tuple[Picture, ...]:
        found = tuple(_picture(folder, value, session.name, limits.max_bytes) for value in values)
        for picture in found:
            open_image(picture.data, limits)
        return found

    turns = [
        Turn(
            turn.text("question"),
            pictures(turn.items("images")),
            turn.text("answer"),
            turn.seed(),
            turn.ended(),
        )
        for turn in shown_turns
    ]
    held, system, model = pictures(waiting), session.optional("system"), session.optional("model")
    conversation.options, conversation.system = options, system
    conversation.turns, conversation.waiting, conversation.keys = turns, list(held), {}
    return Restored(
        model or "", read_cache(conversation, folder / CACHE, values.get("cache"), secret)
    )


class _Reader(Section):
    """One JSON object of a session."""

    @property
    def given(self) -> dict[str, object]:
        """The object, whose values may be of any type."""
        return cast(dict[str, object], self.values)

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.given.get(key)
        if not isinstance(value, str):
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected text")
        return value

    def optional(self, key: str) -> str | None:
        """Return a string, or None if there is none."""
        return None if self.given.get(key) is None else self.text(key)

    def items(self, key: str) -> list[Any]:
        """Return a list."""
        value = self.given.get(key)
        if not isinstance(value, list):
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected a list")
        return cast(list[Any], value)

    def seed(self) -> int:
        """Return the seed of an answer."""
        value = self.given.get("seed")
        if type(value) is not int or not 0 <= value <= LARGEST_SEED:
            raise CheckpointError(f"{self.name}: seed is {shown(value)}, expected 0 to 2**63 - 1")
        return value

    def ended(self) -> Ended:
        """Return why an answer ended."""
        value = self.given.get("ended")
        for known in ("stop", "length", "interrupted"):
            if value == known:
                return known
        raise CheckpointError(f"{self.name}: ended is {shown(value)}, expected stop or length")


def _values(conversation: Conversation, model: str) -> dict[str, Any]:
    options = conversation.options
    settings = {name: getattr(options, name) for name in SETTINGS}
    if isinstance(options.max_tokens, AtMost):
        del settings["max_tokens"]
    if options.sampling:
        settings |= asdict(options.sampling_over(options.sampling))

    def images(pictures: Any) -> list[dict[str, str]]:
        return [{"file": _file_name(p), "name": _bare_name(p)} for p in pictures]

    return {
        "format": FORMAT,
        "version": __version__,
        "model": model,
        "system": conversation.system,
        "settings": {**settings, "stop": list(options.stop)},
        "image_options": asdict(options.image_options),
        "turns": [
            {
                "question": turn.question,
                "images": images(turn.images),
                "answer": turn.answer,
                "seed": turn.seed,
                "ended": turn.ended,
            }
            for turn in conversation.turns
        ],
        "waiting": images(conversation.waiting),
    }


def _settings(session: _Reader) -> dict[str, Any]:
    """Return the fields of `AnswerOptions` that a session sets; it may lack some."""
    given = _Reader(session.given.get("settings"), f"{session.name}: settings").given
    stop = given.get("stop", [])
    texts = cast(list[object], stop) if isinstance(stop, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise CheckpointError(f"{session.name}: stop is {shown(stop)}, expected a list of texts")
    image = _Reader(session.given.get("image_options"), f"{session.name}: image_options").given
    known: dict[str, Any] = {}
    for field in fields(ImageOptions):
        value, kind = image.get(field.name), KINDS[str(field.type)]
        if value is not None and type(value) is not kind:
            raise CheckpointError(
                f"{session.name}: {field.name} is {shown(value)}, expected {kind.__name__}"
            )
        known[field.name] = value
    return {
        **{name: given[name] for name in SETTINGS if name in given},
        "sampling": None,
        "image_options": ImageOptions(**known),
    }


def _bare_name(picture: Picture) -> str:
    """The name of an image without its folder, which is nobody's business."""
    return Path(picture.data.name.strip("'\"")).name[:MAX_NAME]


def _file_name(picture: Picture) -> str:
    ending = Path(_bare_name(picture)).suffix.lower()
    name = f"image-{picture.digest}"
    return name + ending if is_image_name(name + ending) else name


def _picture(folder: Path, value: Any, where: str, most: int) -> Picture:
    """Read an image of a session. Its name cannot lead out of the folder."""
    entry = _Reader(value, f"{where}: an image")
    file = entry.text("file")
    match = PICTURE.fullmatch(file)
    if not match:
        raise CheckpointError(f"{entry.name}: file is {shown(file)}, expected image-DIGEST")
    try:
        picture = Picture.of(entry.text("name")[:MAX_NAME], read_bytes(folder / file, most))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {file}: the saved chat is incomplete") from None
    if picture.digest != match[1]:
        raise CheckpointError(f"{folder / file} is damaged: it is not the image that was saved")
    return picture


def _refuse_others(folder: Path) -> None:
    """Refuse to replace a folder in which somebody keeps files of their own."""
    ours = (FILE, CACHE)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    other = [path.name for path in paths if path.name not in ours and not PICTURE.match(path.name)]
    if other:
        raise InputError(f"{folder} holds {other[0]!r}, which is not of a saved chat; not replaced")
