"""Renaming: names from templates, no file overwritten, and everything undone, also after a kill."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl.desktop.file_names import FIELDS, filled_stem, read_template, slug
from mlx_lfm2vl.desktop.rename import Renamer, undo
from mlx_lfm2vl.errors import InputError

LIVE = ["IMG_1.HEIC", "IMG_1.MOV", "IMG_1.AAE", "img_1.xmp", "IMG_1.HEIC.xmp", "IMG_1.txt"]


def fill(folder: Path, names) -> dict[str, str]:
    """Make files that hold their names."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return state(folder)


def state(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


class Killed(BaseException):
    pass


def limited(function, left: list[int]):
    """A step on the disk that ends the process when none is left: then no later step happens."""

    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*arguments, **options)

    return call


# -- names --


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{date}_{slug}", "must be a name that ends in {ext}"),
        ("{ext}", "must be a name that ends in {ext}"),
        ("{ext}{ext}", "must be a name that ends in {ext}"),
        ("{year}{ext}", "has {year}, which is unknown; known are {date}, {time}, {name}"),
        ("{0.__class__}{ext}", "has {0.__class__}, which is unknown"),
        ("{slug}}{ext}", "has a brace alone"),
        ("a/{slug}{ext}", "has a slash"),
        ("../{slug}{ext}", "has a slash"),
        (".{slug}{ext}", "begins with a dot"),
    ],
)
def test_a_template_is_checked_before_any_work(template, message):
    with pytest.raises(InputError) as error:
        read_template(template)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red apple's stem, on a table.", "a-red-apples-stem-on-a-table"),
        ("../../etc/passwd", "etc-passwd"),
        ("Straße in München/Köln", "straße-in-münchen-köln"),
        ("東京の夜", "東京の夜"),
        ("हिन्दी में", "हिन्दी-में"),
        ("word " * 40, "-".join(["word"] * 12)),
        ("x" * 300, "x" * 60),
        ("\x1b[31m…🙂!?", "31m"),
        ("…🙂", ""),
    ],
)
def test_a_slug_is_the_first_words(text, name):
    assert slug(text) == name
    assert slug(unicodedata.normalize("NFD", text)) == name


TEXTS = st.text(max_size=12).map(lambda text: text * 30)


@settings(max_examples=30, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXTS)))
def test_a_stem_is_a_name_that_every_disk_takes(values):
    stem = filled_stem(read_template("{date}_{name} {slug}{ext}"), values)
    assert len(unicodedata.normalize("NFD", stem).encode(errors="replace")) <= 200
    assert not set(stem) & set("/\\:\0\n")
    assert not stem.startswith(".")
    assert stem == stem.strip()
    assert bool(stem) <= all(values[name] for name in ("date", "name", "slug"))


# -- moves --


def test_what_belongs_to_a_photo_moves_with_it_and_back(tmp_path):
    photos, log = tmp_path / "photos", tmp_path / "undo.jsonl"
    before = fill(photos, [*LIVE, "IMG_10.HEIC", "IMG_1.pdf"])
    new = Renamer(log).rename(photos / "IMG_1.HEIC", "a-cat")
    assert new == photos / "a-cat.HEIC"
    assert state(photos) == {
        "a-cat.HEIC": "IMG_1.HEIC",
        "a-cat.MOV": "IMG_1.MOV",
        "a-cat.AAE": "IMG_1.AAE",
        "a-cat.xmp": "img_1.xmp",
        "a-cat.HEIC.xmp": "IMG_1.HEIC.xmp",
        "a-cat.txt": "IMG_1.txt",
        "IMG_10.HEIC": "IMG_10.HEIC",
        "IMG_1.pdf": "IMG_1.pdf",
    }
    assert undo(log).restored == 6
    assert state(photos) == before
    assert undo(log).restored == 0
    assert not undo(log).problems


def test_what_two_pictures_share_stays_until_the_last(tmp_path):
    fill(tmp_path / "p", ["a.jpg", "a.CR2", "a.xmp", "a.jpg.xmp"])
    renamer = Renamer(tmp_path / "undo.jsonl")
    renamer.rename(tmp_path / "p" / "a.jpg", "x")
    assert set(state(tmp_path / "p")) == {"x.jpg", "x.jpg.xmp", "a.CR2", "a.xmp"}
    assert renamer.rename(tmp_path / "p" / "a.CR2", "x").name == "x-2.CR2"
    assert set(state(tmp_path / "p")) == {"x.jpg", "x.jpg.xmp", "x-2.CR2", "x-2.xmp"}


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        (["x.jpg"], "x-2.jpg"),
        (["X.JPG", "x-2.png"], "x-3.jpg"),
        (["x.xmp"], "x-2.jpg"),  # another picture's, perhaps
        (["x.jpg.xmp"], "x-2.jpg"),
        ([unicodedata.normalize("NFD", "é.jpg"), "e.jpg"], "x.jpg"),
    ],
)
def test_a_name_that_is_taken_gets_a_number(taken, name, tmp_path):
    fill(tmp_path / "p", ["a.jpg", "a.jpg.xmp", *taken])
    new = Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "x")
    assert new.name == name
    found = state(tmp_path / "p")
    assert found[name] == "a.jpg"
    assert all(found[each] == each for each in taken)
    assert Renamer(tmp_path / "undo").rename(new, "x") == new


def test_letters_with_accents_apart_are_the_same_name(tmp_path):
    fill(tmp_path / "p", ["a.jpg", unicodedata.normalize("NFD", "É.jpg")])
    assert Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "é").name == "é-2.jpg"


def test_a_preview_changes_nothing_and_promises_no_name_twice(tmp_path):
    before = fill(tmp_path / "p", ["a.jpg", "b.png"])
    renamer = Renamer(tmp_path / "undo", preview=True)
    names = [renamer.rename(tmp_path / "p" / name, "x").name for name in before]
    assert sorted(Path(name).stem for name in names) == ["x", "x-2"]
    assert state(tmp_path / "p") == before
    assert not (tmp_path / "undo").exists()


def test_a_photo_whose_old_name_cannot_go_has_no_new_one(tmp_path, monkeypatch):
    before, unlink = fill(tmp_path / "p", ["a.jpg"]), os.unlink

    def refuse(path, **options):
        if Path(path).name == "a.jpg":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(InputError, match=r"a\.jpg cannot be renamed: Operation not permitted"):
        Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "new")
    assert state(tmp_path / "p") == before


def test_a_name_taken_in_the_last_moment_is_not_overwritten(tmp_path, monkeypatch):
    before = fill(tmp_path / "p", ["a.jpg", "a.txt"])
    link = os.link

    def late(old, new, **options):
        if new.suffix == ".txt":
            new.write_text("of another program")
        link(old, new, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(InputError, match=r"a\.jpg cannot be renamed"):
        Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "x")
    assert state(tmp_path / "p") == {**before, "x.txt": "of another program"}


def test_a_disk_without_hard_links_will_do(tmp_path, monkeypatch):
    def link(*_, **__):
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    before = fill(tmp_path / "p", LIVE)
    Renamer(tmp_path / "undo").rename(tmp_path / "p" / "IMG_1.HEIC", "x")
    assert "x.HEIC" in state(tmp_path / "p")
    undo(tmp_path / "undo")
    assert state(tmp_path / "p") == before


# -- interruptions --


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("way", ["undo", "go on"])
def test_a_rename_that_was_killed_is_undone_or_finished(steps, way, tmp_path):
    photos, log = tmp_path / "p", tmp_path / "undo"
    before = fill(photos, LIVE[:3] + LIVE[4:5])
    with pytest.MonkeyPatch.context() as patch:
        left = [steps]
        for name in ("link", "unlink", "rename", "fsync"):
            patch.setattr(os, name, limited(getattr(os, name), left))
        try:
            Renamer(log).rename(photos / "IMG_1.HEIC", "x")
            was_killed = False
        except Killed:
            was_killed = True
    assert was_killed == (steps < 10)
    if way == "undo":
        if log.exists():
            assert not undo(log).problems
        assert state(photos) == before
    else:
        Renamer(log)
        renamed = {name.replace("IMG_1", "x"): text for name, text in before.items()}
        assert state(photos) in (before, renamed)


def test_each_rename_is_on_the_disk_before_it_happens(tmp_path, monkeypatch):
    fill(tmp_path / "p", ["a.jpg"])
    order = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda *a, **k: (order.append("link"), link(*a, **k)))
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (order.append("fsync"), fsync(f)))
    Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "x")
    assert order[0] == "fsync"
    assert order[-1] == "link"


def test_half_a_line_was_never_done(tmp_path):
    fill(tmp_path / "p", ["a.jpg"])
    Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "x")
    with (tmp_path / "undo").open("a") as file:
        file.write('{"moves": [["/a.jpg", "/b')
    assert undo(tmp_path / "undo").restored == 1
    Renamer(tmp_path / "undo").rename(tmp_path / "p" / "a.jpg", "y")
    assert undo(tmp_path / "undo").restored == 1


def test_an_undo_replaces_nothing(tmp_path):
    fill(tmp_path / "p", ["a.jpg", "b.jpg"])
    renamer = Renamer(tmp_path / "undo")
    for name in ("a", "b"):
        renamer.rename(tmp_path / "p" / f"{name}.jpg", f"x{name}")
    (tmp_path / "p" / "a.jpg").write_text("new")
    (tmp_path / "p" / "xb.jpg").unlink()
    done = undo(tmp_path / "undo")
    assert done.restored == 0
    assert [line.partition(": ")[2] for line in done.problems] == [
        "it is gone",
        "another file is called a.jpg",
    ]
    assert state(tmp_path / "p") == {"a.jpg": "new", "xa.jpg": "a.jpg"}


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        '{"moves": []}',
        '{"moves": [["a", "b"]]}',
        '{"moves": [["/a/b", "/etc/b"]]}',
        '{"moves": [["/a/b"]]}',
        '{"moves": 1}',
        '{"schema": 1}',
    ],
)
def test_another_file_is_no_undo_file(line, tmp_path):
    (tmp_path / "undo").write_text(f"{line}\n")
    with pytest.raises(InputError, match="line 1: this is no file of --undo-file"):
        undo(tmp_path / "undo")


def test_names_that_are_not_utf8_come_back(tmp_path):
    name = os.fsdecode(b"a\xff.jpg")
    fill(tmp_path / "p", [])
    try:
        (tmp_path / "p" / name).write_text("x")
    except OSError:  # macOS takes UTF-8 only
        return
    Renamer(tmp_path / "undo").rename(tmp_path / "p" / name, "x")
    assert json.loads((tmp_path / "undo").read_text())["moves"][0][0].endswith(name)
    undo(tmp_path / "undo")
    assert os.listdir(tmp_path / "p") == [name]
