"""Wrong use is one line that names the nearest option or command."""

import io
import shlex
import shutil
import sys

import pytest
from conftest import golden
from hub_caches import PLACE, Terminal, put
from pictures import make_picture
from processes import modules_after

from mlx_lfm2vl import __version__, cli
from mlx_lfm2vl.commands.table import parser_of

TINY = str(golden("new_names").folder)
PARSERS = {name: parser_of(name) for name in cli.COMMANDS}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate --modle demo", "there is no option --modle; did you mean --model?"),
        ("generate --images a.png", "there is no option --images; did you mean --image?"),
        ("generate --max-token=5", "no option --max-token; did you mean --max-tokens?"),
        ("generate -x", "there is no option -x"),
        ("generate --model", "argument -m/--model: expected one argument"),
        ("generate --max-tokens many", "argument --max-tokens: invalid int value: 'many'"),
        ("convert --bit 4", "there is no option --bit; did you mean --bits?"),
        ("train --dta x.jsonl", "there is no option --dta; did you mean --data?"),
        ("train", "the following arguments are required: --data"),
        ("cache", "the following arguments are required: list or clear"),
        ("completion", "the following arguments are required: bash or zsh or fish"),
        ("fuse --adaptor x", "there is no option --adaptor; did you mean --adapter?"),
        ("--modle demo x.png", "there is no option --modle; did you mean --model?"),
        ("genrate", "there is no command 'genrate'; did you mean generate?"),
        ("xyz", "there is no command 'xyz' among generate, chat, caption"),
    ],
)
def test_wrong_use_is_one_line_with_the_way_out(line, message, capsys):
    assert cli.main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (told,) = err.splitlines()
    assert told.startswith("error: ")
    assert message in told
    assert told.endswith("--help")
    assert "?;" not in told


@pytest.mark.parametrize("name", PARSERS)
def test_options_are_never_abbreviated(name):
    assert not PARSERS[name].allow_abbrev


def test_a_value_may_look_like_an_option_if_it_is_a_sentence():
    options = PARSERS["generate"].parse_args(["-p", "--help me with this", "--stop", "-5"])
    assert options.prompt == "--help me with this"
    assert options.stop == ["-5"]


def test_a_file_may_be_called_like_an_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("-photo.png", "-x y.png", "-1.png"):
        make_picture(9, 9, 0).save(name)
        assert cli.main(["generate", "-m", "demo", name, "What?"]) == 2
        assert (
            f"the file of that name is {shlex.quote(f'./{name}')}; see" in capsys.readouterr().err
        )
    for name in ("generate", "caption"):
        options = PARSERS[name].parse_args(["a.png", "-m", "demo", "--", "-photo.png", "-x"])
        assert options.words == ["a.png", "-photo.png", "-x"]


def test_short_names_mean_the_same():
    parse = PARSERS["generate"].parse_args
    long = parse(shlex.split("--model demo --image a.png --prompt Hi --verbose --temperature 1"))
    assert parse(shlex.split("-m demo -i a.png -p Hi -V --temp 1")) == long


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_80_columns_and_explains_every_option(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = PARSERS[name].format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert all(action.help for action in PARSERS[name]._actions)
    assert "%%" not in text


def test_the_list_of_commands_fits_80_columns(capsys):
    assert cli.main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_help_and_version_are_found_where_people_look(capsys):
    assert cli.main(["help"]) == 0
    assert "commands:" in capsys.readouterr().out
    assert cli.main(["help", "train"]) == 0
    assert "--data" in capsys.readouterr().out
    for line in (["--version"], ["version"], ["generate", "--version"]):
        assert cli.main(line) == 0
        assert capsys.readouterr().out == f"{__version__}\n"


def examples(name: str) -> list[str]:
    lines = str(PARSERS[name].epilog).splitlines()
    return [line.strip() for line in lines if line.startswith("  mlx_lfm2vl ")]


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_has_three_examples(name):
    assert len(examples(name)) == 3
    assert all(f"{line} ".startswith(f"mlx_lfm2vl {name} ") for line in examples(name))


SHORT = {
    "generate": ["--max-tokens", "3"],
    "chat": ["--max-tokens", "3", "--no-history"],
    "benchmark": ["--tokens", "2", "--repeats", "1"],
    "train": ["--steps", "1"],
    **dict.fromkeys(("caption", "keywords", "ocr", "compare", "ask"), ["--max-tokens", "3"]),
    **dict.fromkeys(("detect", "point"), ["--max-tokens", "60"]),
    "layout": ["--kind", "3b", "--show-prompt"],  # the tiny model writes none
    "extract": ["--max-tokens", "60"],
    "run": ["--max-tokens", "60"],
    "mac": ["--folder", "actions"],
}
WITH_OTHERS = (
    "serve",
    "mcp",
    "resident",
)  # need a client or a process; they have tests of their own
EXAMPLES = [line for name in PARSERS if name not in WITH_OTHERS for line in examples(name)]


def say_in_chat(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("line", [line for name in WITH_OTHERS for line in examples(name)])
def test_the_examples_that_need_others_are_understood(line):
    _, name, *words = shlex.split(line)
    assert PARSERS[name].parse_args(words)


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES)
def test_the_examples_run(line, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    make_picture(40, 60, 1).save("photo.jpg")
    shutil.copy("photo.jpg", "photos/1.jpg")
    row = '{"image": "photo.jpg", "prompt": "What?", "answer": "A fern."}'
    (tmp_path / "plants.jsonl").write_text(row)
    _, name, *words = shlex.split(line)
    model = str(wide) if name == "convert" else TINY
    if name == "fuse":
        train = ["train", "-m", TINY, "--data", "plants.jsonl", "--steps", "1"]
        assert cli.main(train) == 0
        if "--overwrite" in words:
            assert cli.main([name, "-m", model, *words[2:-1]]) == 0
    if name == "chat":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        say_in_chat(monkeypatch, "Hi\n/save holiday\n")
        assert cli.main([name, "-m", TINY, *SHORT[name]]) == 0
        say_in_chat(monkeypatch, "Why?\n")
    if name == "models":
        monkeypatch.setattr(PLACE, str(tmp_path / "hub"))
        monkeypatch.setattr(sys, "stdin", Terminal("y"))
        for size in ("LFM2.5-VL-450M", "LFM2-VL-450M"):
            put(tmp_path / "hub", f"LiquidAI/{size}", "lfm2_vl", 9)
    words = [model if word in ("450m", "3b") and name != "models" else word for word in words]
    if name == "doctor" and model not in words:  # the demo model takes a minute on a slow CPU
        words += ["-m", model]
    assert cli.main([name, *words, *SHORT.get(name, [])]) == 0


def test_help_of_no_command_loads_anything_heavy():
    pages = [["--help"], *([name, "--help"] for name in PARSERS)]
    code = f"from mlx_lfm2vl.cli import main; assert not any(map(main, {pages}))"
    assert not modules_after(code) & {"mlx", "transformers", "huggingface_hub", "PIL", "numpy"}
