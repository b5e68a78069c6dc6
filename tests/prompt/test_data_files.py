"""Data files: JSON Lines, JSON arrays, Parquet and image folders; other kinds are refused."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pictures import make_picture
from training_runs import losses_of, run

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.data_files import find_data
from mlx_lfm2vl.prompt.rows import read_rows

ROWS = [{"image": f"{n}.png", "prompt": f"Which {n}?", "answer": f"No. {n}."} for n in range(3)]


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        make_picture(13, 21, number).save(tmp_path / f"{number}.png")
    return tmp_path


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(separator: str) -> str:
    lines = [ROWS[0], *([f'"{value}"' for value in row.values()] for row in ROWS)]
    return "".join(separator.join(line) + "\n" for line in lines)


FORMS = {
    "JSON Lines": ("d.jsonl", lines(ROWS)),
    "no kind": ("d", lines(ROWS)),
    "Windows": ("d.jsonl", lines(ROWS).replace("\n", "\r\n")),
    "a byte-order mark": ("d.jsonl", "\ufeff" + lines(ROWS)),
    "a JSON array": ("d.json", json.dumps(ROWS)),
    "a printed JSON array": ("d.json", "\ufeff\n" + json.dumps(ROWS, indent=2)),
    "UTF-16, as PowerShell writes it": ("d.jsonl", lines(ROWS).encode("utf-16")),
    "old Mac": ("d.jsonl", lines(ROWS).replace("\n", "\r")),
    "CSV": ("d.csv", table(",")),
    "CSV of a spreadsheet": ("d.csv", ("\ufeff" + table(";")).replace("\n", "\r\n")),
    "TSV": ("d.tsv", table("\t")),
    "an array by another name": ("d.jsonl", json.dumps(ROWS)),
    "lines by another name": ("d.json", lines(ROWS)),
}


@pytest.mark.parametrize(("name", "text"), FORMS.values(), ids=FORMS)
def test_every_form_of_a_file_has_the_same_rows(folder, name, text):
    (folder / "known.jsonl").write_text(lines(ROWS))
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_rows(folder / name) == read_rows(folder / "known.jsonl")
    assert len(read_rows(folder / name)) == 3


def test_a_file_may_hold_one_row_over_several_lines(folder):
    (folder / "d.json").write_text("\n" + json.dumps(ROWS[0], indent=2))
    assert len(read_rows(folder / "d.json")) == 1
    (folder / "d.json").write_text("\n" + json.dumps({"rows": ROWS}, indent=2))
    with pytest.raises(InputError, match="line 2: the row has an unknown key 'rows'"):
        read_rows(folder / "d.json")


def test_one_bad_row_is_one_row(folder):
    (folder / "d.jsonl").write_text(json.dumps({"prompt": "x"}))
    with pytest.raises(InputError, match=r"d\.jsonl has 1 bad row:\n  line 1: "):
        read_rows(folder / "d.jsonl")


def test_bad_rows_of_an_array_are_named_by_their_number(folder):
    (folder / "d.json").write_text(json.dumps([ROWS[0], {"prompt": "x"}, 7], indent=2))
    with pytest.raises(InputError) as error:
        read_rows(folder / "d.json")
    first, *rest = str(error.value).splitlines()
    assert first.endswith("has 2 bad rows:")
    assert [line.split(":")[0].strip() for line in rest] == ["row 2", "row 3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"prompt": "x"},\n', r"d.json is not JSON \(.*line 2"),
        ("[" * 100_000, "is not JSON"),
        ("{" * 10 + "\n", "line 1: not JSON"),
        ("1" * 5000, "line 1: not JSON"),
        ("\n \n", "has no rows"),
        ("[]", "has no rows"),
    ],
)
def test_text_that_is_no_json_is_refused(folder, text, why):
    (folder / "d.json").write_text(text)
    with pytest.raises(InputError, match=why):
        read_rows(folder / "d.json")


def test_parquet_needs_pyarrow(folder, monkeypatch):
    (folder / "d.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="is Parquet, which needs pyarrow: python -m pip install"):
        read_rows(folder / "d.parquet")


def test_parquet_rows_hold_images_as_bytes(folder, monkeypatch, tiny):
    _, processor = tiny
    image = {"bytes": (folder / "0.png").read_bytes(), "path": "unknown.png"}
    rows = [{"images": [image], "prompt": "<image>Which 0?", "completion": "No. 0.", "tools": None}]
    table = SimpleNamespace(to_pylist=lambda: rows)
    parquet = SimpleNamespace(read_table=lambda file: {b"PAR1": table}[file.read()])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    (folder / "d.jsonl").write_text(lines(ROWS))
    (folder / "d.parquet").write_bytes(b"PAR1")
    (messages,) = read_rows(folder / "d.parquet")
    expected = read_rows(folder / "d.jsonl")[0]
    assert processor(messages).input_ids == processor(expected).input_ids
    rows[0]["prompt"] = "<image><image>"
    with pytest.raises(InputError, match="row 1: <image> marks in the text: 2, images: 1"):
        read_rows(folder / "d.parquet")


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.parquet"])
def test_data_that_git_has_not_fetched_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=f"{name} is a Git LFS pointer.*run git lfs pull"):
        read_rows(folder / name)


def test_the_index_that_pandas_writes_beside_a_row_is_not_used(folder):
    (folder / "d.jsonl").write_text(lines([{**ROWS[0], "__index_level_0__": 7}]))
    assert len(read_rows(folder)) == 1


def test_a_folder_is_its_metadata_or_else_all_its_data(folder):
    (folder / "b.jsonl").write_text(lines(ROWS[1:]))
    (folder / "a.json").write_text(json.dumps(ROWS[:1]))
    (folder / "README.md").write_text("Photos.")
    (folder / "LICENSE").write_text("Mine.")
    (folder / ".DS_Store").write_text("")
    assert [path.name for path in find_data(folder)] == ["a.json", "b.jsonl"]
    assert len(read_rows(folder)) == 3
    (folder / "metadata.jsonl").write_text(lines([{"file_name": "0.png", "text": "A disc."}]))
    assert [path.name for path in find_data(folder)] == ["metadata.jsonl"]
    assert len(read_rows(folder)) == 1


@pytest.mark.parametrize(
    "name", ["rows.xlsx", "photo.dng", "data.arrow", "film.mov", "0.txt", "noise"]
)
def test_a_kind_of_file_that_is_not_read_is_refused_by_name(folder, name):
    (folder / "d.jsonl").write_text(lines(ROWS))
    (folder / name).write_text("x")
    with pytest.raises(InputError, match=f"{name} is of the unknown kind"):
        read_rows(folder)
    if "." in name:
        with pytest.raises(InputError, match=f"{name} is of the unknown kind"):
            read_rows(folder / name)


def test_a_folder_of_images_alone_has_no_data(folder):
    assert find_data(folder) == []
    with pytest.raises(InputError, match="has no data: no file ends with .jsonl, "):
        read_rows(folder)


def test_a_run_on_a_folder_is_the_run_on_its_file(folder):
    (folder / "metadata.jsonl").write_text(lines(ROWS))
    for name, data in (("one", folder / "metadata.jsonl"), ("two", folder)):
        assert run(data, folder.parent / f"{folder.name}-{name}", "--steps", "2") == 0
    first, second = (folder.parent / f"{folder.name}-{name}" for name in ("one", "two"))
    assert losses_of(first) == losses_of(second)
    assert run(folder, first, "--steps", "2", "--resume") == 0


def test_a_missing_file_is_said_without_the_number_of_an_error():
    with pytest.raises(InputError) as error:
        read_rows(Path("gone.jsonl"))
    assert str(error.value) == "gone.jsonl cannot be read: No such file or directory"


def test_an_image_folder_may_have_its_rows_in_a_table(folder):
    (folder / "metadata.csv").write_text('file_name,text\n0.png,"A disc, red."\n1.png,Two\n')
    first, second = read_rows(folder)
    assert [message["content"] for message in (first[1], second[1])] == ["A disc, red.", "Two"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("prompt,answer\na,b\na\n", "line 3: fewer values than the 2 columns"),
        ("prompt,answer\na,b,c\n", "line 2: more values than the 2 columns"),
        ("prompt,answer,mood\na,b,c\n", "line 2: the row has an unknown key 'mood'"),
        ('prompt,answer\n"a,b\n', "cannot be read after line"),
        ("prompt,answer\n", "has no rows"),
    ],
)
def test_bad_rows_of_a_table_are_named_by_their_line(folder, text, why):
    (folder / "d.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        read_rows(folder / "d.csv")


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "valid.jsonl"),
        ("train.jsonl", "test.jsonl"),
        ("data_a.jsonl", "train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"),
    ],
)
def test_rows_to_learn_are_not_read_together_with_rows_to_check(folder, names):
    for name in names:
        (folder / name).write_text(lines(ROWS))
    with pytest.raises(InputError, match="data for different uses, .*train.*: name one file at a"):
        read_rows(folder)
    (folder / names[-1]).unlink()
    (folder / "tested.jsonl").write_text(lines(ROWS))
    assert len(find_data(folder)) == len(names)
