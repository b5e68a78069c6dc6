"""Answers written back: beside photos, into their tags and names, into a table for exiftool."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from pictures import make_picture

from mlx_lfm2vl.desktop import finder
from mlx_lfm2vl.desktop import write_back as module
from mlx_lfm2vl.desktop.exiftool_csv import COLUMNS, ExiftoolCsv
from mlx_lfm2vl.desktop.photo_facts import photo_facts
from mlx_lfm2vl.desktop.rename import undo
from mlx_lfm2vl.desktop.texts import Texts
from mlx_lfm2vl.desktop.write_back import Plan, WriteBack, write_back
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.images.inputs import Input

CAPTION = {"file": "a", "text": 'A "red" apple, on\na table; =1', "length": "normal"}
KEYWORDS = {"file": "a", "keywords": ["apple", "table, wooden", "東京"]}


@pytest.fixture
def photo(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    path = folder / "a, b.jpg"
    make_picture(20, 30, 1).save(path)
    os.utime(path, (1e9, 1e9))  # in September 2001
    return path


def taken(path, **more) -> Input:
    return Input(path.name, str(path), path, **more)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_answer_is_written_in_several_ways_at_once(photo, caplog):
    write_back(taken(photo), CAPTION, ["xmp", "txt"])
    write_back(taken(photo), KEYWORDS, ["xmp"], whole_name=True)
    assert names(photo.parent) == {"a, b.jpg", "a, b.xmp", "a, b.txt"}
    assert (photo.with_suffix(".txt")).read_text() == CAPTION["text"] + "\n"
    assert photo_facts(taken(photo))["keywords"] == "apple, table, wooden, 東京"
    write_back(taken(photo), CAPTION, ["xmp", "txt"])  # which is there already
    assert not caplog.records


def test_text_of_somebody_else_stays_unless_it_is_to_be_replaced(photo, caplog):
    text = photo.with_suffix(".txt")
    text.write_text("my own")
    write_back(taken(photo), CAPTION, ["txt"])
    assert text.read_text() == "my own"
    assert "1 files had texts of their own, which were kept" in caplog.text
    write_back(taken(photo), CAPTION, ["txt"], replace=True)
    assert text.read_text() == CAPTION["text"] + "\n"
    write_back(taken(photo), {"values": {"total": 12.5}}, ["txt"], replace=True)
    assert json.loads(text.read_text()) == {"total": 12.5}
    write_back(taken(photo), {"x": 3}, ["txt"], replace=True)
    assert json.loads(text.read_text()) == {"total": 12.5}


def test_one_way_that_fails_stops_no_other_and_is_one_error(photo):
    photo.with_suffix(".xmp").write_text("no xmp")
    with pytest.raises(InputError) as error:
        write_back(taken(photo), CAPTION, ["xmp", "txt"])
    assert str(error.value).count("a, b.xmp is no XMP") == 1
    assert photo.with_suffix(".txt").read_text() == CAPTION["text"] + "\n"
    photo.with_suffix(".txt").unlink()
    os.mkfifo(photo.with_suffix(".txt"))
    with pytest.raises(InputError, match=r"a, b\.txt is no file"):
        write_back(taken(photo), CAPTION, ["txt"], replace=True)
    with pytest.raises(InputError, match=r"gone\.jpg is gone"):
        write_back(taken(photo.with_name("gone.jpg")), CAPTION, ["xmp"])


def test_only_the_first_page_and_whole_pictures_are_written_about(photo, caplog):
    part = Part(0, 0, 5, 5, (20, 30))
    for more in ({"page": 2}, {"part": part}, {"page": 1, "seconds": 1.5}):
        write_back(taken(photo, **more), CAPTION, ["txt"])
    write_back(taken(photo), {"error": "x", "text": "half"}, ["txt"])
    write_back(Input("the clipboard's image", b""), CAPTION, ["txt"])
    assert names(photo.parent) == {"a, b.jpg"}
    assert "the clipboard's image is no file" in caplog.text
    write_back(taken(photo, page=1), CAPTION, ["txt"])
    assert names(photo.parent) == {"a, b.jpg", "a, b.txt"}


def test_photos_are_renamed_with_what_was_written_and_come_back(photo, tmp_path):
    log, table = tmp_path / "undo.jsonl", tmp_path / "table.csv"
    plan = Plan(frozenset({"xmp"}), csv=table, rename="{date} {slug}{ext}", undo_file=log)
    with WriteBack(plan) as writer:
        writer(taken(photo), CAPTION)
    new = "2001-09-09 a-red-apple-on-a-table-1"
    assert names(photo.parent) == {f"{new}.jpg", f"{new}.xmp"}
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["SourceFile"] == str(photo.with_name(f"{new}.jpg"))
    undo(log)
    assert names(photo.parent) == {"a, b.jpg", "a, b.xmp"}


def test_a_file_of_pages_keeps_its_name_until_the_end(photo, tmp_path):
    table = tmp_path / "table.csv"
    plan = Plan(csv=table, rename="{slug}{ext}", undo_file=tmp_path / "undo")
    with WriteBack(plan) as writer:
        writer(taken(photo, page=1), CAPTION)
        writer(taken(photo, page=2), {"text": "other"})
        assert photo.exists()
    assert names(photo.parent) == {"a-red-apple-on-a-table-1.jpg"}
    assert "a-red-apple-on-a-table-1.jpg" in table.read_text()


def test_without_words_a_photo_keeps_its_name(photo, tmp_path):
    with WriteBack(Plan(rename="{date}_{slug}{ext}", undo_file=tmp_path / "undo")) as writer:
        with pytest.raises(InputError, match="keeps its name: the answer has no words"):
            writer(taken(photo), {"text": "…"})
        with pytest.raises(InputError, match="gone.jpg cannot be renamed"):
            writer(taken(photo.with_name("gone.jpg")), CAPTION)
    with pytest.raises(InputError, match="No such file or directory"):
        write_back(taken(photo.parent / "gone" / "a.jpg"), CAPTION, ["txt"])
    assert names(photo.parent) == {"a, b.jpg"}


def test_a_preview_says_names_and_writes_nothing(photo, tmp_path, caplog):
    plan = Plan(
        frozenset({"xmp", "txt"}),
        csv=tmp_path / "csv",
        rename="{slug}{ext}",
        undo_file=tmp_path / "undo",
        preview=True,
    )
    with WriteBack(plan) as writer:
        writer(taken(photo), CAPTION)
    assert "a, b.jpg would be called a-red-apple-on-a-table-1.jpg" in caplog.text
    assert names(photo.parent) == {"a, b.jpg"}
    assert names(tmp_path) == {"my photos"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"ways": frozenset({"iptc"})}, "--write iptc is unknown; known are xmp, finder-comment"),
        ({"ways": frozenset({"finder-tags"})}, "exist only on macOS; --write xmp works everywhere"),
        ({"rename": "{slug}"}, "must be a name that ends in"),
    ],
)
def test_a_plan_is_checked_before_any_work(plan, message, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match=message):
        Plan(**plan)


def test_comments_are_set_together_after_renames(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(module, "COMMENTS_AT_ONCE", 2)
    calls = []

    def set_comments(comments, **_):
        calls.append({path.name: text for path, text in comments.items()})
        return dict.fromkeys(comments, finder.SET if len(calls) == 1 else "no permission")

    monkeypatch.setattr(module, "set_comments", set_comments)
    photos = [shutil.copy(photo, photo.with_name(f"{n}.jpg")) for n in range(3)]
    plan = Plan(frozenset({"finder-comment"}), rename="{slug}{ext}", undo_file=tmp_path / "undo")
    with WriteBack(plan) as writer:
        for number, path in enumerate(photos):
            writer(taken(path), {"text": f"Photo {number}"})
    assert calls == [
        {"photo-0.jpg": "Photo 0", "photo-1.jpg": "Photo 1"},
        {"photo-2.jpg": "Photo 2"},
    ]
    (problem,) = writer.problems
    assert problem.endswith("photo-2.jpg has no Finder comment: no permission")


# -- the table for exiftool --


def test_exiftool_embeds_what_the_table_says(photo, tmp_path):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    table = tmp_path / "table.csv"
    ExiftoolCsv(table).add(photo, Texts("", CAPTION["text"], tuple(KEYWORDS["keywords"])))
    command = ["exiftool", "-q", "-overwrite_original", "-charset", "UTF8", f"-csv={table}"]
    subprocess.run([*command, "-sep", "; ", str(photo.parent)], check=True)
    read = ["exiftool", "-j", "-charset", "UTF8", "-XMP-dc:all", str(photo)]
    (found,) = json.loads(subprocess.run(read, capture_output=True, check=True).stdout)
    assert found["Description"] == 'A "red" apple, on a table; =1'
    assert found["Subject"] == KEYWORDS["keywords"]


def test_a_table_goes_on_after_a_line_that_was_cut_off(tmp_path):
    table = tmp_path / "table.csv"
    texts = Texts("", 'a "b",\n\x1b c', ("one;two", "three"))
    ExiftoolCsv(table).add(tmp_path / "1.jpg", texts)
    whole = table.read_bytes()
    table.write_bytes(whole + b'/x,"half')
    ExiftoolCsv(table).add(tmp_path / "1.jpg", texts)
    assert table.read_bytes() == whole
    with table.open(newline="") as file:
        header, row = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert row == [str(tmp_path / "1.jpg"), 'a "b",  c', "one,two; three"]


def test_another_table_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="is no table of --exiftool-csv"):
        ExiftoolCsv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "a,b\n"
