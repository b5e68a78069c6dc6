"""The parser of every command: exact option names, and mistakes in one line with the way out."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import InputError


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, which argparse would find out through a module slow to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose mistakes are an `InputError` that names the nearest option.

    Options cannot be abbreviated: a new option would change what a script means. Words and options
    may come in any order.
    """

    def __init__(self, *, prog: str, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("usage", f"{prog} [options]")
        super().__init__(prog=prog, allow_abbrev=False, **settings)

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            InputError: an option is unknown, or its value is missing or wrong.
        """
        if args is not None:
            self._refuse_unknown(args)
        values = namespace or argparse.Namespace()
        if not (places := self._get_positional_actions()):
            return super().parse_args(args, values)
        given, rest = list(sys.argv[1:] if args is None else args), []
        if places[-1].nargs == "*" and "--" in given:  # which `parse_intermixed_args` drops
            end = given.index("--")
            given, rest = given[:end], given[end + 1 :]
        found = self.parse_intermixed_args(given, values)
        if rest:
            setattr(found, places[-1].dest, [*getattr(found, places[-1].dest), *rest])
        return found

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help. Argparse would say nothing of a full disk."""
        print(message, end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as an error of one line."""
        for place in self._get_positional_actions():
            if place.choices:  # say the words, not what the code calls them
                words = " or ".join(place.choices)
                message = message.replace(f"required: {place.dest}", f"required: {words}")
        raise InputError(with_help(" ".join(message.split()), self.prog))

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Name a misspelt option before argparse complains about what it then misses."""
        known = self._option_string_actions
        for word in words:
            if word == "--":
                return
            if word in known or not word.startswith("-"):
                continue
            if len(word) > 1 and os.path.lexists(word):  # `-photo.png` would be `-p hoto.png`
                path = shlex.quote(f"./{word}")
                self.error(f"{word} reads as an option: the file of that name is {path}")
            if not re.match(r"--?[A-Za-z]", word) or " " in word:
                continue
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            if name not in known:
                near = nearest(word.partition("=")[0], known)
                hint = f"; did you mean {near}?" if near else ""
                self.error(f"there is no option {word.partition('=')[0]}{hint}")


def with_help(problem: str, program: str) -> str:
    """Return a mistake with where to look up what is right."""
    return f"{problem}{' See' if problem.endswith('?') else '; see'} {program} --help"


def _columns() -> int:
    """The width of the terminal; 80 if there is none."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def nearest(word: str, known: Sequence[str] | Any) -> str | None:
    """Return the known word that is most like a word, or None if none is."""
    import difflib  # only a mistake needs it

    found = difflib.get_close_matches(word, list(known), 1, 0.6)
    if found or not word.startswith("--"):
        return found[0] if found else None
    # An abbreviation is too short to be similar.
    return next((name for name in known if name.startswith(word)), None)
