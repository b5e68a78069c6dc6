"""Tables in OTSL, the form in which document models write them, as Markdown, CSV and HTML.

A table is read row by row. Each place of its grid has one token, which stands before the text:

- `<fcel>` a cell, `<ecel>` an empty one;
- `<ched>`, `<rhed>`, `<srow>` the header of a column, of a row, and of a section of rows;
- `<lcel>` belongs to the cell on its left, `<ucel>` to the one above, `<xcel>` to both;
- `<nl>` ends a row.

Follows "Optimized Table Tokenization for Table Structure Recognition" (Lysak et al., 2023) and the
names of docling. Models break the grammar, so a place that can belong to no cell is an empty cell,
text in an unexpected place is kept, and rows may differ in length.
"""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import AnswerError

Kind = Literal["cell", "column header", "row header", "section"]

KINDS: dict[str, Kind] = {
    "fcel": "cell",
    "ecel": "cell",
    "ched": "column header",
    "rhed": "row header",
    "srow": "section",
}
OWNERS = {"lcel": (0, -1), "ucel": (-1, 0), "xcel": (-1, -1)}  # where the cell is found
SHOWN = 80  # characters of an answer in a message

_TOKEN = re.compile(r"<(fcel|ecel|ched|rhed|srow|lcel|ucel|xcel|nl)>", re.IGNORECASE)
_OTHER = re.compile(r"</?(?:otsl|caption)>|</(?:fcel|ched|rhed|srow)>|<loc_\d+>", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: without spaces around it.
        kind: what it is.
        row: its first row, from 0.
        column: its first column, from 0.
        rows: number of rows that it spans.
        columns: number of columns that it spans.
    """

    text: str
    kind: Kind
    row: int
    column: int
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True)
class Table:
    """A table of cells.

    Attributes:
        rows: the cells that begin in each row, from left to right.
        lengths: number of places of each row, with those that are spanned from above.
        caption: text before the first cell; often empty.
    """

    rows: list[list[Cell]]
    lengths: list[int]
    caption: str = ""

    @property
    def width(self) -> int:
        """Number of columns of the longest row."""
        return max(self.lengths)

    def texts(self) -> list[list[str]]:
        """Return the text of each place, row by row; a cell's text stands in its first place."""
        lines = [[""] * length for length in self.lengths]
        lines[0] += [""] * (self.width - len(lines[0]))  # readers count columns there
        for line, cells in zip(lines, self.rows, strict=True):
            for cell in cells:
                line[cell.column] = cell.text
        return lines

    def to_markdown(self) -> str:
        """Return the table as GitHub's Markdown, which knows no spans and one line of headers.

        The first row is the header, because there has to be one.
        """
        lines = [f"| {' | '.join(map(_markdown, line))} |" for line in self.texts()]
        lines.insert(1, f"|{' --- |' * self.width}")
        caption = [f"{' '.join(self.caption.split())}\n"] if self.caption else []
        return "\n".join([*caption, *lines])

    def to_csv(self) -> str:
        """Return the table as CSV with commas, lines ending in a line feed."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(self.texts())
        return file.getvalue()

    def to_html(self) -> str:
        """Return the table as an HTML element, with spans and headers."""
        head = 0
        while head < len(self.rows) and _is_header(self.rows[head]):
            head += 1
        parts = ["<table>"]
        if self.caption:
            parts.append(f"<caption>{_html(self.caption)}</caption>")
        for name, rows in (("thead", self.rows[:head]), ("tbody", self.rows[head:])):
            if rows:
                lines = [f"<tr>{''.join(map(_element, cells))}</tr>" for cells in rows]
                parts += [f"<{name}>", *lines, f"</{name}>"]
        return "\n".join([*parts, "</table>"])


def parse_otsl(text: str) -> Table:
    """Read a table.

    Args:
        text: tokens and texts, with or without `<otsl>` around them.

    Raises:
        AnswerError: there is no cell in it.
    """
    before, *parts = _TOKEN.split(_OTHER.sub("", text))
    grid = _Grid()
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        grid.add(name.lower(), content.strip())
    rows, lengths = grid.table()
    if not any(rows):
        shown = " ".join(text.split())
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise AnswerError(f"a table is {shown!r}, expected OTSL such as <fcel>A<fcel>B<nl>")
    return Table(rows, lengths, before.strip())


class _Grid:
    """The places of a table, with the number of the cell that each belongs to."""

    def __init__(self) -> None:
        self._cells: list[Cell] = []
        self._texts: list[list[str]] = []  # of each cell
        self._places: list[list[int]] = [[]]

    def add(self, token: str, text: str) -> None:
        """Add a token with the text after it."""
        if token == "nl":
            self._places.append([])
            if text:  # a cell without a token
                self._begin("cell", text)
        elif token in KINDS:
            self._begin(KINDS[token], text)
        else:
            owner = self._owner(*OWNERS[token])
            if owner is None:
                self._begin("cell", text)
            else:
                self._places[-1].append(owner)
                self._texts[owner] += [text] if text else []

    def _begin(self, kind: Kind, text: str) -> None:
        row, column = len(self._places) - 1, len(self._places[-1])
        self._places[-1].append(len(self._cells))
        self._cells.append(Cell("", kind, row, column))
        self._texts.append([text])

    def _owner(self, down: int, right: int) -> int | None:
        """Return the cell at a neighbor of the next place; None outside the table."""
        row, column = len(self._places) - 1 + down, len(self._places[-1]) + right
        if row < 0 or not 0 <= column < len(self._places[row]):
            return None
        return self._places[row][column]

    def table(self) -> tuple[list[list[Cell]], list[int]]:
        """Return the cells that begin in each row, and the number of places of each row.

        A cell spans the largest rectangle of places that belong to it. What is left of a broken
        span becomes empty cells.
        """
        if not self._places[-1]:
            self._places.pop()
        rows: list[list[Cell]] = []
        spans: dict[int, Cell] = {}
        for row, places in enumerate(self._places):
            cells: list[Cell] = []
            for column, number in enumerate(places):
                cell = self._cells[number]
                if (cell.row, cell.column) == (row, column):
                    spans[number] = replace(
                        cell, text=" ".join(filter(None, self._texts[number])), **self._span(number)
                    )
                    cells.append(spans[number])
                elif not _holds(spans[number], row, column):
                    cells.append(Cell("", "cell", row, column))
            rows.append(cells)
        return rows, list(map(len, self._places))

    def _span(self, number: int) -> dict[str, int]:
        cell = self._cells[number]
        first = self._places[cell.row]
        right = cell.column
        while right < len(first) and first[right] == number:
            right += 1
        columns, below = right - cell.column, cell.row + 1
        while (
            below < len(self._places)
            and self._places[below][cell.column : right] == [number] * columns
        ):
            below += 1
        return {"rows": below - cell.row, "columns": columns}


def _holds(cell: Cell, row: int, column: int) -> bool:
    return (
        cell.row <= row < cell.row + cell.rows
        and cell.column <= column < cell.column + cell.columns
    )


def _is_header(cells: Sequence[Cell]) -> bool:
    return any(cell.kind == "column header" for cell in cells)


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("\r\n", "\n").replace("\n", "<br>")


def _html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _element(cell: Cell) -> str:
    name = "td" if cell.kind == "cell" else "th"
    spans = "".join(
        f' {attribute}="{count}"'
        for attribute, count in (("rowspan", cell.rows), ("colspan", cell.columns))
        if count > 1
    )
    scope = {"column header": ' scope="col"', "row header": ' scope="row"'}.get(cell.kind, "")
    return f"<{name}{scope}{spans}>{_html(cell.text)}</{name}>"
