"""Renaming photos: no file is ever overwritten, and all of it can be undone.

Each rename is first written to an undo file, one line for a photo and what belongs to it. A run
that is killed in between leaves a line that says what was to be done; the next run, or `undo`,
puts that right.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..whole_folder import sync_entry, writing
from .beside import companions
from .file_names import name_key

MAX_NUMBER = 10_000
Move = tuple[Path, Path]


@dataclass
class Undone:
    """What an undo did.

    Attributes:
        restored: files that have their old name again.
        problems: a line for each file that has not.
    """

    restored: int = 0
    problems: list[str] = field(default_factory=list[str])


class Renamer:
    """Renames photos with their sidecars, texts, edits and films."""

    def __init__(self, undo_file: Path, *, preview: bool = False) -> None:
        """Put a rename right that was interrupted.

        Args:
            undo_file: gets a line for each photo; it may be there already.
            preview: only say what the names would be.

        Raises:
            InputError: the undo file is none.
        """
        self._file, self._preview = undo_file, preview
        self._promised: set[tuple[Path, str]] = set()  # names given in a preview
        groups = _read(undo_file) if undo_file.exists() else []
        if preview or not undo_file.exists():
            return
        with writing(undo_file):
            data = undo_file.read_bytes()
            if not data.endswith(b"\n"):  # a line that was not written to its end
                os.truncate(undo_file, data.rfind(b"\n") + 1)
        if groups:
            _finish(groups[-1])

    def rename(self, photo: Path, stem: str) -> Path:
        """Give a photo another stem; a number is added if a file has it, in any case.

        What belongs to the photo moves with it: see `companions`.

        Args:
            photo: an existing file.
            stem: see `filled_stem`.

        Returns:
            The new path; the old one if the name stays.

        Raises:
            InputError: the photo cannot be renamed; everything keeps its name then.
        """
        photo = Path(os.path.abspath(photo))
        if photo.stem == stem:
            return photo
        try:
            group = [photo, *companions(photo)]
            moves = self._moves(group, stem)
            if all(old == new for old, new in moves):
                return photo
            if not self._preview:
                self._note(moves)
                _move_all(moves)
        except OSError as error:
            raise InputError(f"{photo} cannot be renamed: {error.strerror or error}") from None
        return moves[0][1]

    def _moves(self, group: list[Path], stem: str) -> list[Move]:
        """Choose names that are free for all files of a group."""
        folder = group[0].parent
        own = {name_key(path.name) for path in group}
        others = {name_key(name) for name in os.listdir(folder)} - own
        stems = {os.path.splitext(name)[0] for name in others}
        stems |= {promised for place, promised in self._promised if place == folder}
        for number in range(1, MAX_NUMBER):
            numbered = stem if number == 1 else f"{stem}-{number}"
            moves = [(path, _target(path, group[0], numbered)) for path in group]
            taken = others & {name_key(new.name) for _, new in moves}
            if not taken and name_key(numbered) not in stems:
                if self._preview:
                    self._promised.add((folder, name_key(numbered)))
                return moves
        raise InputError(f"{group[0]}: {MAX_NUMBER} files are called {stem} already")

    def _note(self, moves: list[Move]) -> None:
        """Write down what will be done, through to the disk."""
        line = json.dumps({"moves": [[str(old), str(new)] for old, new in moves]})
        with writing(self._file):
            is_new = not self._file.exists()
            with self._file.open("a") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_entry(self._file.parent)


def undo(undo_file: Path) -> Undone:
    """Give files back the names that they had, the last one first.

    It may be done again, also after it was interrupted. A file that somebody else put where the
    old name was is never replaced.

    Raises:
        InputError: the undo file cannot be read, or is none.
    """
    done = Undone()
    for moves in reversed(_read(undo_file)):
        for old, new in reversed(moves):
            try:
                done.restored += _move_back(old, new)
            except (OSError, InputError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                done.problems.append(f"{new} keeps its name: {reason or error}")
    return done


def _read(undo_file: Path) -> list[list[Move]]:
    """Return the moves of each photo. A line that was not written to its end was never done."""
    try:
        lines = undo_file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"{undo_file} cannot be read: {error.strerror or error}") from None
    groups = []
    for number, line in enumerate(lines, 1):
        try:
            moves = [(Path(old), Path(new)) for old, new in json.loads(line)["moves"]]
        except (ValueError, TypeError, LookupError, RecursionError):
            moves = []
        if not moves or not all(o.is_absolute() and o.parent == n.parent for o, n in moves):
            raise InputError(f"{undo_file}, line {number}: this is no file of --undo-file")
        groups.append(moves)
    return groups


def _target(path: Path, photo: Path, stem: str) -> Path:
    """Return the new path of a photo or of a file that belongs to it."""
    if path != photo and name_key(path.stem) == name_key(photo.name):
        return path.with_name(f"{stem}{photo.suffix}{path.suffix}")
    return path.with_name(f"{stem}{path.suffix}")


def _move_all(moves: list[Move]) -> None:
    """Move all files, or none if one cannot be moved."""
    with contextlib.ExitStack() as back:
        for old, new in moves:
            _move(old, new)
            back.callback(_move, new, old)
        back.pop_all()


def _finish(moves: list[Move]) -> None:
    """Complete the moves of a group of which some were done."""
    states = [(old, new, os.path.lexists(old), os.path.lexists(new)) for old, new in moves]
    if any(has_new for *_, has_new in states) and any(has_old for _, _, has_old, _ in states):
        with contextlib.suppress(OSError, InputError):
            for old, new, has_old, has_new in states:
                if has_old and has_new and _is_linked(old, new):
                    old.unlink()
                elif has_old and not has_new:
                    _move(old, new)


def _move_back(old: Path, new: Path) -> bool:
    """Undo a move; return whether there was anything to do."""
    has_old, has_new = os.path.lexists(old), os.path.lexists(new)
    if has_old and has_new and old != new:
        if _is_linked(old, new):
            new.unlink()
            return True
        if name_key(old.name) != name_key(new.name):
            raise InputError(f"another file is called {old.name}")
    if not has_new:
        if not has_old:
            raise InputError("it is gone")
        return False
    _move(new, old)
    return True


def _is_linked(old: Path, new: Path) -> bool:
    """Whether a move was interrupted when the file had both names."""
    if name_key(old.name) == name_key(new.name):  # one name, to a disk that ignores case
        return False
    return os.path.samestat(os.lstat(old), os.lstat(new))


def _move(old: Path, new: Path) -> None:
    """Rename a file, unless another one has the name: in one step, since others may write too.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file cannot be renamed.
    """
    if name_key(old.name) == name_key(new.name):
        if os.path.lexists(new) and not os.path.samestat(os.lstat(old), os.lstat(new)):
            raise FileExistsError(f"{new} exists")
        os.rename(old, new)
        return
    try:
        os.link(old, new, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a disk without hard links
        if os.path.lexists(new):
            raise FileExistsError(f"{new} exists") from None
        os.rename(old, new)
        return
    try:
        os.unlink(old)
    except OSError:
        os.unlink(new)
        raise
