"""Where the lines of a chat come from: a terminal with line editing, or a pipe.

Line editing is the standard library's readline: GNU's, or libedit on a Mac. prompt_toolkit would be
another dependency of half a megabyte that takes longer to import than this program does. Readline
has what a chat needs: history, completion, a line to begin with, pasting, and the user's own keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from ..errors import InputError
from .question import MAX_PROMPT_BYTES
from .state import History

PROMPT, MORE, EDIT = "> ", ". ", "edit> "


class Lines:
    """Reads a chat line by line. A line that ends in a backslash goes on in the next one.

    Attributes:
        is_terminal: whether a person types the lines.
    """

    def __init__(self, history: History, complete: Callable[[str], list[str]]) -> None:
        """
        Args:
            history: of earlier lines; lines from a pipe are not added.
            complete: returns what a line up to the cursor may become.

        Raises:
            InputError: standard input is closed.
        """
        if sys.stdin is None:
            raise InputError("standard input is closed: there is nothing to read")
        self.is_terminal = sys.stdin.isatty()
        self._history, self._complete = history, complete
        self._found: list[str] = []
        # Python edits lines only if both ends are a terminal.
        self._readline = _readline() if self.is_terminal and sys.stdout.isatty() else None
        if self._readline:
            self._bind(self._readline)

    def read(self, prompt: str = PROMPT, begun: str = "") -> str:
        """Return the next line, or several that belong together.

        Args:
            prompt: shown on a terminal.
            begun: text that the line begins with, to be edited.

        Raises:
            EOFError: there are no more lines.
            InputError: a line is too long, or not UTF-8.
        """
        lines = [self._line(prompt, begun)]
        while _goes_on(lines[-1]):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._line(MORE, ""))
            except EOFError:
                break
        text = "\n".join(lines)
        if self.is_terminal:
            self._history.add(text)
        return text

    def _line(self, prompt: str, begun: str) -> str:
        try:
            if self._readline:
                return _clean(self._edited(self._readline, prompt, begun))
            if self.is_terminal:
                print(prompt, end="", file=sys.stderr, flush=True)
            data = sys.stdin.buffer.readline(MAX_PROMPT_BYTES + 1)
            if not data:
                raise EOFError
            if len(data) > MAX_PROMPT_BYTES:
                raise InputError(f"a line has over {MAX_PROMPT_BYTES} bytes")
            return data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"a line is not UTF-8: {error}") from None

    def _edited(self, readline: ModuleType, prompt: str, begun: str) -> str:
        if begun:
            readline.set_startup_hook(lambda: readline.insert_text(begun))
        try:
            return input(prompt)
        finally:
            readline.set_startup_hook(None)

    def _bind(self, readline: ModuleType) -> None:
        for line in self._history.lines():
            readline.add_history(line)
        readline.set_completer(self._nth_completion)
        readline.set_completer_delims("\n")  # the completer gets the line from its begin
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")

    def _nth_completion(self, text: str, number: int) -> str | None:
        if number == 0:
            self._found = self._complete(text)
        return self._found[number] if number < len(self._found) else None


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # some builds of Python lack it
        return None
    return readline


def _goes_on(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _clean(line: str) -> str:
    """Replace what is not UTF-8, which a terminal of another encoding can send."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
