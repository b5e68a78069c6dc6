"""A folder run: one question about many pictures, with a record of each.

Pictures are read and decoded ahead in threads and answered in a batch that never waits for them.
The run holds no more than a window of pictures, however many there are.
"""

import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import Lfm2VLError
from ..generation.asking import BATCH_SIZE
from ..generation.engine import Engine
from ..generation.result import Result
from ..images.inputs import Input
from ..images.ready import ReadyImage
from ..options import AnswerOptions
from ..prompt.messages import Message
from ..skills.skill import Skill
from .ahead import ahead
from .content import read_content
from .facts import Facts, file_facts
from .journal import Journal
from .records import (
    Record,
    Settings,
    answer_record,
    copied,
    error_record,
    place_of,
)

SEED = 0  # if none is chosen: a run that is continued ends as one that was not interrupted
HOOKS = ("on_encode", "on_prefill")  # options that change no answer

Read = Callable[[Input, Sequence[Result]], Mapping[str, Any]]
Direct = Callable[[ReadyImage, Mapping[str, str]], Mapping[str, Any]]
OnRecord = Callable[[Input, Record], object]


@dataclass
class Counts:
    """Numbers of pictures."""

    answered: int = 0  # by the model
    copied: int = 0  # equal to another picture
    failed: int = 0
    known: int = 0  # answered by an earlier run

    @property
    def done(self) -> int:
        """All that have a record."""
        return self.answered + self.copied + self.failed + self.known


@dataclass(frozen=True)
class _Picture:
    """A picture whose turn has come."""

    given: Input
    key: str = ""  # of its content and the question; empty if it cannot be read
    images: tuple[ReadyImage, ...] = ()  # it, or its slices; empty if its answer is known
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    error: Lfm2VLError | None = None

    def without_images(self) -> "_Picture":
        """The same, for when its images are no longer needed: they are large."""
        return replace(self, images=())


@dataclass(frozen=True)
class _Asked:
    """A picture that the model is asked about, in a conversation for each of its images."""

    picture: _Picture
    count: int
    outcomes: dict[int, Result | Lfm2VLError] = field(default_factory=dict[int, Any])


def run_options(skill: Skill) -> AnswerOptions:
    """The options of a run's answers: those of the skill, with a seed."""
    options = skill.options
    return options.changed({"seed": SEED}) if options.seed is None else options


def settings_of(
    engine: Engine, skill: Skill, model: str, own: Mapping[str, object] | None = None
) -> Settings:
    """Return what all records of a run share.

    The digest covers the skill's name and prompt, the options of the answers, the model's weights
    and settings, and how images are cut. It is the same on another machine with the same files.

    Args:
        engine: with the model.
        skill: the question.
        model: as the user named it.
        own: options of the skill that decide how an answer is read.
    """
    options = run_options(skill)
    named = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in HOOKS}
    prompt = _text(skill.messages([b""], _Named()))
    config = engine.processor.image_config
    parts = (skill.name, prompt, sorted((own or {}).items()), named, config)
    found = hashlib.blake2b(engine.content_fingerprint(), digest_size=8)
    found.update(re.sub(r" at 0x[0-9a-f]+", "", repr(parts)).encode())
    return Settings(skill.name, model, found.hexdigest())


class FolderRun:
    """Asks a skill about pictures and adds a record of each to a journal.

    Attributes:
        counts: of the pictures so far.
    """

    def __init__(
        self,
        engine: Engine,
        skill: Skill,
        journal: Journal,
        settings: Settings,
        *,
        facts: Facts = file_facts,
        read: Read | None = None,
        direct: Direct | None = None,
        on_record: OnRecord | None = None,
        on_known: OnRecord | None = None,
        report: Callable[[Counts], object] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """
        Args:
            engine: answers.
            skill: the question.
            journal: gets the records.
            settings: from `settings_of`.
            facts: what the prompt may name of a picture; any thread calls it.
            read: makes the answer about a picture from what the model wrote about it or each of its
                slices; None reads as the skill does, for pictures without slices.
            direct: answers about one picture, instead of a batch that writes answers.
            on_record: called with each new record before it is kept. If the process is killed in
                between, the picture is asked about again, and this is called again. If it raises an
                `Lfm2VLError`, the picture has failed.
            on_known: the same for each record of an earlier run.
            report: called with the counts after each picture, and while there is nothing to do.
            batch_size: pictures to answer at the same time.
        """
        self._engine, self._skill, self._journal = engine, skill, journal
        self._settings, self._facts = settings, facts
        self._on_record, self._on_known = on_record, on_known
        self._read, self._direct = read or self._read_skill, direct
        self._report = report or _ignore
        self._batch_size = batch_size
        self._options = run_options(skill)
        # By number of the conversation: a picture, and which of its images this is about.
        self._asked: dict[int, tuple[_Asked, int]] = {}
        self._equal: dict[str, list[_Picture]] = {}  # wait for the answer to the same content
        self._number = 0
        self.counts = Counts()

    def run(self, inputs: Iterable[Input | None]) -> Counts:
        """Ask about all pictures; return how it went.

        Args:
            inputs: taken one by one. None means that there is none at the moment.

        Raises:
            InputError: the journal cannot be written, or an option is out of range.
        """
        pictures = self._pictures(inputs)
        try:
            if self._direct:
                self._answer_one_by_one(self._direct, pictures)
            else:
                self._answer_as_batch(pictures)
        finally:
            pictures.close()
        return self.counts

    def _answer_as_batch(self, pictures: Iterable[_Picture | None]) -> None:
        answers = self._engine.stream_batch(
            self._conversations(pictures), self._options, batch_size=self._batch_size
        )
        for number, outcome in answers:
            asked, place = self._asked.pop(number)
            asked.outcomes[place] = outcome
            if len(asked.outcomes) == asked.count:
                self._answered(asked.picture, self._read_outcomes(asked))

    def _conversations(self, pictures: Iterable[_Picture | None]) -> Iterator[list[Message] | None]:
        for picture in pictures:
            if picture is None:
                yield None
                continue
            asked = _Asked(picture.without_images(), len(picture.images))
            for place, image in enumerate(picture.images):
                self._asked[self._number] = asked, place
                self._number += 1
                yield self._skill.messages([image], picture.facts)

    def _answer_one_by_one(self, direct: Direct, pictures: Iterable[_Picture | None]) -> None:
        for picture in pictures:
            if picture is None:
                continue
            (image,) = picture.images
            try:
                answer = direct(image, picture.facts)
            except Lfm2VLError as error:
                answer = error
            self._answered(picture, answer)

    def _pictures(self, inputs: Iterable[Input | None]) -> Generator[_Picture | None, None, None]:
        """Yield what to ask about next, and None while the next picture is not ready."""
        pictures = ahead(
            self._prepare, inputs, window=2 * self._batch_size, is_idle=lambda: not self._asked
        )
        for picture in pictures:
            if picture is None:
                self._report(self.counts)
                yield None
            elif picture.error:
                self._fail(picture, picture.error)
            elif self._journal.is_done(place_of(picture.given), picture.key):
                self._know(picture)
            elif picture.key in self._equal:
                self._equal[picture.key].append(picture.without_images())
            elif self._journal.is_answered(picture.key):
                self._copy(picture)
            else:
                self._equal[picture.key] = []
                yield picture

    def _prepare(self, given: Input) -> _Picture:
        """Read a picture, and decode it unless its answer is known. Any thread may do this."""
        key = ""
        try:
            content, source = read_content(given, self._engine.processor.limits)
            facts = self._facts(given)
            asked = _text(self._skill.messages([b""], facts)).encode()
            key = hashlib.blake2b(content + asked, digest_size=16).hexdigest()
            is_known = self._journal.is_done(place_of(given), key)
            if is_known or self._journal.is_answered(key):
                return _Picture(given, key)
            sources = [one.source for one in given.slices] or [source]
            ready, options = self._engine.processor.ready, self._options.image_options
            return _Picture(given, key, tuple(ready(one, options) for one in sources), facts)
        except Lfm2VLError as error:
            return _Picture(given, key, error=error)
        except (OSError, RuntimeError, MemoryError) as error:  # of this picture, not of the run
            reason = Lfm2VLError(f"{given.name}: {type(error).__name__}: {error}")
            return _Picture(given, key, error=reason)

    def _read_skill(self, _given: Input, results: Sequence[Result]) -> Mapping[str, Any]:
        (result,) = results
        return self._skill.read(result.text, [plan.size for plan in result.images])

    def _read_outcomes(self, asked: _Asked) -> Mapping[str, Any] | Lfm2VLError:
        """Return the answer that the model wrote, or why it is none."""
        results = list[Result]()
        for _, outcome in sorted(asked.outcomes.items()):
            if isinstance(outcome, Lfm2VLError):
                return outcome
            results.append(outcome)
        try:
            answer = self._read(asked.picture.given, results)
        except Lfm2VLError as error:
            error.add_note("\n".join(result.text for result in results))
            return error
        cut = any(result.finish_reason == "length" for result in results)
        return {**answer, "finish_reason": "length" if cut else results[0].finish_reason}

    def _answered(self, picture: _Picture, answer: Mapping[str, Any] | Lfm2VLError) -> None:
        """Record an answer, also for the pictures that are equal."""
        equal = self._equal.pop(picture.key)
        if isinstance(answer, Lfm2VLError):
            for each in (picture, *equal):
                self._fail(each, answer)
            return
        record = answer_record(picture.given, picture.key, self._settings, answer)
        self._keep(picture, record)
        for each in equal:
            if self._journal.is_answered(each.key):
                self._copy(each)
            else:  # the first one could not be kept
                record = answer_record(each.given, each.key, self._settings, answer)
                self._keep(each, record)

    def _copy(self, picture: _Picture) -> None:
        self._keep(picture, copied(self._journal.answer(picture.key), place_of(picture.given)))

    def _know(self, picture: _Picture) -> None:
        """Hand on the record of an earlier run."""
        try:
            # Another process of the run may have the answer, and hands it on itself.
            if self._on_known and self._journal.is_answered(picture.key):
                answer = self._journal.answer(picture.key)
                self._on_known(picture.given, copied(answer, place_of(picture.given)))
        except Lfm2VLError as error:
            self._fail(picture, error)
            return
        self.counts.known += 1
        self._report(self.counts)

    def _fail(self, picture: _Picture, error: Lfm2VLError) -> None:
        self._journal.add(error_record(picture.given, picture.key, self._settings, error))
        self.counts.failed += 1
        self._report(self.counts)

    def _keep(self, picture: _Picture, record: Record) -> None:
        """Hand a record on, then add it."""
        try:
            if self._on_record:
                self._on_record(picture.given, record)
        except Lfm2VLError as error:
            self._fail(picture, error)
            return
        self._journal.add(record)
        if "same_as" in record:
            self.counts.copied += 1
        else:
            self.counts.answered += 1
        self._report(self.counts)


class _Named(dict[str, str]):
    """Facts that stand for themselves: `{name}` stays `{name}`."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"

    def get(self, name: str, _default: Any = None) -> str:  # pyright: ignore
        return self[name]


def _text(messages: list[Message]) -> str:
    """Return a conversation as text, without its images."""
    return json.dumps(messages, default=lambda _: None)


def _ignore(_counts: Counts) -> None:
    pass
