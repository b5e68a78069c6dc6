"""The `run` command: a file of records, exit codes, Ctrl-C, progress; real kills and processes."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import golden
from folder_runs import draw, records
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import Engine
from mlx_lfm2vl.commands import run, run_progress, skill
from mlx_lfm2vl.commands.run_progress import Progress, progress_text, summary
from mlx_lfm2vl.desktop.folder_run import Counts
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image
from mlx_lfm2vl.prompt.processor import Processor

MODEL = ["--model", str(golden("new_names").folder), "--max-tokens", "3"]
ROOT = Path(__file__).parent.parent.parent
REALLY_READY = Processor.ready


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    draw(folder, ["a.png", "b.png", "c.png"])
    return folder


def started(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mlx_lfm2vl.run", *words, *MODEL]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env)


def test_each_picture_has_its_record_and_the_code_says_how_it_went(photos, capsys):
    assert run.main(["caption", "photos", "--out", "r.jsonl", *MODEL]) == 0
    found = records(Path("r.jsonl"))
    assert sorted(record["file"] for record in found) == [f"photos/{n}.png" for n in "abc"]
    assert {record["length"] for record in found} == {"normal"}
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 pictures: 3 answered; r.jsonl" in err
    draw(photos, ["bad.png"])
    assert run.main(["caption", "photos", "--out", "r.jsonl", *MODEL]) == 1
    assert "4 pictures: 0 answered, 3 known from before, 1 failed" in capsys.readouterr().err
    assert run.main(["ocr", "photos", "--out", "r.jsonl", *MODEL]) == 2
    assert "holds answers of other settings (skill caption)" in capsys.readouterr().err
    assert run.main(["ocr", "photos", "--out", "r.jsonl", "--restart", *MODEL]) == 1
    assert len(records(Path("r.jsonl"))) == 4


@pytest.mark.usefixtures("photos")
def test_a_picture_that_is_not_there_has_a_record_that_says_so():
    assert run.main(["caption", "photos", "none.png", "--out", "r.jsonl", *MODEL]) == 1
    (failed,) = (record for record in records(Path("r.jsonl")) if "error" in record)
    assert (failed["file"], failed["exit_code"]) == ("none.png", 2)
    assert failed["error"] == "'none.png' does not exist"


@pytest.mark.usefixtures("photos")
def test_options_of_the_skill_and_of_the_run_work_together(capsys):
    arguments = ["ask", "photos", "What is {name}?", "--in-order", "--limit", "2", *MODEL]
    assert run.main([*arguments, "--out", "r.csv"]) == 0
    with open("r.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["photos/a.png", "photos/b.png"]
    assert len(records(Path("r.csv.jsonl"))) == 2
    assert run.main([*arguments, "--dry-run"]) == 0
    tokens = capsys.readouterr().out
    assert tokens.startswith("2 pictures: ")
    assert tokens.endswith("at most 6 answer tokens\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "ask? as in"),
        (["captoin", "photos"], "no skill 'captoin'; did you mean caption? as in"),
        (["compare", "photos"], "compare asks about several images at once"),
        (["caption", "--out", "r.jsonl"], "which pictures?"),
        (["caption", "photos"], "--out FILE is missing"),
        (["caption", "photos", "--out", "r.txt"], "a name that ends in .jsonl, .csv, .md"),
        (["caption", "photos", "--out", "no/r.csv"], "there is no folder no"),
        (["caption", "photos", "--out", "photos"], "is a folder"),
        (["caption", "photos", "--out", "r.csv", "--limit", "0"], "--limit is 0"),
        (["caption", "photos", "--out", "r.csv", "--watch", "--limit", "1"], "--watch has no end"),
        (["caption", "-", "--out", "r.csv", "--watch"], "files and folders only"),
        (["classify", "photos", "--out", "r.csv"], "--labels is missing"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_wrong_use_is_refused_with_the_way_out(words, message, capsys):
    assert run.main([*words, *(["--model", "demo"] if words else [])]) == 2
    assert message in capsys.readouterr().err
    assert not [*Path().glob("r.*")]


def test_a_watched_folder_is_answered_as_it_fills_and_ctrl_c_ends_it_well(
    photos, monkeypatch, capsys
):
    monkeypatch.setattr("mlx_lfm2vl.desktop.watch.SECONDS", 0)
    monkeypatch.setattr("mlx_lfm2vl.desktop.ahead.PAUSE", 0)
    seen = []

    def show(_, counts):
        if counts.done == 3 and not seen:
            seen.append(1)
            make_picture(30, 30, 9).save(photos / "d.png")
        if counts.done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", show)
    assert run.main(["caption", "photos", "--watch", "--out", "r.csv", *MODEL]) == 0
    assert "4 pictures: 4 answered" in capsys.readouterr().err
    assert len(Path("r.csv").read_text().splitlines()) == 5


@pytest.mark.usefixtures("photos")
def test_ctrl_c_keeps_what_is_answered_and_the_next_run_continues(monkeypatch, capsys):
    with monkeypatch.context() as patch:

        def interrupt(_, counts):
            if counts.done:
                raise KeyboardInterrupt

        patch.setattr(Progress, "show", interrupt)
        arguments = ["caption", "photos", "--batch-size", "1", "--out", "r.jsonl", *MODEL]
        assert run.main(arguments) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert 1 <= len(records(Path("r.jsonl"))) < 3
    assert run.main(arguments) == 0
    assert len(records(Path("r.jsonl"))) == 3


@pytest.fixture
def seeing(monkeypatch):
    """Every model finds the red rectangles and the blue ones of the image it is asked about."""
    pictures = {}

    def ready(processor, source, options=None):
        found = REALLY_READY(processor, source, options)
        pictures[id(found)] = found, open_image(source, ImageLimits()).decode()
        return found

    def stream_batch(_engine, conversations, _options, **_):
        for number, messages in enumerate(conversations):
            image = messages[-1]["content"][0]["image"]
            _, seen = pictures.get(id(image)) or (None, open_image(image, ImageLimits()).decode())
            width, height = seen.size
            boxes = []
            for channel, label in ((0, "red"), (2, "blue")):
                if found := seen.getchannel(channel).point(lambda x: 255 * (x > 128)).getbbox():
                    sides = zip(found, (width, height) * 2, strict=True)
                    boxes.append({"label": label, "bbox": [at / side for at, side in sides]})
            plan = SimpleNamespace(size=(height, width))
            text = json.dumps(boxes)
            yield (
                number,
                SimpleNamespace(text=text, images=[plan], finish_reason="stop", token_ids=[]),
            )

    monkeypatch.setattr(Processor, "ready", ready)
    monkeypatch.setattr(Engine, "stream_batch", stream_batch)


@pytest.mark.usefixtures("seeing")
def test_a_long_picture_in_slices_has_one_record_with_each_object_once(tmp_path, capsys):
    long = Image.new("RGB", (400, 4000))
    long.paste("red", (40, 650, 140, 960))  # across the end of a slice
    long.paste("blue", (300, 3900, 390, 4000))
    long.save(tmp_path / "a long.png")
    Image.new("RGB", (400, 300), "red").save(tmp_path / "b.png")
    words = [str(tmp_path), "--slices", "auto", "--kind", "450m", "-m", "demo"]
    out = tmp_path / "r.jsonl"
    assert run.main(["detect", *words, "--out", str(out), "--in-order", "--max-tokens", "9"]) == 0
    first, second = found = records(out)
    assert [Path(record["file"]).name for record in found] == ["a long.png", "b.png"]
    boxes = [[(box["label"], box["pixels"]) for box in record["boxes"]] for record in found]
    assert boxes[0] == [("red", [40, 650, 140, 960]), ("blue", [300, 3900, 390, 4000])]
    assert boxes[1] == [("red", [0, 0, 400, 300])]
    assert "part" not in first
    assert run.main(["detect", *words, "--out", str(out), "--in-order", "--max-tokens", "9"]) == 0
    assert "2 pictures: 0 answered, 2 known from before" in capsys.readouterr().err
    assert records(out) == [first, second]
    assert skill.main("detect", [*words, "--json", "--max-tokens", "9"]) == 0
    printed = [json.loads(line)["boxes"] for line in capsys.readouterr().out.splitlines()]
    assert printed == [record["boxes"] for record in found]


def test_the_line_tells_rate_and_time_left():
    assert progress_text(Counts(), 80, 1) == "0 of 80 pictures"
    counts = Counts(answered=10, copied=1, failed=1, known=8)
    assert progress_text(counts, 80, 4) == "20 of 80 pictures, 1 failed, 3.0/s, 0:20 left"
    assert progress_text(counts, None, 4) == "20 pictures, 1 failed, 3.0/s"
    assert progress_text(Counts(answered=1), 5000, 60).endswith("1.0/min, 83:19:00 left")
    assert summary(counts, "r.csv") == (
        "20 pictures: 10 answered, 1 equal to another, 8 known from before, 1 failed; "
        "r.csv has the errors"
    )


class Stderr(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_one_line_and_a_log_one_a_minute(terminal, monkeypatch):
    now = [0.0]
    stderr = Stderr(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    progress, counts = Progress(1000), Counts()
    for second in range(121):
        now[0], counts.answered = float(second), second
        progress.show(counts)
    progress.clear()
    text = stderr.getvalue()
    assert ("\r\033[K" in text) == terminal
    if terminal:
        assert text.count("pictures") == 120
        assert text.endswith("\r\033[K")
        assert "\n" not in text
    else:
        assert text.splitlines() == [
            "60 of 1,000 pictures, 1.0/s, 15:40 left",
            "120 of 1,000 pictures, 1.0/s, 14:40 left",
        ]
        now[0] = 1000.0  # nothing is new in a watched folder
        progress.show(counts)
        assert stderr.getvalue() == text


@pytest.mark.slow
def test_real_kills_lose_and_double_nothing(photos):
    draw(photos, [f"{number}.png" for number in range(200)])
    words = ("caption", "photos", "--in-order", "--out")
    assert started(*words, "whole.jsonl").wait(100) == 0
    whole = [{**record} for record in records(Path("whole.jsonl"))]
    kills = 0
    for least in (1, 40, 90, 150):
        process = started(*words, "r.jsonl")
        out, deadline = Path("r.jsonl"), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and out.read_bytes().count(b"\n") >= least:
                process.kill()
        kills += process.wait(10) == -signal.SIGKILL
    assert kills >= 3
    assert started(*words, "r.jsonl").wait(100) == 0
    assert records(Path("r.jsonl")) == whole


@pytest.mark.slow
def test_two_processes_write_what_one_does(photos):
    draw(photos, [*(f"{number}.png" for number in range(20)), "bad.png"])
    shutil.copy(photos / "3.png", photos / "same.png")
    words = ["caption", "photos", "--in-order", *MODEL, "--out"]
    assert run.main([*words, "one.jsonl"]) == 1
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    launch = [launcher, "-n", "2", "--", sys.executable, "-m", "mlx_lfm2vl.run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*launch, *words, "two.jsonl"], env=env, timeout=100, check=False)
    assert Path("two.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    assert not [*Path().glob("*.rank*")]
    assert json.loads(Path("two.jsonl").read_text().splitlines()[0])["file"] == "photos/0.png"
