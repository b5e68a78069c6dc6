"""Every example runs, on the demo model or a tiny one."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    paths = []
    for seed in (1, 2):
        paths.append(str(tmp_path / f"{seed}.png"))
        make_picture(21, 30, seed).save(paths[-1])
    return paths


@pytest.mark.parametrize(
    ("name", "images"),
    [("caption", 1), ("chat_two_images", 2), ("transformers_messages", 1), ("stream", 1)],
)
def test_python_examples_run(name, images, pictures, monkeypatch, capsys):
    # The tiny model is quicker, but ends no answer that may go on.
    model = "demo" if name == "stream" else str(golden("new_names").folder)
    monkeypatch.setattr(sys, "argv", [name, *pictures[:images], model])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
def test_a_shape_is_taught(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mlx_lm")
    monkeypatch.syspath_prepend(str(EXAMPLES.parent / "tools" / "demo"))
    import teach_a_shape

    if sys.platform == "linux":
        monkeypatch.setenv("LD_PRELOAD", "libopenblas.so.0")  # ignored where it is not
    monkeypatch.setattr(teach_a_shape, "CONVERSATIONS", 4)
    monkeypatch.setattr(teach_a_shape, "TESTS", 8)
    teach_a_shape.main(tmp_path / "work", "1")
    before, after = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"before: hearts 0%, what it knew \d+%", before)
    assert re.fullmatch(r"after: hearts \d+%, what it knew \d+%", after)
    tests = teach_a_shape.write_tests(tmp_path, 8)
    assert all("heart" in row["answer"] for row in tests["hearts"])
    assert not any("heart" in row["question"] for row in tests["hearts"])
    assert not any("heart" in row["answer"] for row in tests["what it knew"])


def test_all_python_examples_are_tested():
    tested = {"caption", "stream", "chat_two_images", "transformers_messages"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_the_folder_script_captions_keeps_texts_and_continues(tmp_path, program):
    photos = tmp_path / "my photos"
    photos.mkdir()
    for seed in (1, 2):
        make_picture(20, 30, seed).save(photos / f"{seed} a.jpg")
    (photos / "broken.png").write_bytes(b"nothing")
    (photos / "1 a.txt").write_text("kept")
    command = [str(EXAMPLES / "mac" / "caption_folder.sh"), str(photos)]
    run = subprocess.run(command, env=program, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert (photos / "1 a.txt").read_text() == "kept"
    assert (photos / "2 a.txt").exists()
    command[1] = str(tmp_path / "gone")
    assert subprocess.run(command, env=program, capture_output=True).returncode == 2


def test_the_raycast_command_says_in_one_line_what_is_wrong(tmp_path, program):
    text = (EXAMPLES / "mac" / "raycast_describe.sh").read_text()
    text = text.replace('export PATH="/opt/homebrew/bin:$HOME/.local/bin:$PATH"', "")
    command = ["bash", "-c", text, "raycast", str(tmp_path / "gone.png"), ""]
    run = subprocess.run(command, env=program, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")


def test_the_raycast_command_prints_answer_and_cost(pictures, program):
    # The script puts the usual folders first; ours must win here.
    text = (EXAMPLES / "mac" / "raycast_describe.sh").read_text()
    text = text.replace('export PATH="/opt/homebrew/bin:$HOME/.local/bin:$PATH"', "")
    command = ["bash", "-c", text, "raycast", pictures[0], ""]
    run = subprocess.run(command, env=program, capture_output=True, text=True, errors="replace")
    assert run.returncode == 0, run.stderr
    assert re.search(r"\n\d+ image tokens, \d+\.\d s\n$", run.stdout)


def test_the_shortcut_takes_an_image_on_stdin(pictures, program):
    text = (EXAMPLES / "mac" / "shortcut.sh").read_text()
    text = text.replace("/opt/homebrew/bin/mlx_lfm2vl", "mlx_lfm2vl")
    with Path(pictures[0]).open("rb") as image:
        run = subprocess.run(["sh", "-c", text], env=program, stdin=image, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout
