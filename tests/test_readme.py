"""README and docs are code: their commands and snippets run, their options and tables are true."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
from conftest import golden
from light_work import lighten
from pages import MODULE, PAGES, PROGRAM, README, ROOT, Page, module_command, page
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.generate import build_parser, main
from mlx_lfm2vl.commands.table import parser_of

PACKAGE = ROOT / "mlx_lfm2vl"
CARDS = [PACKAGE / "demo" / "README.md", PACKAGE / "quantize" / "model_card.py"]
MODEL = golden("new_names").folder
SHORT = {
    "benchmark": ["--tokens", "2", "--repeats", "1"],
    "chat": ["--max-tokens", "5"],
    "generate": ["--max-tokens", "12"],
    **dict.fromkeys(("caption", "keywords", "ocr", "compare", "ask"), ["--max-tokens", "5"]),
    **dict.fromkeys(("detect", "point"), ["--max-tokens", "60"]),
    "layout": ["--kind", "3b", "--show-prompt"],  # the tiny model writes none
    "extract": ["--show-prompt"],
    "run": ["--max-tokens", "5"],
    "serve": ["--port", "0", "--keep-alive", "0", "--exit-when-idle"],
    "train": ["--steps", "2"],
}
TYPED = {  # into the commands that read lines
    "chat": b"What is this?\n",
    "mcp": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}\n',
}
FAST = ("README.md", "docs/using.md", "docs/skills.md")  # of the pages whose commands always run
SLOW = [(each, line) for each in PAGES for line in each.commands if "--learned" in line]


WITH_COMMANDS = [
    pytest.param(each, marks=() if str(each) in FAST else pytest.mark.slow)
    for each in PAGES
    if each.commands
]


@pytest.fixture(scope="module")
def belongings(tmp_path_factory) -> Path:
    """The images and rows that the pages speak of."""
    folder = tmp_path_factory.mktemp("belongings")
    for name in ("photos", "plants"):
        (folder / name).mkdir()
    make_picture(40, 60, 1).save(folder / "photo.jpg")
    blocks = make_picture(108, 192, 2).resize((1920, 1080), Image.Resampling.NEAREST)
    blocks.save(folder / "screenshot.png")
    make_picture(50, 40, 4).save(folder / "photos" / "cat.jpg")
    make_picture(30, 40, 3).save(folder / "plants" / "fern.jpg")
    pages = [make_picture(84, 59, seed) for seed in (5, 6, 7)]
    pages[0].save(folder / "scan.pdf", save_all=True, append_images=pages[1:])
    (row,) = page("training").blocks("json")
    (folder / "plants.jsonl").write_text(row)
    (folder / "questions.txt").write_text("What is in this photo?\nWhich colors does it have?\n")
    (folder / "photo.schema.json").write_text('{"type": "integer"}')
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch, belongings) -> Path:
    """A folder of one's own with the belongings in it, the current one."""
    folder = shutil.copytree(belongings, tmp_path / "desk", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "home"))
    return folder


@pytest.fixture
def typed(desk, wide, program, capsys, monkeypatch):
    """Runs a line that a page shows, with a tiny model in place of a published one."""
    lighten(monkeypatch)

    def run(line: str) -> None:
        piped = re.fullmatch(r'echo "(.*)" \| (.*)', line)
        line = piped[2] if piped else line
        if not line.startswith((MODULE, PROGRAM)):
            assert subprocess.run(line, shell=True, cwd=desk, env=program).returncode == 0, line
            return
        name, arguments = module_command(line)
        said = f"{piped[1]}\n".encode() if piped else TYPED.get(name)
        if said is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said)))
        # The tiny model is too narrow to be quantized.
        tiny = str(wide if name == "convert" else MODEL)
        for number, (option, model) in enumerate(pairwise(arguments)):
            if option in ("--model", "-m") and model != "demo":
                arguments[number + 1] = tiny
        short = [] if "--undo" in arguments else SHORT.get(name, [])
        assert cli.main([name, *arguments, *short]) == 0, line
        is_file = name in ("fuse", "convert", "mcp", "run", "serve") or "--output" in arguments
        assert is_file or capsys.readouterr().out

    return run


# -- what runs --


@pytest.mark.parametrize(
    ("each", "number"),
    [(each, number) for each in PAGES for number in range(len(each.blocks("python")))],
    ids=str,
)
def test_python_blocks_run(each, number, desk, capsys):
    code = each.blocks("python")[number]
    model = MODEL if "max_tokens" in code else "demo"  # which ends its answers, but takes longer
    code = code.replace("LiquidAI/LFM2.5-VL-450M", str(model))
    if "LiquidAI/LFM2.5-VL-3B" in code:  # knows tools
        template = shutil.copytree(MODEL, desk / "model") / "chat_template.jinja"
        source = template.read_text()
        template.write_text("{{ tools | tojson if tools }}{# tool_calls #}" + source)
        code = code.replace("LiquidAI/LFM2.5-VL-3B", str(desk / "model"))
    exec(compile(code, str(each), "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("each", WITH_COMMANDS, ids=str)
def test_commands_run_in_the_order_shown(each, typed):
    for line in each.commands:
        if (each, line) not in SLOW:
            typed(line)


@pytest.mark.parametrize(("each", "line"), SLOW, ids=str)
def test_slow_commands_run(each, line, typed):
    assert line in each.commands
    typed(line)


def test_every_command_of_the_package_is_shown():
    lines = [line for each in PAGES for line in each.commands if line.startswith((MODULE, PROGRAM))]
    assert {module_command(line)[0] for line in lines} == set(cli.COMMANDS)


def first_commands() -> list[str]:
    """What the lines that set everything up run in the end: a command and its arguments."""
    lines = [line for line in README.lines if '"Describe the picture."' in line]
    return [re.split(r" mlx_lfm2vl[ .]|-m mlx_lfm2vl[.]", line)[-1] for line in lines]


def test_the_first_answer_shown_is_the_one_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # empty
    with_pip, with_uv = first_commands()
    assert with_pip == with_uv
    assert cli.main(shlex.split(with_pip)) == 0
    assert f"The answer:\n```\n{capsys.readouterr().out}```\n" in README.text


@pytest.mark.usefixtures("desk")
def test_the_plan_shown_is_the_plan_printed(published, capsys):
    folder = published("LFM2.5-VL-450M")
    assert main(["--model", str(folder), "--image", "screenshot.png", "--plan"]) == 0
    assert capsys.readouterr().out in page("using").blocks()


# -- what is said --


def test_the_readme_is_short():
    assert len(README.text.splitlines()) <= 120


@pytest.mark.parametrize("each", PAGES, ids=str)
def test_every_option_named_exists(each):
    parsers = [parser_of(name) for name in cli.COMMANDS]
    known = {o for parser in parsers for action in parser._actions for o in action.option_strings}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", each.text))
    foreign = {"--check", "--extra", "--options", "--unix-socket", "--version"}
    assert used - foreign <= known


@pytest.mark.parametrize("each", PAGES, ids=str)
def test_what_is_linked_exists(each):
    assert each.links
    for file, anchor in each.links:
        assert file.exists(), file
        assert not anchor or anchor in Page(file).anchors, anchor


@pytest.mark.parametrize("each", PAGES, ids=str)
def test_files_named_exist(each):
    for name in re.findall(r"`([\w/]+\.(?:py|sh|applescript))`", each.text):
        folders = (ROOT, PACKAGE, ROOT / "examples" / "mac")
        assert any((folder / name).exists() for folder in folders), name


def test_every_page_is_reached_from_the_readme():
    assert {each.path for each in PAGES[1:]} <= {file for file, _ in README.links}


def test_exit_codes_are_those_of_the_help():
    shown = dict(page("using").table("| code | meaning |"))
    line = str(build_parser().epilog).partition("exit codes: ")[2].partition("\n")[0]
    told = dict(re.findall(r"(\d+) (\w[\w ]*)", line))
    assert told.keys() == shown.keys() >= {"0"}
    for code, meaning in told.items():
        assert shown[code].startswith(meaning)


def test_the_tile_picture_has_the_right_tokens(published_processor):
    inputs = published_processor(
        [{"role": "user", "content": [{"type": "image", "image": make_picture(720, 1280, 1)}]}]
    )
    views = inputs.images[0].view_tokens
    assert "  ".join(f"{tokens} tokens" for tokens in views[:2]) in page("architecture").text
    assert views == [256, 256, 252]


def test_the_memory_of_the_models_is_that_of_their_tensors(assets):
    rows = README.table("| repository | parameters | memory, 16 bits | memory, 4 bits (estimate) |")
    found = 0
    for repository, _, *memory in rows:
        for file in assets.glob("*/tensor_inventory.json"):
            if re.search(rf"\b{re.escape(file.parent.name)}`", repository):
                tensors = json.loads(file.read_text())["tensors"]
                whole = sum(prod(shape) for shape in tensors.values())
                decoder = sum(prod(tensors[name]) for name in tensors if ".language_model." in name)
                sizes = [2 * whole, decoder * 4.25 / 8 + 2 * (whole - decoder)]
                for size, cell in zip(sizes, memory, strict=True):
                    assert f"{size / 1e9:.1f}" in cell.removesuffix(" GB").split(" / ")
                found += 1
    assert found == 5


def test_the_table_of_packages_names_every_one():
    modules = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    rows = page("architecture").table("| package | what it does |")
    named = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    stubs = {"benchmark", "chat", "convert", "fuse", "generate", "run", "serve", "train"}
    assert named == (modules | packages) - stubs


# -- what holds the pages together with other files --


def test_ci_runs_the_readmes_test_command_as_it_is_written():
    (command,) = re.findall(r"^python3 -m venv .*pytest$", README.text, re.MULTILINE)
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()
    assert f"- run: {command}\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize("path", [*(each.path for each in PAGES), *CARDS], ids=lambda p: p.name)
def test_nothing_asks_for_the_package_by_name(path):
    """It is not on PyPI: only a folder can be installed."""
    assert not re.search(r"(?:install|add|uvx|--with)\s+\S*mlx[-_]lfm2vl\b", path.read_text())


def test_the_docs_are_in_the_source_archive():
    assert "recursive-include docs *.md *.png" in (ROOT / "MANIFEST.in").read_text().splitlines()
