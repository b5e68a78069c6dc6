"""CSV and Markdown of a run: one row or section for each picture, written whole."""

import csv
import json
import os
from pathlib import Path

import pytest
from folder_runs import SETTINGS

from mlx_lfm2vl import InputError
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.desktop.records import answer_record, copied, error_record, place_of
from mlx_lfm2vl.desktop.tables import check_table, journal_of, write_table
from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.images.inputs import Input


def given(name: str, **place) -> Input:
    return Input(name, name, Path(name), **place)


@pytest.fixture
def journal(tmp_path) -> Path:
    path = tmp_path / "r.csv.jsonl"
    first = answer_record(
        given("a.png"), "00" * 16, SETTINGS, {"text": 'a "red"\ncar, new', "keywords": ["x", "y"]}
    )
    whole = (100, 200)
    part = given("b.pdf", page=2, part=Part(1, 2, 3, 4, whole))
    second = answer_record(
        part, "01" * 16, SETTINGS, {"values": {"total": 3, "items": [{"a": 1}], "note": None}}
    )
    odd = given(os.fsdecode(b"caf\xe9.png"))
    failed = error_record(given("bad.png"), "", SETTINGS, InputError("is\ndamaged"))
    found = Journal(path, SETTINGS)
    for record in (first, second, failed, copied(first, place_of(odd))):
        found.add(record)
    found.finish()
    return path


def test_a_csv_has_a_column_for_each_key_and_field(journal, tmp_path):
    write_table(journal, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        first, second, failed, same = csv.DictReader(file)
    assert first["text"] == 'a "red"\ncar, new'
    assert first["keywords"] == "x, y"
    assert (second["file"], second["page"]) == ("b.pdf", "2")
    assert second["part"] == '{"left": 2, "top": 1, "width": 4, "height": 3}'
    assert (second["values.total"], second["values.items"]) == ("3", '[{"a": 1}]')
    assert second["values.note"] == ""
    assert (failed["error"], failed["exit_code"]) == ("is\ndamaged", "2")
    assert (same["file"], same["same_as"]) == ("caf\\udce9.png", "a.png")
    assert not {"key", "settings", "schema"} & first.keys()
    assert [*first][:3] == ["file", "page", "part"]


def test_the_equal_page_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    first = answer_record(given("a.pdf", page=2), "00" * 16, SETTINGS, {"text": "x"})
    journal = Journal(path, SETTINGS)
    journal.add(first)
    same = copied(first, place_of(given("b.pdf", page=7)))
    journal.add(copied(same, place_of(given("c.png"))))
    journal.finish(order={})
    for line in path.read_text().splitlines()[1:]:
        record = json.loads(line)
        assert (record["same_as"], record["same_as_page"]) == ("a.pdf", 2)


def test_text_in_a_csv_is_no_formula_for_a_spreadsheet(tmp_path):
    texts = ["=1+1", "+cmd|x", "-a", "@sum", "\t=1", "-5.20", "a=1"]
    path = tmp_path / "r.csv.jsonl"
    journal = Journal(path, SETTINGS)
    for number, text in enumerate(texts):
        answer = {"text": text, "values": {"total": -3}, "keywords": [text, "b"]}
        key = f"{number:032x}"
        journal.add(answer_record(given(f"={number}.png"), key, SETTINGS, answer))
    journal.finish()
    write_table(path, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = ["'=1+1", "'+cmd|x", "'-a", "'@sum", "'\t=1", "-5.20", "a=1"]
    assert [row["text"] for row in rows] == shown
    assert (rows[0]["file"], rows[0]["keywords"]) == ("'=0.png", "'=1+1, b")
    assert {row["values.total"] for row in rows} == {"-3"}


def test_markdown_has_a_section_for_each_picture(journal, tmp_path):
    write_table(journal, tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().split("## ")[1:4] == [
        'a.png\n\na "red"\ncar, new\n- **keywords**: x, y\n\n',
        "b.pdf, page 2, part 2, 1, 4 x 3\n\n"
        '- **values.total**: 3\n- **values.items**: [{"a": 1}]\n\n',
        "bad.png\n\n*Error: is damaged*\n\n",
    ]


def test_a_table_has_its_journal_beside_it():
    assert journal_of(Path("out/r.csv")) == Path("out/r.csv.jsonl")
    assert journal_of(Path("r.JSONL")) == Path("r.JSONL")
    for name in ("r.txt", "r", "photo.jpg"):
        with pytest.raises(InputError, match="a name that ends in .jsonl, .csv, .md"):
            journal_of(Path(name))


def test_a_table_that_no_run_has_written_is_not_replaced(journal, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(InputError, match=r"mine.csv exists, and mine.csv.jsonl does not"):
        check_table(tmp_path / "mine.csv", tmp_path / "mine.csv.jsonl")
    (tmp_path / "r.csv").write_text("of the last run")
    check_table(tmp_path / "r.csv", journal)
