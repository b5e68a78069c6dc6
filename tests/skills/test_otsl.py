"""OTSL tables become Markdown, CSV and HTML, and no text of a broken one is lost."""

import csv
import random
import re
import time

import pytest

from mlx_lfm2vl.errors import AnswerError
from mlx_lfm2vl.skills.otsl import parse_otsl

SALES = (
    "<otsl><loc_1><loc_2><loc_3><loc_4><caption>Sales, 2025</caption>"
    "<ecel><ched>North<lcel><ched>South | x<nl>\n"
    "<ucel><ched>Q1<ched>Q2<ched>Q1<nl>\n"
    "<rhed>Apples<fcel>1,5<fcel>2<fcel>$a<b$<nl>\n"
    "<rhed>Pears<fcel>none<lcel><lcel><nl>\n"
    "<srow>All<ucel><xcel><xcel><nl></otsl>"
)


def test_a_table_with_spans_in_all_three_forms():
    table = parse_otsl(SALES)
    assert table.width == 4
    assert table.to_markdown().splitlines() == [
        "Sales, 2025",
        "",
        "|  | North |  | South \\| x |",
        "| --- | --- | --- | --- |",
        "|  | Q1 | Q2 | Q1 |",
        "| Apples | 1,5 | 2 | $a<b$ |",
        "| Pears | none |  |  |",
        "| All |  |  |  |",
    ]
    assert list(csv.reader(table.to_csv().splitlines()))[2] == ["Apples", "1,5", "2", "$a<b$"]
    page = table.to_html()
    assert page.startswith(
        '<table>\n<caption>Sales, 2025</caption>\n<thead>\n<tr><td rowspan="2"></td>'
        '<th scope="col" colspan="2">North</th>'
    )
    assert '<td rowspan="2" colspan="3">none</td></tr>\n<tr><th>All</th></tr>\n</tbody>' in page
    assert '<th scope="row">Apples</th><td>1,5</td><td>2</td><td>$a&lt;b$</td>' in page


def test_the_first_row_is_the_header_of_a_table_without_any():
    table = parse_otsl("<fcel>a\nb<fcel>c<nl><fcel>1<nl><fcel>1<fcel>2<fcel>3<nl>")
    assert table.to_markdown() == "| a<br>b | c |  |\n| --- | --- | --- |\n| 1 |\n| 1 | 2 | 3 |"
    assert table.to_csv() == '"a\nb",c,""\n1\n1,2,3\n'.replace('""', "")
    assert "<thead>" not in table.to_html()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("<lcel><fcel>a<nl><ucel>b", [["b", "a"], [""]]),  # a span of nothing; text in a span
        ("<ucel>x<fcel>a<nl>y<fcel>b", [["x", "a"], ["y", "b"]]),
        ("<fcel>a<fcel>b<nl><ucel><lcel><nl>", [["a", "b"], ["", ""]]),  # not a rectangle
        ("<FCEL>a<NL><nl><fcel>b", [["a"], [], ["b"]]),
        ("<ecel>text</fcel>", [["text"]]),
    ],
)
def test_broken_tables_keep_their_text(text, lines):
    assert parse_otsl(text).texts() == lines


def test_what_has_no_cell_is_refused():
    for text in ("", "| a | b |", "<otsl></otsl>", "<nl><nl>", "Just text"):
        with pytest.raises(AnswerError, match="expected OTSL such as"):
            parse_otsl(text)


def places(table):
    found = [
        (row, column)
        for cells in table.rows
        for cell in cells
        for row in range(cell.row, cell.row + cell.rows)
        for column in range(cell.column, cell.column + cell.columns)
    ]
    assert len(found) == len(set(found))
    return found


def test_every_place_of_a_damaged_table_belongs_to_one_cell_and_every_word_stays():
    chance = random.Random(3)
    tokens = ["<fcel>z", "<ecel>", "<lcel>", "<ucel>", "<xcel>", "<ched>z", "<srow>z", "<nl>", "z"]
    for _ in range(500):
        text = "".join(chance.choices(tokens, k=chance.randint(1, 60)))
        if "cel>" not in text and "ched>" not in text and "srow>" not in text:
            continue
        table = parse_otsl(text)
        count = len(re.findall("<[^n]", text)) + text.count("<nl>z")
        assert len(places(table)) == count
        words = [cell.text for cells in table.rows for cell in cells] + [table.caption]
        assert "".join(words).count("z") == text.count("z")
        assert table.to_markdown()
        assert table.to_html()
        assert len(list(csv.reader(table.to_csv().splitlines()))) == len(table.rows)


@pytest.mark.parametrize("piece", ["<fcel>", "<lcel>", "<ucel><nl>", "<nl><fcel>a", "<", "<xcel>b"])
def test_the_time_grows_with_the_length_of_a_table_and_no_faster(piece):
    text = "<fcel>" + piece * (60_000 // len(piece))
    start = time.process_time()
    table = parse_otsl(text)
    assert len(table.to_html()) + len(table.to_markdown()) + len(table.to_csv()) < 2_000_000
    assert time.process_time() - start < 3
