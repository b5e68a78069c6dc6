"""The README is code: its commands and snippets run, its options and tables are true."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands import benchmark, convert, fuse, train
from mlx_lfm2vl.commands.generate import build_parser, main
from mlx_lfm2vl.prompt.processor import Processor

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlx_lfm2vl"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
MODEL = golden("new_names").folder
SHORT = {
    "benchmark": ["--tokens", "2", "--repeats", "1"],
    "generate": ["--max-tokens", "5"],
    "train": ["--steps", "2"],
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the README's images."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    make_picture(40, 60, 1).save("photo.jpg")
    make_picture(1080, 1920, 2).save("screenshot.png")
    Path("photos").mkdir()
    make_picture(50, 40, 4).save("photos/cat.jpg")
    Path("plants").mkdir()
    make_picture(30, 40, 3).save("plants/fern.jpg")
    (row,) = [code for kind, code in BLOCKS if kind == "json"]
    Path("plants.jsonl").write_text(row)


@pytest.mark.parametrize("code", [code for kind, code in BLOCKS if kind == "python"])
@pytest.mark.usefixtures("desk")
def test_python_blocks_run(code, capsys):
    exec(compile(code.replace("LiquidAI/LFM2.5-VL-450M", str(MODEL)), "README.md", "exec"), {})
    assert capsys.readouterr().out


def commands() -> list[tuple[str, list[str]]]:
    """Name and arguments of every command shown."""
    lines = [line for kind, code in BLOCKS if not kind for line in code.splitlines()]
    words = [shlex.split(line) for line in lines if line.startswith("python -m mlx_lfm2vl.")]
    return [(line[2].removeprefix("mlx_lfm2vl."), line[3:]) for line in words]


@pytest.mark.usefixtures("desk")
def test_commands_run_in_the_order_shown(capsys):
    shown = commands()
    assert {name for name, _ in shown} == set(cli.COMMANDS)
    for name, arguments in shown:
        model = arguments.index("--model") + 1
        own = arguments[model] == "demo" or name == "convert"  # the tiny one is too narrow for it
        arguments[model] = "demo" if own else str(MODEL)
        assert cli.main([name, *arguments, *SHORT.get(name, [])]) == 0, arguments
        assert name in ("fuse", "convert") or "--output" in arguments or capsys.readouterr().out


def test_the_first_answer_shown_is_the_one_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # empty
    name, arguments = commands()[0]
    assert cli.main([name, *arguments]) == 0
    assert f'"{arguments[-1]}"\n```\n\n```\n{capsys.readouterr().out}```' in README


@pytest.mark.usefixtures("desk")
def test_the_plan_shown_is_the_plan_printed(published, capsys):
    folder = published("LFM2.5-VL-450M")
    assert main(["--model", str(folder), "--image", "screenshot.png", "--plan"]) == 0
    assert capsys.readouterr().out in README


def test_the_tile_picture_has_the_right_tokens(published):
    processor = Processor.from_folder(published("LFM2.5-VL-1.6B"))
    inputs = processor(
        [{"role": "user", "content": [{"type": "image", "image": make_picture(720, 1280, 1)}]}]
    )
    assert inputs.images[0].view_tokens == [256, 256, 252]


def test_every_option_named_exists():
    parsers = [build_parser(), *(part.build_parser() for part in (benchmark, convert, fuse, train))]
    known = {o for parser in parsers for action in parser._actions for o in action.option_strings}
    prose = re.sub(r"^```\n(?:pip|\w*\.png).*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose))
    assert used - {"--check", "--extra"} <= known  # of ruff and uv


def test_files_and_folders_linked_exist():
    for target in re.findall(r"(?:\]\(|src=\")(?!http)([^)\"]+)", README):
        assert (ROOT / target).exists(), target


def test_exit_codes_are_those_of_the_help():
    for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE):
        if code in ("0", "1", "2", "130"):
            assert code in str(build_parser().epilog)


def test_the_table_of_packages_names_every_one():
    modules = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    table = README[README.index("| package | what it does |") :]
    named = re.findall(r"`(\w+)`", table[: table.index("\n\n")])
    stubs = {"benchmark", "convert", "fuse", "generate", "train"}
    assert set(named) == (modules | packages) - stubs


def test_ci_runs_the_readmes_test_command_as_it_is_written():
    (command,) = re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()
    assert f"- run: {command}\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
