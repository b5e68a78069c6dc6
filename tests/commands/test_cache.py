"""The disk cache on the command line: asked for, listed, cleared, and never in the way."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.cache_options import VARIABLE, chosen_folder, default_folder

MODEL = str(golden("new_names").folder)


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """A current folder with a picture, and a home for the default cache."""
    make_picture(40, 60, 1).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def answer(capsys):
    """Runs `generate` on the tiny model; returns the object that it prints, and its notes."""

    def ask(*words: str) -> tuple[dict, str]:
        capsys.readouterr()
        given = ["-m", MODEL, "--max-tokens", "5", "--temperature", "0", "--json"]
        assert cli.main(["generate", *given, *words]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return ask


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_the_next_run_continues_from_the_cache(answer, desk):
    first, _ = answer("photo.png", "What is it?", "--cache", "kept")
    again, notes = answer("photo.png", "Which color?", "--cache", "kept")
    alone, _ = answer("photo.png", "Which color?")
    assert (first["cached_tokens"], alone["cached_tokens"], notes) == (0, 0, "")
    assert again["cached_tokens"] >= again["image_tokens"]
    assert again["text"] == alone["text"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(desk / "kept")} == {0o600}


def test_without_a_folder_it_is_in_the_users_cache(answer, desk):
    answer("photo.png", "What is it?", "--cache")
    assert files(desk / "home" / "mlx_lfm2vl")


@pytest.mark.parametrize(
    "words",
    [
        ["--cache", "photo.png", "What is it?"],
        ["photo.png", "--cache", "What is it?"],
        ["-i", "photo.png", "--cache", "What is it?"],
        ["--cache", "photo.png", "-i", "photo.png", "What is it?"],
    ],
)
def test_neither_prompt_nor_image_is_taken_for_the_folder(answer, desk, words):
    answer(*words)
    assert files(desk / "home" / "mlx_lfm2vl")
    assert sorted(os.listdir(desk)) == ["home", "photo.png"]


def test_the_environment_asks_for_it_too(answer, desk, monkeypatch):
    monkeypatch.setenv(VARIABLE, "kept")
    answer("photo.png", "What is it?")
    assert files(desk / "kept")
    assert chosen_folder(None) == Path("kept")
    assert chosen_folder("other") == Path("other")
    for value, folder in {"": None, "0": None, "1": default_folder()}.items():
        monkeypatch.setenv(VARIABLE, value)
        assert chosen_folder(None) == folder


def test_nothing_is_kept_unasked(answer, desk):
    answer("photo.png", "What is it?")
    assert os.listdir(desk) == ["photo.png"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--cache", "file"], "the cache file is a file, expected a folder"),
        (["--cache=kept", "--cache-size", "0"], "--cache-size is 0.0, expected more than 0"),
        (["--cache=kept", "--cache-size", "nan"], "--cache-size is nan, expected more than 0"),
    ],
)
def test_wrong_use_is_said_before_anything_is_loaded(desk, capsys, monkeypatch, words, problem):
    (desk / "file").write_text("mine")
    monkeypatch.setattr("mlx_lfm2vl.loading.load", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["generate", "-m", MODEL, "photo.png", "-p", "What?", *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_one_note(answer, desk):
    (desk / "file").write_text("mine")
    found, notes = answer("photo.png", "What is it?", "--cache", "file/below")
    assert found["text"]
    assert re.fullmatch(r"note: the cache file/below cannot be written: .*\n", notes)


def test_a_damaged_cache_is_one_note(answer, desk):
    expected, _ = answer("photo.png", "What is it?", "--cache", "kept")
    for path in files(desk / "kept"):
        path.write_bytes(path.read_bytes()[:-1])
    found, notes = answer("photo.png", "What is it?", "--cache", "kept")
    assert (found["text"], found["cached_tokens"]) == (expected["text"], 0)
    assert re.fullmatch(r"note: .* is not used, and will be replaced: it is damaged\n", notes)
    assert answer("photo.png", "What is it?", "--cache", "kept")[1] == ""


def test_each_image_has_its_files(desk, capsys):
    make_picture(40, 60, 2).save(desk / "second.png")
    for cached in (False, True):
        given = ["-m", MODEL, "--max-tokens", "5", "--json", "--each", "--cache", "kept"]
        assert cli.main(["generate", *given, "-i", "photo.png", "second.png", "-p", "What?"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["cached_tokens"] > 0 for line in lines] == [cached, cached]


def test_the_list_names_size_date_tokens_and_model(answer, desk, capsys):
    answer("photo.png", "What is it?", "--cache", "kept")
    (desk / "kept" / f"keys-{0:040x}.safetensors").write_bytes(b"damaged")
    assert cli.main(["cache", "list", "--cache", "kept"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert len(lines) == len(files(desk / "kept"))
    for line in lines[1:]:
        assert re.fullmatch(
            rf"[\d-]{{10}} [\d:]{{5}}  (keys|image) +[\d.]+ (kB|bytes) +\d+ tokens  {MODEL}", line
        )
    assert re.search(r"keys +7 bytes +\? tokens$", lines[0])
    assert re.fullmatch(r"kept: \d files, [\d.]+ kB", total)


def test_clear_removes_only_its_own_files(answer, desk, capsys):
    answer("photo.png", "What is it?", "--cache", "kept")
    count = len(files(desk / "kept"))
    (desk / "kept" / "photo.png").write_bytes(b"mine")
    assert cli.main(["cache", "clear", "--cache", "kept"]) == 0
    assert re.fullmatch(rf"removed {count} files, [\d.]+ kB, from kept\n", capsys.readouterr().out)
    assert sorted(os.listdir(desk / "kept")) == ["CACHEDIR.TAG", "photo.png"]


@pytest.mark.parametrize("action", ["list", "clear"])
def test_a_cache_that_is_not_there_is_empty(capsys, desk, action):
    assert cli.main(["cache", action]) == 0
    assert "0 files, 0 bytes" in capsys.readouterr().out
    assert os.listdir(desk) == ["photo.png"]


def test_what_cannot_be_removed_is_an_error(answer, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    answer("photo.png", "What is it?", "--cache", "kept")
    monkeypatch.setattr(Path, "unlink", fail)
    assert cli.main(["cache", "clear", "--cache", "kept"]) == 1
    assert "error: kept cannot be cleared: Permission denied" in capsys.readouterr().err
