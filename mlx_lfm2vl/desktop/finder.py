"""Tags and comments in the Finder of macOS. Spotlight finds both.

Tags are an extended attribute: a binary property list of "name" or "name\\ncolor", color 0 to 7.
Comments are set by the Finder itself, since it keeps them in its own files too. The first time,
macOS asks whether the terminal may control the Finder.
"""

import plistlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import InputError, printable
from .texts import distinct

TAGS = "com.apple.metadata:_kMDItemUserTags"
XATTR = "/usr/bin/xattr"  # a package of that name puts another program on the PATH
OSASCRIPT = "/usr/bin/osascript"
XATTR_SECONDS = 30
COMMENT_SECONDS = 120
BATCH_FILES = 100  # comments set by one script
BATCH_BYTES = 100_000  # of its arguments; macOS allows a million
SET, KEPT = "set", "kept"

# Paths and comments are arguments, so no letter of them is read as AppleScript.
COMMENTS = """\
on run theArguments
    set isReplacing to (item 1 of theArguments) is "replace"
    set theResults to {}
    repeat with i from 2 to (count of theArguments) by 2
        try
            set theFile to (POSIX file (item i of theArguments)) as alias
            set theText to item (i + 1) of theArguments
            tell application "Finder"
                if isReplacing or (comment of theFile) is "" then
                    set comment of theFile to theText
                    set end of theResults to "set"
                else
                    set end of theResults to "kept"
                end if
            end tell
        on error theMessage
            set end of theResults to paragraph 1 of ("error " & theMessage)
        end try
    end repeat
    set AppleScript's text item delimiters to linefeed
    return theResults as text
end run
"""


def check_mac(what: str) -> None:
    """Refuse what only macOS has, before any work.

    Raises:
        InputError: this is not a Mac.
    """
    if sys.platform != "darwin":
        raise InputError(f"{what} exist only on macOS; --write xmp works everywhere")


def add_tags(path: Path, keywords: Sequence[str]) -> bool:
    """Add tags without a color to a file; its own keep their order and colors.

    Returns:
        Whether there was a new one.

    Raises:
        InputError: the attribute cannot be read or written; it is unchanged then.
    """
    old = read_tags(path)
    new = merged_tags(old, keywords, str(path))
    if new is None:
        return False
    _xattr("-wx", TAGS, new.hex(), str(path.absolute()))
    return True


def read_tags(path: Path) -> bytes | None:
    """Return the bytes of a file's tags, or None if it has none.

    Raises:
        InputError: they cannot be read.
    """
    file = str(path.absolute())
    if TAGS not in _xattr(file).splitlines():
        return None
    try:
        return bytes.fromhex(_xattr("-px", TAGS, file))
    except ValueError:
        raise InputError(f"{path}: its tags cannot be read, so they are left as they are") from None


def merged_tags(old: bytes | None, keywords: Iterable[str], name: str) -> bytes | None:
    """Return the bytes of tags to which keywords are added, or None if all are there.

    Args:
        old: the bytes of the tags that are there, if any.
        keywords: names of tags; case makes no difference.
        name: of the file, for messages.

    Raises:
        InputError: the old bytes are no list of tags.
    """
    try:
        tags = plistlib.loads(old) if old else []
    except (ValueError, OverflowError, RecursionError, LookupError, plistlib.InvalidFileException):
        tags = None
    if not isinstance(tags, list):
        raise InputError(f"{name}: its tags are damaged, so they are left as they are")
    known = [tag.partition("\n")[0] for tag in tags if isinstance(tag, str)]
    # A line feed would end the name: what follows is the color.
    added = distinct(("".join(filter(str.isprintable, word)) for word in keywords), known)
    return plistlib.dumps([*tags, *added], fmt=plistlib.FMT_BINARY) if added else None


def set_comments(comments: Mapping[Path, str], *, replace: bool = False) -> dict[Path, str]:
    """Set the Finder comments of files, a hundred with each script.

    Args:
        comments: the comment of each file.
        replace: replace the comments that are there; otherwise only empty ones are set.

    Returns:
        For each file `SET`, `KEPT`, or what went wrong, in one line.
    """
    results: dict[Path, str] = {}
    for batch in _batches(comments):
        arguments = [text for path, comment in batch for text in (str(path.absolute()), comment)]
        command = [OSASCRIPT, "-e", COMMENTS, "replace" if replace else "keep", *arguments]
        try:
            lines = _output(command, COMMENT_SECONDS).rstrip("\n").split("\n")
            if len(lines) != len(batch):
                raise InputError(f"{OSASCRIPT} answered {len(lines)} of {len(batch)} files")
        except InputError as error:
            lines = [str(error)] * len(batch)
        for (path, _), line in zip(batch, lines, strict=True):
            results[path] = printable(line.removeprefix("error "))
    return results


def _batches(comments: Mapping[Path, str]) -> Iterator[list[tuple[Path, str]]]:
    batch: list[tuple[Path, str]] = []
    size = 0
    for path, text in comments.items():
        text = text.replace("\0", "")
        nbytes = len(str(path.absolute()).encode()) + len(text.encode(errors="replace"))
        if batch and (len(batch) == BATCH_FILES or size + nbytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, text))
        size += nbytes
    if batch:
        yield batch


def _xattr(*arguments: str) -> str:
    return _output([XATTR, *arguments], XATTR_SECONDS)


def _output(command: list[str], seconds: float) -> str:
    """Run a program of macOS and return what it prints.

    Raises:
        InputError: it cannot be started, fails, or takes too long.
    """
    program = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{program} took more than {seconds:g} seconds") from None
    except (OSError, ValueError) as error:  # ValueError: a surrogate or a zero byte
        raise InputError(f"{program} cannot be run: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{program}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
