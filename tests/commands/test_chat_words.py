"""The words of a chat's lines: quoting, dropped files, completion."""

import pytest

from mlx_lfm2vl.commands.chat_lines import HELP, completions
from mlx_lfm2vl.commands.chat_words import leading_files, paths_in, split_words


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/me.png", "a b.png", "Bob's.png", "notes.txt", ".hidden.png", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png b.png", ["a.png", "b.png"]),
        (r"a\ b.png 'c d' " + '"e f"', ["a b.png", "c d", "e f"]),
        (r"it\'s Bob's 'cut", ["it's", "Bob's", "'cut"]),
        ("'a'b.png", ["'a'b.png"]),
        ("end\\", ["end\\"]),
        ("  ", []),
    ],
)
def test_words_are_read_as_terminals_write_them(text, words):
    assert [word for word, _ in split_words(text)] == words


def test_a_name_with_spaces_needs_no_quotes():
    assert paths_in(" a b.png ") == ["a b.png"]
    assert paths_in("Bob's.png") == ["Bob's.png"]
    assert paths_in("a b.png c") == ["a", "b.png", "c"]


def test_files_at_the_begin_of_a_line_are_told_from_the_question():
    assert leading_files(r"a\ b.png 'Bob's.png' What?") == (["a b.png"], "'Bob's.png' What?")
    assert leading_files("~/me.png What is it?") == (["~/me.png"], "What is it?")
    assert leading_files("/etc is what?") == ([], "/etc is what?")
    assert leading_files("x" * 10_000)[0] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/lo", ["/load "]),
        ("/", [f"{name} " for name in HELP]),
        ("/image a", ["/image a\\ b.png "]),
        ("/image a\\ b.png B", ["/image a\\ b.png Bob\\'s.png "]),
        ("/image a\\ ", ["/image a\\ b.png "]),
        ("/image ~/", ["/image ~/me.png "]),
        ("/image s", ["/image sub/"]),
        ("/image .h", ["/image .hidden.png "]),
        ("/image n", []),  # no image
        ("/load ", ["/load home/", "/load sub/"]),
        ("/image none/", []),
        ("/image \0", []),
        ("/system a", []),
        ("What is a", []),
        ("~/m", ["~/me.png "]),
    ],
)
def test_lines_are_completed(line, found):
    assert completions(line) == found


def test_a_dropped_path_is_completed(folder):
    assert completions(f"{folder}/no") == [f"{folder}/notes.txt "]
