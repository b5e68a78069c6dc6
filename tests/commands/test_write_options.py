"""Options that write back: what they plan, and those that would do nothing."""

import pytest

from mlx_lfm2vl.commands.parser import Parser
from mlx_lfm2vl.commands.write_options import (
    UNDO_FILE,
    WAYS,
    add_write_options,
    undo_renames,
    write_plan,
)
from mlx_lfm2vl.desktop import write_back
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
    assert undo_renames(tmp_path / "undo") == 0
    assert (tmp_path / "a.jpg").exists()
    (tmp_path / "a.jpg").unlink()
    assert undo_renames(tmp_path / "undo") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "1 files have their old names again"
    assert captured.err == f"error: {printable(str(tmp_path))}/x.jpg keeps its name: it is gone\n"
