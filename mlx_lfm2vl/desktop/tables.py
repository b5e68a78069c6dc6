"""The records of a run as a table: CSV for spreadsheets, Markdown for people."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..whole_folder import new_file
from .records import PLACE, SAME_AS, Record, settled

JOURNAL_ONLY = ("schema", "skill", "model", "settings", "key")  # the same in all rows, or for us
LAST = ("finish_reason", *SAME_AS.values(), "error", "exit_code")
KINDS = (".jsonl", ".csv", ".md")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a spreadsheet begins to compute


def journal_of(out: Path) -> Path:
    """Return the journal of a result file: itself, or for a table `results.csv.jsonl` beside it.

    Raises:
        InputError: the file is of no kind that is written.
    """
    kind = out.suffix.lower()
    if kind not in KINDS:
        raise InputError(f"--out is {str(out)!r}, expected a name that ends in {', '.join(KINDS)}")
    return out if kind == ".jsonl" else out.with_name(f"{out.name}.jsonl")


def write_table(journal: Path, out: Path) -> None:
    """Write the records of a journal as a table, which appears whole.

    Args:
        journal: its lines are complete.
        out: `.csv` or `.md`.

    Raises:
        InputError: the table cannot be written.
    """
    write = _write_csv if out.suffix.lower() == ".csv" else _write_markdown
    with (
        new_file(out) as partial,
        # A file name that is not UTF-8 is spelt out.
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        write(journal, file)


def _write_csv(journal: Path, file: Any) -> None:
    """Write one row for each picture; a column for each key, and for each field of an object."""
    found: dict[str, None] = {}
    for record in settled(journal):
        found.update(dict.fromkeys(_cells(record)))
    middle = [name for name in found if name not in (*PLACE, *LAST)]
    columns = [*(n for n in PLACE if n in found), *middle, *(n for n in LAST if n in found)]
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    for record in settled(journal):
        writer.writerow({name: _not_computed(cell) for name, cell in _cells(record).items()})


def _not_computed(cell: Any) -> Any:
    """Return a cell that stays text in a spreadsheet: an apostrophe goes before a formula.

    A picture may show text such as `=HYPERLINK(...)`, which would run where the table is opened.
    """
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _cells(record: Record) -> dict[str, Any]:
    """Return a record as cells: `{"values": {"total": 3}}` has the column `values.total`."""
    cells: dict[str, Any] = {}
    for name, value in record.items():
        if name in JOURNAL_ONLY:
            continue
        if isinstance(value, Mapping) and name not in (*PLACE, *SAME_AS.values()):
            cells.update({f"{name}.{key}": _cell(inner) for key, inner in value.items()})
        else:
            cells[name] = _cell(value)
    return cells


def _cell(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_markdown(journal: Path, file: Any) -> None:
    """Write one section for each picture: its text as it is, other values as a list."""
    for record in settled(journal):
        file.write(f"## {_title(record)}\n\n{_body(record)}\n\n")


def _title(record: Record) -> str:
    place = [f"{name} {record[name]}" for name in ("page", "seconds") if name in record]
    if "part" in record:
        part = record["part"]
        place.append("part {left}, {top}, {width} x {height}".format(**part))
    return ", ".join([_line(record["file"]), *place])


def _line(text: str) -> str:
    return " ".join(text.split())


def _body(record: Record) -> str:
    if "error" in record:
        return f"*Error: {_line(record['error'])}*"
    if "markdown" in record:
        return str(record["markdown"])
    cells = _cells(record)
    text = cells.pop("text", None)
    hidden = (*PLACE, *LAST, "length", "form")
    items = [
        f"- **{name}**: {value}"
        for name, value in cells.items()
        if value is not None and name not in hidden
    ]
    return "\n".join([*([str(text)] if text is not None else []), *items])


def check_table(out: Path, journal: Path) -> None:
    """Refuse to replace a file that no run has written.

    Raises:
        InputError: there is such a file.
    """
    if out != journal and out.exists() and not journal.exists():
        raise InputError(
            f"{out} exists, and {journal.name} does not, so no run has written it: choose another "
            "--out"
        )
