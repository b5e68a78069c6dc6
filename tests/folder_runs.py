"""Folder runs over tiny pictures with a tiny model, for the tests of `desktop`."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, Sampling
from mlx_lfm2vl.desktop.folder_run import FolderRun, settings_of
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.desktop.records import Record, Settings
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.skills.skill import Skill

OPTIONS = AnswerOptions(max_tokens=3, sampling=Sampling())
SETTINGS = Settings("ask", "tiny", "00")


def ask(question: str = "What is this?", options: AnswerOptions = OPTIONS) -> Skill:
    """A skill that asks a question as it is."""

    def messages(images: Sequence[Any], facts: Mapping[str, str]) -> list[dict[str, Any]]:
        return user_message(question.replace("{name}", facts.get("name", "")), images)

    return Skill("ask", messages, options, lambda text, sizes: {"text": text, "size": sizes[0]})


def draw(folder: Path, names: Iterable[str]) -> list[Input]:
    """Draw a different picture for each name; a name such as `bad.png` becomes a damaged file."""
    inputs = []
    for seed, name in enumerate(names):
        path = folder / name
        make_picture(20 + seed % 7, 30, seed).save(path)
        if name.startswith("bad"):
            path.write_bytes(path.read_bytes()[:60])
        inputs.append(Input(name, path, path))
    return inputs


class FakeEngine:
    """Answers each conversation at once with the text of its question and a hash of its picture."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def stream_batch(
        self, conversations: Iterable[Any], options: AnswerOptions, *, batch_size: int
    ) -> Iterator[tuple[int, Any]]:
        assert options.seed is not None
        asked = (conversation for conversation in conversations if conversation is not None)
        for number, batch in enumerate(batched(asked, batch_size)):
            for place, messages in reversed(list(enumerate(batch))):
                image, question = messages[-1]["content"]
                views = b"".join(view.tobytes() for view in image["image"].views)
                text = f"{question['text']} {zlib.crc32(views)}"
                result = SimpleNamespace(
                    text=text, images=[image["image"].plan], finish_reason="stop"
                )
                yield number * batch_size + place, result


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to so many items."""
    supply = iter(items)
    while batch := list(islice(supply, size)):
        yield batch


def asked_fake(
    processor: Any, out: Path, inputs: Iterable[Input | None], **options: Any
) -> list[Record]:
    """Do what `asked` does, with a model that takes no time."""
    journal = Journal(out, SETTINGS)
    try:
        engine: Any = FakeEngine(processor)
        FolderRun(engine, ask(), journal, SETTINGS, batch_size=3, **options).run(inputs)
        journal.finish()
    finally:
        journal.close()
    return records(out)


def asked(
    model: tuple[Any, Any], out: Path, inputs: Iterable[Input | None], **options: Any
) -> list[Record]:
    """Run over inputs into a journal; return its records."""
    skill = options.pop("skill", ask())
    engine = Engine(*model)
    settings = settings_of(engine, skill, "tiny")
    journal = Journal(out, settings)
    try:
        FolderRun(engine, skill, journal, settings, batch_size=3, **options).run(inputs)
        journal.finish()
    finally:
        journal.close()
    return records(out)


def records(path: Path) -> list[Record]:
    """The records of a file, each of whose lines is whole."""
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def by_file(found: Iterable[Record]) -> dict[str, Record]:
    """Records by the name of their file, of which each has one."""
    named = {Path(record["file"]).name: record for record in found}
    return named
