"""Options that write back: what they plan, and those that would do nothing."""

import json
from pathlib import Path

import pytest
from pictures import make_picture

from mlx_lfm2vl.commands import run
from mlx_lfm2vl.commands.parser import Parser
from mlx_lfm2vl.commands.write_options import (
    UNDO_FILE,
    WAYS,
    add_write_options,
    undo_renames,
    write_plan,
)
from mlx_lfm2vl.desktop import write_back
from mlx_lfm2vl.desktop.file_names import slug
from mlx_lfm2vl.desktop.rename import Renamer
from mlx_lfm2vl.errors import InputError, printable


def parsed(*arguments: str):
    parser = Parser(prog="run")
    add_write_options(parser)
    return parser.parse_args(arguments)


def test_the_lists_of_ways_are_one():
    assert WAYS == write_back.WAYS
    assert str(write_back.UNDO_FILE) == UNDO_FILE


def test_ways_are_joined_by_commas_or_given_one_by_one():
    plan = write_plan(parsed("--write", "xmp,txt", "--write", "txt", "--xmp-name", "file"))
    assert plan is not None
    assert (plan.ways, plan.whole_name, plan.replace) == ({"xmp", "txt"}, True, False)
    plan = write_plan(parsed("--rename", "{slug}{ext}", "--preview"))
    assert plan is not None
    assert (plan.rename, plan.preview, str(plan.undo_file)) == ("{slug}{ext}", True, UNDO_FILE)
    assert write_plan(parsed()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "xmp,iptc"], "'iptc' is unknown; known are xmp, finder-comment"),
        (["--undo", "x"], "--undo stands alone, as in mlx_lfm2vl run --undo FILE"),
        (["--replace"], "--replace means something with --write or --rename only"),
        (["--preview", "--write", "xmp"], "--preview means something with --rename only"),
        (["--undo-file", "x", "--write", "xmp"], "--undo-file means something with --rename only"),
        (["--xmp-name", "file", "--write", "txt"], "--xmp-name means something with --write xmp"),
        (["--rename", "{x}{ext}"], "has {x}, which is unknown"),
    ],
)
def test_options_without_effect_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        write_plan(parsed(*arguments))


def test_an_undo_says_what_it_did(tmp_path, capsys):
    (tmp_path / "a.jpg").touch()
    Renamer(tmp_path / "undo").rename(tmp_path / "a.jpg", "x")
    assert undo_renames(["--undo", str(tmp_path / "undo")]) == 0
    assert (tmp_path / "a.jpg").exists()
    (tmp_path / "a.jpg").unlink()
    assert undo_renames(["--undo", str(tmp_path / "undo")]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "1 files have their old names again"
    assert captured.err == f"error: {printable(str(tmp_path))}/x.jpg keeps its name: it is gone\n"


def test_a_run_writes_back_also_what_it_knew_before_and_undoes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        make_picture(20, 30, ord(name[0])).save(tmp_path / "photos" / name)
    words = ["ocr", "photos", "--out", "r.jsonl", "--model", "demo", "--max-tokens", "3"]
    assert run.main([*words, "--write", "xmp"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    stems = {slug(row["text"]) for row in rows}
    assert all(stems)
    rename = ["--rename", "x{slug}{ext}", "--exiftool-csv", "t.csv"]
    assert run.main([*words, "--write", "txt", *rename]) == 0
    assert "0 answered, 2 known from before" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "photos").iterdir()}
    assert {Path(name).suffix for name in names} == {".png", ".xmp", ".txt"}
    assert {f"x{stem}.{ending}" for stem in stems for ending in ("png", "xmp", "txt")} <= names
    assert len(names) == 6
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
    assert run.main(["--undo", UNDO_FILE]) == 0
    assert "6 files have their old names again" in capsys.readouterr().out
    (tmp_path / "photos" / "a.xmp").write_text("damaged")
    assert run.main([*words, "--write", "xmp"]) == 1
    assert "1 failed" in capsys.readouterr().err
    assert (tmp_path / "photos" / "a.xmp").read_text() == "damaged"
