"""Reads conversations from a JSONL file and turns them into samples to train or compare on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, InputError
from ..images.geometry import plan_image
from ..images.source import ImageLimits, open_image, read_size
from .messages import image_of
from .processor import Processor
from .template import Message

PROBLEMS_SHOWN = 20
NAME_SHOWN = 100  # characters of an image's name in an error
CHARACTERS_PER_TOKEN = 3  # roughly, for estimates of length
CAMERA = (3024, 4032)  # assumed height and width if a header cannot be read


@dataclass(frozen=True)
class Sample:
    """One conversation with answers, its images decoded.

    Attributes:
        input_ids: L token ids, with one image token per image feature.
        is_answer: (L,) bool, whether each id is the assistant's. The first never is.
        pixel_values: (N, patch_size * patch_size * 3) uint8 patches of each view.
        spatial_shapes: (rows, columns) of each view's patches.
    """

    input_ids: list[int]
    is_answer: np.ndarray
    pixel_values: list[np.ndarray]
    spatial_shapes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.input_ids)


def read_rows(path: Path) -> list[list[Message]]:
    """Read and check a JSONL file of conversations, without decoding images.

    A row is `{"messages": [...]}`, or the short form `{"image": PATH or [PATHS], "prompt": ...,
    "answer": ...}` with an optional `"system"`. Image paths are relative to the file.

    Raises:
        InputError: some rows are wrong. The message lists their line numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # strings may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_messages(json.loads(line), path.parent))
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error})")
        except InputError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise _bad_rows(str(path), problems)
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _bad_rows(where: str, problems: Sequence[str]) -> InputError:
    shown = "\n  ".join(problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    shown += f"\n  and {more} more" if more > 0 else ""
    return InputError(f"{where} has {len(problems)} bad rows:\n  {shown}")


def _messages(row: Any, folder: Path) -> list[Message]:
    if not isinstance(row, dict):
        raise InputError(f"a {type(row).__name__}, expected an object")
    if "messages" not in row:
        row = {"messages": _from_plain(row)}
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError("messages is not a list of messages")
    checked = [_checked(message, folder) for message in messages]
    answers = [m for m in checked if m["role"] == "assistant" and _text_of(m).strip()]
    if not answers:
        raise InputError("no assistant message with text: nothing to learn")
    return checked


def _from_plain(row: dict[str, Any]) -> list[Message]:
    missing = [key for key in ("prompt", "answer") if not isinstance(row.get(key), str)]
    if missing:
        raise InputError(f"neither messages nor {' and '.join(missing)} as text")
    images = row.get("image", [])
    images = images if isinstance(images, list) else [images]
    content = [{"type": "image", "image": image} for image in images]
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
    messages.append(
        {"role": "user", "content": [*content, {"type": "text", "text": row["prompt"]}]}
    )
    return [*messages, {"role": "assistant", "content": row["answer"]}]


def _checked(message: Any, folder: Path) -> Message:
    """Return a message whose images are existing files."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InputError("a message without a role")
    content = message.get("content", "")
    if not isinstance(content, (str, list)):
        raise InputError(f"content is a {type(content).__name__}, expected text or a list")
    if isinstance(content, list):
        content = [_checked_item(item, folder) for item in content]
    return {**message, "content": content}


def _checked_item(item: Any, folder: Path) -> Any:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    if not isinstance(item, dict):
        raise InputError(f"an item is a {type(item).__name__}, expected an object")
    if item.get("type") == "text" and not isinstance(item.get("text"), str):
        raise InputError("a text item without text")
    name = image_of(item)
    if name is None:
        return item
    if not isinstance(name, str):
        raise InputError(f"an image item holds {name!r:.60}, expected a path")
    if name.startswith("data:") or "://" in name:
        raise InputError(f"{_short(name)} is not a path, and training reads images from files")
    path = _existing(name, folder)
    is_heic = path.suffix.lower() in (".heic", ".heif")
    if not is_heic and read_size(path, ImageLimits()) is None:
        raise InputError(f"not an image: {name}")
    return {"type": "image", "image": str(path)}


def _existing(name: str, folder: Path) -> Path:
    try:
        path = folder / Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError):  # too long, or in the home folder of an unknown user
        pass
    raise InputError(f"no such image: {_short(name)}")


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}..."


def _text_of(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(item.get("text", "") for item in content if item.get("type") == "text")


def assistant_mask(ids: Sequence[int], header: Sequence[int], end_ids: set[int]) -> np.ndarray:
    """Mark the assistant's text: everything after its header, up to and including the end token.

    User text cannot contain special tokens, so the header marks only assistant turns, whatever the
    template does to their text.

    Args:
        ids: a rendered conversation.
        header: ids that begin an assistant turn.
        end_ids: ids that end a turn.

    Returns:
        (L,) bool.
    """
    mask = np.zeros(len(ids), bool)
    position = 0
    while position <= len(ids) - len(header):
        if list(ids[position : position + len(header)]) != list(header):
            position += 1
            continue
        position += len(header)
        while position < len(ids) and ids[position] != header[0]:
            mask[position] = True
            position += 1
            if ids[position - 1] in end_ids:
                break
    return mask


class SampleMaker:
    """Turns conversations into samples, using one processor."""

    def __init__(self, processor: Processor, end_ids: set[int]) -> None:
        self.processor = processor
        self.end_ids = end_ids
        self.header = self._assistant_header()

    def _assistant_header(self) -> list[int]:
        """Find what the template writes before an answer by rendering with and without it."""
        probe = [{"role": "user", "content": "x"}]
        with_header = self.processor.template.render(probe)
        without = self.processor.template.render(probe, add_generation_prompt=False)
        if not with_header.startswith(without) or with_header == without:
            raise CheckpointError(
                "the chat template has no generation prompt: cannot train with it"
            )
        header = self.processor.tokenizer.encode_rendered(with_header[len(without) :])
        if self.processor.tokenizer.encode_rendered(with_header)[-len(header) :] != header:
            raise CheckpointError("the chat template's generation prompt does not stand alone")
        return header

    def __call__(self, messages: Sequence[Message]) -> Sample:
        """Turn a conversation into a sample.

        Raises:
            InputError: an image cannot be read, or the template rejects the messages.
        """
        inputs = self.processor(messages, add_generation_prompt=False)
        is_answer = assistant_mask(inputs.input_ids, self.header, self.end_ids)
        if not is_answer.any():
            raise InputError("the chat template keeps no assistant text to learn")
        return Sample(inputs.input_ids, is_answer, inputs.pixel_values, inputs.spatial_shapes)

    def lengths(self, rows: Sequence[Sequence[Message]], name: str) -> list[int]:
        """Estimate the ids of each conversation, without tokenizing or decoding.

        Args:
            rows: conversations.
            name: name of the data, for errors.

        Raises:
            InputError: the template rejects some conversations, or they have too many images. The
                message lists them all.
        """
        lengths, problems = [], []
        for number, messages in enumerate(rows, 1):
            try:
                lengths.append(self._length(messages))
            except InputError as error:
                problems.append(f"conversation {number}: {error}")
        if problems:
            raise _bad_rows(name, problems)
        return lengths

    def _length(self, messages: Sequence[Message]) -> int:
        text, _, sources = self.processor.render(messages, None, add_generation_prompt=False)
        limits, config = self.processor.limits, self.processor.image_config
        sizes = [
            read_size(source, limits) or CAMERA
            if isinstance(source, (str, Path))
            else open_image(source, limits).size
            for source in sources
        ]
        tokens = sum(plan_image(*size, config).image_tokens for size in sizes)
        return tokens + len(text) // CHARACTERS_PER_TOKEN

    def show(self, messages: Sequence[Message]) -> str:
        """Return the sample as text, with the learned parts in ⟦ ⟧ and image tokens counted."""
        sample = self(messages)
        tokenizer = self.processor.tokenizer
        image = tokenizer.image_token_id
        runs: list[tuple[object, list[int]]] = []
        for token, is_answer in zip(sample.input_ids, sample.is_answer, strict=True):
            kind = "image" if token == image else bool(is_answer)
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append(token)
        text = ""
        for kind, ids in runs:
            if kind == "image":
                text += f"{tokenizer.image_token}×{len(ids)}"
            else:
                words = tokenizer.decode_all(ids)
                text += f"⟦{words}⟧" if kind else words
        return text
