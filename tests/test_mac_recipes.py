"""The recipes for the Mac: what they run, with programs of macOS that keep their arguments."""

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lfm2vl.commands import run_options
from mlx_lfm2vl.commands.table import COMMANDS, parser_of

RECIPES = Path(__file__).parent.parent / "examples" / "mac"
SCRIPTS = sorted(RECIPES.glob("*.sh"))
CODE = [path for path in sorted(RECIPES.iterdir()) if path.suffix != ".md"]
NAMED = re.compile(r"(?:mlx_lfm2vl\"?|program) (?:& \" )?(\w+)(?: (\w+))?")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes programs that keep their arguments; returns how to run a script and read these."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))

    def program(name: str, lines: str = "") -> None:
        path = tmp_path / "bin" / name
        keep = f'for a; do printf "%s\\0" "$a"; done >"{tmp_path}/{name}.calls"'
        path.write_text(f"#!/bin/sh\n{keep}\n{lines}\n")
        path.chmod(0o755)

    def calls(name: str) -> list[str]:
        return (tmp_path / f"{name}.calls").read_text().split("\0")[:-1]

    def run(script: str, *arguments: str) -> int:
        text = (RECIPES / script).read_text().replace("/opt/homebrew/bin:", "")
        command = ["bash", "-c", text, script, *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    return program, calls, run


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_commands_and_options_of_recipes_exist(path):
    text = path.read_text()
    if path.suffix == ".plist":
        text = " ".join(plistlib.loads(path.read_bytes())["ProgramArguments"])
    code = "\n".join(line for line in text.splitlines() if not line.startswith(("#", "-- ")))
    pairs = [pair for pair in NAMED.findall(code) if pair[0] in COMMANDS]
    assert pairs
    known: set[str] = set()
    for command, skill in pairs:
        parser = run_options.build_parser(skill) if command == "run" else parser_of(command)
        known |= {option for action in parser._actions for option in action.option_strings}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", code))
    assert used <= known | {"--really"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker:
        run = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


def test_scans_are_previewed_first_and_renamed_on_request(fake, tmp_path):
    program, calls, run = fake
    program("mlx_lfm2vl")
    folder = tmp_path / "my scans"
    assert run("rename_scans.sh", str(folder)) == 0
    words = calls("mlx_lfm2vl")
    assert words[words.index("short") + 1 : words.index("--pages")] == [str(folder)]
    assert value(words, "--rename") == "{date}_{slug}{ext}"
    assert "--preview" in words
    assert run("rename_scans.sh", str(folder), "--really") == 0
    assert [*calls("mlx_lfm2vl")] == [word for word in words if word != "--preview"]


def test_receipts_become_a_table(fake, tmp_path):
    program, calls, run = fake
    program("mlx_lfm2vl", "exit 3")
    assert run("receipts_to_csv.sh", str(tmp_path / "a b")) == 3
    words = calls("mlx_lfm2vl")
    assert words[:2] == ["run", "extract"]
    assert value(words, "--out") == f"{tmp_path}/a b/receipts.csv"
    fields = words[words.index("--fields") + 1 : words.index("--out")]
    assert [field.partition(": ")[0] for field in fields] == ["shop", "date", "total", "currency"]


def test_keywords_reach_each_catalogue_in_its_way(fake, tmp_path):
    program, calls, run = fake
    program("mlx_lfm2vl")
    program("exiftool")
    folder = str(tmp_path / "my photos")
    for catalogue, naming in (("lightroom", "stem"), ("digikam", "file")):
        assert run("keywords_to_catalogue.sh", catalogue, folder) == 0
        assert value(calls("mlx_lfm2vl"), "--write") == "xmp"
        assert value(calls("mlx_lfm2vl"), "--xmp-name") == naming
    assert run("keywords_to_catalogue.sh", "embed", folder) == 0
    table = value(calls("mlx_lfm2vl"), "--exiftool-csv")
    assert calls("exiftool") == ["-charset", "UTF8", f"-csv={table}", "-sep", "; ", "-r", folder]
    assert run("keywords_to_catalogue.sh", "photos", folder) == 2


def test_the_clipboard_gets_the_alt_text_as_it_is(fake, tmp_path):
    program, calls, run = fake
    program("mlx_lfm2vl", "echo 'A \"red\" & apple'")
    program("pbcopy", f"cat >'{tmp_path}/copied'")
    program("osascript")
    assert run("alt_text_of_clipboard.sh") == 0
    assert calls("mlx_lfm2vl") == ["caption", "--model", "450m", "--length", "alt", "--clipboard"]
    assert (tmp_path / "copied").read_text() == 'A "red" & apple'
    words = calls("osascript")
    assert words[-1] == 'A "red" & apple'
    assert "apple" not in " ".join(words[:-1])
    program("mlx_lfm2vl", "exit 2")
    (tmp_path / "copied").unlink()
    assert run("alt_text_of_clipboard.sh") == 2
    assert not (tmp_path / "copied").exists()


def test_the_watcher_is_a_launch_agent():
    agent = plistlib.loads((RECIPES / "watch_screenshots.plist").read_bytes())
    assert agent["ProgramArguments"][1:3] == ["run", "ocr"]
    assert "--watch" in agent["ProgramArguments"]
    paths = [each for each in agent["ProgramArguments"] if "/" in each]
    assert all(each.startswith("/Users/YOU/") for each in [*paths, agent["StandardErrorPath"]])


def test_every_recipe_is_in_the_list():
    listed = set(re.findall(r"\]\(([\w.]+)\)", (RECIPES / "README.md").read_text()))
    assert listed == {path.name for path in CODE}
