"""The documentation as its tests read it: pages, and the blocks, commands and links on them."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlx_lfm2vl.cli import COMMANDS

ROOT = Path(__file__).parent.parent
MODULE = "python -m mlx_lfm2vl."
PROGRAM = "mlx_lfm2vl "
SHELL = ("echo ", "sh ")  # what else a reader types that needs no network


@dataclass(frozen=True)
class Page:
    """A Markdown file of the documentation."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    def blocks(self, kind: str = "") -> list[str]:
        """The code blocks of a language; of none by default, which are commands and output."""
        found = re.findall(r"^```(\w*)\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)
        return [code for language, code in found if language == kind]

    @property
    def lines(self) -> list[str]:
        """The lines of commands and output."""
        return [line for code in self.blocks() for line in code.splitlines()]

    @property
    def commands(self) -> list[str]:
        """The commands that tests run, in the order shown."""
        return [line for line in self.lines if line.startswith((MODULE, PROGRAM, *SHELL))]

    @property
    def links(self) -> list[tuple[Path, str]]:
        """(file, anchor) of every link to a file; an anchor may be empty."""
        targets = re.findall(r"(?:\]\(|src=\")(?!http)([^)\"]+)", self.text)
        split = [target.partition("#") for target in targets]
        return [((self.path.parent / name).resolve(), anchor) for name, _, anchor in split]

    @property
    def anchors(self) -> set[str]:
        """What links to the headings are called."""
        headings = re.findall(r"^#+ (.*)", self.text, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}

    def table(self, head: str) -> list[list[str]]:
        """The cells of the table with this first line, row by row."""
        lines = self.text[self.text.index(f"{head}\n") :].partition("\n\n")[0].splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


README = Page(ROOT / "README.md")
PAGES = [README, *map(Page, sorted((ROOT / "docs").glob("*.md")))]


def page(name: str) -> Page:
    """A page of docs."""
    return Page(ROOT / "docs" / f"{name}.md")


def module_command(line: str) -> tuple[str, list[str]]:
    """Name and arguments of a command of the package."""
    name, *arguments = shlex.split(line.removeprefix(MODULE).removeprefix(PROGRAM))
    return (name, arguments) if name in COMMANDS else ("generate", [name, *arguments])
