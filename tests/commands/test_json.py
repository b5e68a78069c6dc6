"""The objects of --json are those that docs/json.md describes."""

import json
from typing import Any

import pytest
from conftest import golden
from pages import page
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.common import SCHEMA

TINY = str(golden("new_names").folder)
TYPES = {"integer": int, "string": str, "object": dict}


def described(heading: str) -> dict[str, str]:
    """Key -> type of the table under a heading."""
    text = page("json").text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1] for row in rows}


def check(values: dict[str, Any], heading: str, *, without: tuple[str, ...] = ()) -> None:
    types = described(heading)
    assert values.keys() == types.keys() - set(without)
    for key, value in values.items():
        if types[key].startswith("list of "):
            kind = TYPES[types[key].removeprefix("list of ").removesuffix("s")]
            assert isinstance(value, list)
            assert all(isinstance(item, kind) for item in value)
        else:
            assert isinstance(value, TYPES[types[key]])


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `generate --json` on the pictures a.png and b.png; gives the code and the objects."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        make_picture(45, 44, seed).save(name)

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        short = ["-m", TINY, "--max-tokens", "3", "--json"]
        code = cli.main(["generate", *short, *arguments])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_an_answer_has_the_keys_described(run):
    code, (values,) = run("a.png", "b.png", "What is it?", "--token-ids")
    assert code == 0
    check(values, "An answer", without=("file", "question"))
    assert values["schema"] == SCHEMA == 1
    assert len(values["token_ids"]) == values["completion_tokens"]
    for image, name in zip(values["images"], ("a.png", "b.png"), strict=True):
        check(image, "An image")
        assert (image["file"], image["width"], image["height"]) == (name, 44, 45)
        assert image["tokens"] == sum(view["tokens"] for view in image["views"])
        assert image["columns"] * image["rows"] <= len(image["views"])


def test_token_ids_are_given_on_request_only(run):
    _, (values,) = run("a.png", "What is it?")
    check(values, "An answer", without=("file", "question", "token_ids"))


def test_a_plan_has_the_keys_described(run):
    code, (values,) = run("a.png", "--plan")
    assert code == 0
    assert values.keys() == {"schema", "images", "image_tokens"}
    check(values["images"][0], "An image")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.png", "What is it?"], 2, "gone.png"),
        (["a.png", "What?", "--nothing"], 2, "there is no option --nothing"),
        (["a.png", "What?", "--max-tokens", "0"], 2, "max_tokens"),
        (["a.png", "What?", "-m", "nobody/nothing"], 1, "nobody/nothing"),
    ],
)
def test_a_failure_is_an_object_and_a_line(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    make_picture(45, 44, 1).save("a.png")
    assert cli.main(["generate", "-m", TINY, "--json", *arguments]) == code
    out, err = capsys.readouterr()
    values = json.loads(out)
    check(values, "An error", without=("file", "question"))
    assert message in values["error"]
    assert values["exit_code"] == code
    assert err == f"error: {values['error']}\n"


def test_each_image_has_an_object_of_its_own(run):
    code, (first, bad, last) = run("--each", "a.png", "gone.png", "b.png", "What is it?")
    assert code == 1
    for values, name in ((first, "a.png"), (last, "b.png")):
        check(values, "An answer", without=("question", "token_ids"))
        assert values["file"] == values["images"][0]["file"] == name
        assert len(values["images"]) == 1
    check(bad, "An error", without=("question",))
    assert bad["file"] == "gone.png"


def test_each_question_has_an_object_in_a_list(run):
    code, (values,) = run("a.png", "--ask", "What is it?", "--ask", "x" * 20_000)
    assert code == 1
    answer, bad = values
    check(answer, "An answer", without=("file", "token_ids"))
    check(bad, "An error", without=("file",))
    assert answer["question"] == "What is it?"
