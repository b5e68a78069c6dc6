"""The words of a line in a chat: paths as people type, complete and drop them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..images.endings import is_image_name

# In quotes, or with backslashes before spaces. Terminals drop files in either way.
WORD = re.compile(r"""\s*(?:'([^']*)'(?!\S)|"([^"]*)"(?!\S)|((?:\\.|[^\s\\]|\\$)+))""")
SPECIAL = re.compile(r"""([\s\\'"])""")
MAX_ENTRIES = 10_000  # of a folder that is searched for completions


def split_words(text: str) -> list[tuple[str, int]]:
    """Return the words of a text, each with the position after it."""
    words: list[tuple[str, int]] = []
    at = 0
    while match := WORD.match(text, at):
        single, double, bare = match.groups()
        word = re.sub(r"\\(.)", r"\1", bare) if bare is not None else single or double or ""
        at = match.end()
        words.append((word, at))
    return words


def paths_in(text: str) -> list[str]:
    """Return the paths that a text names; a file whose name has spaces needs no quotes."""
    whole = text.strip()
    return [whole] if is_file(whole) else [word for word, _ in split_words(text)]


def leading_files(text: str) -> tuple[list[str], str]:
    """Split a line into the files that it begins with, as after a drop, and the rest."""
    if is_file(text.strip()):
        return [text.strip()], ""
    files, end = [], 0
    for word, after in split_words(text):
        if not is_file(word):
            break
        files.append(word)
        end = after
    return files, text[end:].strip()


def is_file(name: str) -> bool:
    """Whether there is a file of this name."""
    try:
        return bool(name) and (os.path.isfile(name) or os.path.isfile(os.path.expanduser(name)))
    except (OSError, ValueError):
        return False


def complete(line: str, commands: Iterable[str], kinds: dict[str, str]) -> list[str]:
    """Return the lines that a line may become.

    Args:
        line: up to the cursor.
        commands: names, each with its slash.
        kinds: what a command takes, by its name: "image" or "folder".
    """
    name, space, _ = line.partition(" ")
    if not space:
        found = [f"{command} " for command in commands if command.startswith(line)]
        return found if found or not line.startswith(("/", "~")) else _paths("", line, _any)
    if name not in kinds:
        return []
    begin = re.search(r"(?:\\.|[^\s\\]|\\$)*$", line)
    start = max(len(name) + 1, begin.start() if begin else len(line))
    wanted = _is_image if kinds[name] == "image" else _is_folder
    return _paths(line[:start], line[start:], wanted)


def _paths(before: str, typed: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Complete the last word of a line to paths of one kind."""
    path = re.sub(r"\\(.)", r"\1", typed)
    folder, begun = os.path.split(path)
    found: list[str] = []
    try:
        with os.scandir(Path(folder).expanduser()) as entries:
            for entry, _ in zip(entries, range(MAX_ENTRIES), strict=False):
                is_hidden = entry.name.startswith(".") and not begun.startswith(".")
                if entry.name.startswith(begun) and not is_hidden and wanted(entry):
                    name = SPECIAL.sub(r"\\\1", os.path.join(folder, entry.name))
                    found.append(f"{before}{name}{'/' if entry.is_dir() else ' '}")
    except (OSError, ValueError, RuntimeError):  # no such folder, or no home
        return []
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir()


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() or is_image_name(entry.name)


def _any(_entry: os.DirEntry[str]) -> bool:
    return True
