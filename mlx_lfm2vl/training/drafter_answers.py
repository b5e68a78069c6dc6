"""The target's own answers to the questions of a data set: made once, and kept in a file."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError, InputError, Lfm2VLError
from ..prompt.template import Message
from ..whole_folder import new_file, writing

GROUP = 32  # conversations answered turn by turn together, before the next ones

Row = Sequence[Message]
# Answers conversations as a batch: yields the number of each and its answer, or what is wrong.
Ask = Callable[[Iterable[Row]], Iterator[tuple[int, str | Lfm2VLError]]]


def answered(
    rows: Sequence[Row],
    path: Path,
    origin: dict[str, Any],
    ask: Ask,
    report: Callable[[int, int], None],
) -> list[list[Message]]:
    """Replace every answer of some conversations by the target's own.

    A later question is asked after the target's earlier answers. Several processes share the work,
    each with a file of its own.

    Args:
        rows: conversations.
        path: JSONL file of the answers. Those in it are not made again.
        origin: what the answers depend on: target, data and settings. Stands in the file.
        ask: answers conversations.
        report: called with the number of conversations that are done, and of all.

    Returns:
        The conversations, in the same order.

    Raises:
        InputError: the file is of another origin, or a conversation cannot be answered.
    """
    group = mx.distributed.init()
    rank, size = group.rank(), group.size()
    path = path.with_suffix(f".{rank}.jsonl") if rank else path
    origin = {**origin, "processes": size}
    found = _read(path, origin)
    left = [n for n in range(rank, len(rows), size) if n not in found]
    share = len(range(rank, len(rows), size))
    for start in range(0, len(left), GROUP):
        numbers = left[start : start + GROUP]
        answers = _answer([rows[n] for n in numbers], numbers, ask)
        with writing(path), path.open("a") as file:
            for number, texts in zip(numbers, answers, strict=True):
                file.write(json.dumps({"row": number, "answers": texts}) + "\n")
        found |= dict(zip(numbers, answers, strict=True))
        report(share - len(left) + start + len(numbers), share)
    if size > 1:
        found = _gathered(found, group)
    return [_filled(row, found[n]) for n, row in enumerate(rows)]


def _read(path: Path, origin: dict[str, Any]) -> dict[int, list[str]]:
    """Read the answers in a file, which begins with its origin; begin it if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as partial:
            partial.write_text(json.dumps(origin) + "\n")
        return {}
    try:
        if json.loads(lines[0]) != json.loads(json.dumps(origin)):
            raise InputError(
                f"{path} holds the answers of another target, other data or settings: use these "
                "again, or another --output"
            )
        entries = [json.loads(line) for line in lines[1:-1]]
        entries += [json.loads(line) for line in lines[-1:] if len(lines) > 1 and _whole(line)]
        found = {entry["row"]: [str(text) for text in entry["answers"]] for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a file of answers: {error}; delete it") from None
    if len(lines) > 1 and not _whole(lines[-1]):  # left by a process that was killed
        with new_file(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines[:-1]))
    return found


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _answer(rows: Sequence[Row], numbers: Sequence[int], ask: Ask) -> list[list[str]]:
    """Answer all turns of some conversations, the first turns of all before the second ones."""
    answers: list[list[str]] = [[] for _ in rows]
    turns = [[i for i, message in enumerate(row) if _is_answer(message)] for row in rows]
    for turn in range(max(map(len, turns))):
        which = [n for n in range(len(rows)) if turn < len(turns[n])]
        asked = [_filled(rows[n][: turns[n][turn]], answers[n]) for n in which]
        for place, answer in ask(asked):
            number = which[place]
            if isinstance(answer, Lfm2VLError):
                raise InputError(f"conversation {numbers[number] + 1}: {answer}")
            answers[number].append(answer)
    return answers


def _filled(row: Row, answers: Sequence[str]) -> list[Message]:
    left = iter(answers)
    return [
        {**message, "content": next(left)} if _is_answer(message) else message for message in row
    ]


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant"


def _gathered(mine: dict[int, list[str]], group: mx.distributed.Group) -> dict[int, list[str]]:
    """Return the answers of all processes, to all of them."""
    data = json.dumps(list(mine.items())).encode()
    most = mx.distributed.all_max(mx.array(len(data)), group=group).item()
    assert isinstance(most, int)
    padded = np.frombuffer(data.ljust(most), np.uint8).astype(np.int32)  # JSON may end in spaces
    parts = np.array(mx.distributed.all_gather(mx.array(padded)[None], group=group))
    texts = (part.astype(np.uint8).tobytes().decode() for part in parts)
    return {number: answers for text in texts for number, answers in json.loads(text)}
