"""Every image, prompt and data file is read once, and every image is decoded once."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli, generate
from mlx_lfm2vl.images.decode import OpenedImage

TINY = str(golden("new_names").folder)
KNOWS = "the demo model knows drawn shapes"
opened: Counter[str] = Counter()  # how often each file was opened for reading


def count_openings(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        name, _, flags = arguments
        opened[os.path.realpath(os.fsdecode(name))] += flags & os.O_ACCMODE == os.O_RDONLY


sys.addaudithook(count_openings)  # for good: Python offers no way to remove it


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Iterator[None]:
    """Makes a current folder with photos and a pipe that gives one of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "c.webp", "d.tif"):
        make_picture(30, 44, ord(name[0])).save(name)
    shutil.copy("b.png", "e.png")
    os.mkfifo("pipe")
    writer = subprocess.Popen(["cp", "e.png", "pipe"])
    opened.clear()
    yield
    writer.kill()
    writer.wait()


def counts(*names: str) -> list[int]:
    return [opened[os.path.realpath(name)] for name in names]


def ask(*arguments: str) -> int:
    return cli.main(["generate", "-p", "Hi", "--max-tokens", "1", *arguments])


@pytest.mark.parametrize("extra", [[], ["--plan"], ["--each"]], ids=["together", "plan", "each"])
def test_a_pipe_is_opened_once_and_a_file_once_more_to_see_its_kind(extra):
    names = ["a.jpg", "b.png", "c.webp", "d.tif", "pipe"]
    assert ask("-m", TINY, "-i", *names, *extra) == 0
    assert counts(*names) == [2, 2, 2, 2, 1]


def test_python_opens_an_image_once(tiny):
    generate(*tiny, "What?", image=["a.jpg", Path("b.png"), "pipe"], max_tokens=1)
    assert counts("a.jpg", "b.png", "pipe") == [1, 1, 1]


class Stdin(io.BytesIO):
    """Standard input that counts how often it is read."""

    readings = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.readings += 1
        return super().read(size)


@pytest.mark.parametrize("extra", [[], ["--each"]], ids=["together", "each"])
@pytest.mark.parametrize("what", ["prompt", "image"])
def test_standard_input_is_read_once(what, extra, monkeypatch):
    stdin = Stdin(b"What is this?" if what == "prompt" else Path("b.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    arguments = ["-p", "-", "-i", "a.jpg"] if what == "prompt" else ["-i", "a.jpg", "-"]
    assert ask("-m", TINY, *arguments, *extra) == 0
    assert stdin.readings == 1


def test_training_opens_its_data_once_and_an_image_to_check_and_to_use_it():
    rows = [{"image": name, "prompt": "x", "answer": "y"} for name in ("a.jpg", "b.png", "c.webp")]
    Path("rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    opened.clear()
    assert cli.main(["train", "--model", TINY, "--data", "rows.jsonl", "--show", "1"]) == 0
    assert counts("rows.jsonl", "a.jpg", "b.png", "c.webp") == [1, 2, 1, 1]


# -- decoded once --


@pytest.mark.parametrize("extra", [[], ["--each"]], ids=["together", "each"])
def test_the_demo_model_says_once_what_it_knows_and_decodes_once(extra, monkeypatch, capsys):
    decoded, decode = [], OpenedImage.decode
    monkeypatch.setattr(
        OpenedImage, "decode", lambda self, *a: (decoded.append(self.name), decode(self, *a))[1]
    )
    assert ask("-m", "demo", "-i", "a.jpg", "b.png", *extra) == 0
    assert capsys.readouterr().err.count(KNOWS) == 1
    assert sorted(decoded) == ["'a.jpg'", "'b.png'"]
    assert counts("a.jpg", "b.png") == [2, 2]  # to see its kind, and whole


def test_nothing_is_said_of_drawings_or_by_other_models(capsys):
    assert ask("-m", "demo", "-i", "demo") == 0
    assert ask("-m", TINY, "-i", "a.jpg") == 0
    assert not capsys.readouterr().err


def test_a_note_about_a_file_is_given_once(capsys):
    whole = Path("a.jpg").read_bytes()
    Path("a.jpg").write_bytes(whole[:-2])
    assert ask("-m", "demo", "-i", "a.jpg") == 0
    assert capsys.readouterr().err.count("the end of the file is missing") == 1


def test_a_plan_says_what_is_unusual_about_an_image(checkpoint, tmp_path, capsys):
    image = make_picture(20, 30, 1)
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    arguments = ["--model", str(checkpoint), "--image", str(tmp_path / "pages.tif"), "--plan"]
    assert cli.main(["generate", *arguments]) == 0
    assert "has several frames or pages: using the first" in capsys.readouterr().err
