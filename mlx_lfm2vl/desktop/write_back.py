"""Writing answers to where Mac programs look: beside the photo, in its tags, in its name.

What a person wrote stays: a title, description, comment or text file that is there already is
kept unless it is to be replaced. Keywords and tags are added to those that are there.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InputError, Lfm2VLError
from ..images.inputs import Input
from ..whole_folder import new_file
from .beside import beside
from .exiftool_csv import ExiftoolCsv
from .file_names import filled_stem, read_template, slug
from .finder import KEPT, SET, add_tags, check_mac, set_comments
from .photo_facts import date_taken
from .rename import Renamer
from .texts import Texts, plain_text, texts_of
from .xmp import write_xmp

logger = logging.getLogger(__name__)

WAYS = ("xmp", "finder-comment", "finder-tags", "txt")
COMMENTS_AT_ONCE = 20  # that a killed run may lose
UNDO_FILE = Path("renamed.jsonl")


@dataclass(frozen=True)
class Plan:
    """Where answers are written.

    Attributes:
        ways: some of `WAYS`.
        replace: replace titles, descriptions, comments and text files that are there.
        whole_name: name new sidecars `photo.jpg.xmp` instead of `photo.xmp`.
        csv: table for exiftool.
        rename: template of new names, such as `{date}_{slug}{ext}`.
        undo_file: gets the old names.
        preview: write nothing, and say the new names.
    """

    ways: frozenset[str] = frozenset()
    replace: bool = False
    whole_name: bool = False
    csv: Path | None = None
    rename: str | None = None
    undo_file: Path = UNDO_FILE
    preview: bool = False

    def __post_init__(self) -> None:
        """Check everything before any work.

        Raises:
            InputError: a way is unknown or is not there on this machine; the template is wrong.
        """
        for way in sorted(self.ways):
            if way not in WAYS:
                raise InputError(f"--write {way} is unknown; known are {', '.join(WAYS)}")
            if way.startswith("finder-"):
                check_mac("Finder comments and tags")
        if self.rename is not None:
            read_template(self.rename)


def write_back(
    given: Input,
    record: Mapping[str, Any],
    ways: Collection[str],
    *,
    replace: bool = False,
    whole_name: bool = False,
) -> None:
    """Write the answer about one picture beside its file or into its tags.

    Args:
        given: the picture.
        record: its answer; `texts_of` says which of its fields are written.
        ways: some of `WAYS`.
        replace: replace a title, description, comment or text file that is there.
        whole_name: name a new sidecar `photo.jpg.xmp` instead of `photo.xmp`.

    Raises:
        InputError: the picture is no file, or something could not be written; the rest was.
    """
    with WriteBack(Plan(frozenset(ways), replace, whole_name)) as writer:
        writer(given, record)
    if writer.problems:
        raise InputError("; ".join(writer.problems))


class WriteBack:
    """Writes each answer of a run as it comes: what a run's `on_record` takes.

    It is a context manager. At its end come the Finder comments that are still to be set and the
    renames of files of several pages, which are read until then.

    Attributes:
        problems: what could not be done at the end, in a line each. What fails before is raised.
    """

    def __init__(self, plan: Plan) -> None:
        """
        Raises:
            InputError: a file that is to be continued is another one.
        """
        self.problems: list[str] = []
        self._plan = plan
        self._template = None if plan.rename is None else read_template(plan.rename)
        self._renamer = None
        if self._template:
            self._renamer = Renamer(plan.undo_file, preview=plan.preview)
        self._csv = ExiftoolCsv(plan.csv) if plan.csv and not plan.preview else None
        self._comments: dict[Path, str] = {}
        self._later: list[tuple[Path, Texts]] = []
        self._kept = 0

    def __enter__(self) -> "WriteBack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for photo, texts in self._later:
            try:
                self._rename(photo, texts)
            except Lfm2VLError as failure:
                self._fail(str(failure))
        self._later.clear()
        self._set_comments()
        if self._kept:
            logger.warning(
                "%d files had texts of their own, which were kept; --replace replaces them",
                self._kept,
            )

    def __call__(self, given: Input, record: Mapping[str, Any]) -> None:
        """Write an answer.

        Of a file of several pages or frames, only the answer about the first is written.

        Raises:
            InputError: something could not be written; the rest was.
        """
        if "error" in record or not _is_first(given):
            return
        if given.path is None:
            logger.warning("%s is no file: nothing is written about it", given.name)
            return
        texts, problems = texts_of(record), list[str]()
        steps = () if self._plan.preview else (self._write_xmp, self._write_text, self._write_tags)
        for write in steps:
            try:
                write(given.path, texts, record)
            except (Lfm2VLError, OSError) as error:
                problems.append(str(error))
        photo = given.path
        try:
            if self._template and given.page is not None:
                self._later.append((photo, texts))
            else:
                photo = self._rename(photo, texts)
        except Lfm2VLError as error:
            problems.append(str(error))
        self._comment(photo, texts)
        try:
            if self._csv and (texts.description or texts.keywords):
                self._csv.add(photo, texts)
        except Lfm2VLError as error:
            problems.append(str(error))
        if problems:
            raise InputError("; ".join(problems))

    def _write_xmp(self, photo: Path, texts: Texts, _record: Mapping[str, Any]) -> None:
        if "xmp" in self._plan.ways and photo.exists():
            replace, whole_name = self._plan.replace, self._plan.whole_name
            self._kept += write_xmp(photo, texts, replace=replace, whole_name=whole_name).has_own

    def _write_text(self, photo: Path, _texts: Texts, record: Mapping[str, Any]) -> None:
        text = plain_text(record)
        if "txt" not in self._plan.ways or not text:
            return
        target = beside(photo, ".txt")
        data = text.encode(errors="replace")
        try:
            old = target.read_bytes() if os.path.lexists(target) else None
        except OSError as error:
            raise InputError(f"{target} cannot be read: {error.strerror or error}") from None
        if old is None or (self._plan.replace and old != data):
            with new_file(target) as partial:
                partial.write_bytes(data)
        elif old != data:
            self._kept += 1

    def _write_tags(self, photo: Path, texts: Texts, _record: Mapping[str, Any]) -> None:
        if "finder-tags" in self._plan.ways and texts.keywords:
            add_tags(photo, texts.keywords)

    def _rename(self, photo: Path, texts: Texts) -> Path:
        """Rename a photo by what is written about it; return its new path."""
        if self._template is None or self._renamer is None:
            return photo
        try:
            changed = datetime.fromtimestamp(photo.stat().st_mtime)
        except OSError as error:
            raise InputError(f"{photo} cannot be renamed: {error.strerror or error}") from None
        taken = date_taken(photo) or changed
        words = texts.title or texts.description or " ".join(texts.keywords)
        values = {
            "date": f"{taken:%Y-%m-%d}",
            "time": f"{taken:%H-%M-%S}",
            "name": photo.stem,
            "slug": slug(words),
        }
        stem = filled_stem(self._template, values)
        if not stem:
            raise InputError(f"{photo} keeps its name: the answer has no words for another")
        new = self._renamer.rename(photo, stem)
        if self._plan.preview and new.name != photo.name:
            logger.warning("%s would be called %s", photo, new.name)
        return new

    def _comment(self, photo: Path, texts: Texts) -> None:
        comment = texts.description or texts.title or ", ".join(texts.keywords)
        if comment and "finder-comment" in self._plan.ways and not self._plan.preview:
            self._comments[photo] = comment
        if len(self._comments) >= COMMENTS_AT_ONCE:
            self._set_comments()

    def _set_comments(self) -> None:
        comments, self._comments = self._comments, {}
        for photo, result in set_comments(comments, replace=self._plan.replace).items():
            self._kept += result == KEPT
            if result not in (SET, KEPT):
                self._fail(f"{photo} has no Finder comment: {result}")

    def _fail(self, problem: str) -> None:
        self.problems.append(problem)
        logger.warning("%s", problem)


def _is_first(given: Input) -> bool:
    """Whether it is the first or only picture of a file, and all of it."""
    return given.page in (None, 1) and not given.seconds and given.part is None
