"""Commands with --resident print what they print without it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import make_picture
from residents import DEMO, FakeProcess, own_folder, socket_of

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands import resident
from mlx_lfm2vl.serving.resident.client import RemoteEngine
from mlx_lfm2vl.serving.resident.http import Call
from mlx_lfm2vl.serving.resident.place import absolute_name

SMALL = ["--min-image-tokens", "4", "--max-image-tokens", "16"]
SHORT = ["-m", "demo", "--max-tokens", "6", *SMALL]
CHANGES = ("timings", "peak_memory_bytes", "cached_tokens", "sampling")  # from run to run


@pytest.fixture(scope="module")
def folder():
    with own_folder() as folder:
        RemoteEngine(DEMO)
        yield folder


@pytest.fixture
def desk(folder, tmp_path, monkeypatch) -> Path:
    """A current folder with pictures in it."""
    del folder
    for number in (1, 2, 3):
        make_picture(40, 50, number).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(arguments, capsys):
    """The exit code, and what is printed."""
    code = cli.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def without_what_changes(value):
    if isinstance(value, list):
        return [without_what_changes(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without_what_changes(each) for key, each in value.items() if key not in CHANGES}
    if "probabilities" in kept:
        kept["probabilities"] = {key: round(p, 3) for key, p in kept["probabilities"].items()}
    for key in ("probability", "coverage"):
        kept.pop(key, None)
    return kept


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "1.png", "What is this?", *SHORT],
        ["generate", "Only text.", *SHORT, "--stop", "e", "--system", "Be brief."],
        ["generate", "1.png", "2.png", "Compare.", *SHORT],
        ["generate", "1.png", "--ask", "What is this?", "--ask", "Which color?", *SHORT],
        ["generate", "--ask", "Who?", "--ask", "Why?", *SHORT],
        ["generate", "--each", "1.png", "bad.png", "2.png", "-p", "What?", *SHORT],
        ["generate", "bad.png", "What?", *SHORT],
        ["generate", "--each", "bad.png", "-p", "What does <image> mean?", *SHORT],
        ["generate", "none.png", "What?", *SHORT],
        ["generate", "1.png", "What?", "--choice", "red", "blue", *SHORT],
        ["generate", "1.png", "What?", "--max-megapixels", "0.001", *SHORT],
        ["generate", "Write.", "-m", "demo", "--max-tokens", "100000"],
        ["generate", "1.png", "What?", "-m", "./nothing"],
        ["caption", "1.png", *SHORT],
        ["keywords", "1.png", "2.png", *SHORT],
        ["classify", "1.png", "--labels", "red", "blue", "-m", "demo", *SMALL],
        ["detect", "1.png", "bad.png", "the circle", *SHORT, "--max-tokens", "60"],
        ["ocr", "bad.png", *SHORT],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_output_and_exit_code_are_those_without_a_process(desk, capsys, arguments):
    del desk
    assert told([*arguments, "--resident"], capsys) == told(arguments, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "1.png", "What is this?", "--token-ids", *SHORT],
        ["generate", "1.png", "--ask", "What?", "--ask", "Why?", "--token-ids", *SHORT],
        ["generate", "--each", "1.png", "bad.png", "-p", "What?", *SHORT],
        ["classify", "1.png", "--labels", "red", "blue", "-m", "demo", *SMALL],
        ["caption", "1.png", "2.png", *SHORT],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_objects_are_those_without_a_process(desk, capsys, arguments):
    del desk
    outcomes = []
    for extra in (["--resident"], []):
        code, out, _ = told([*arguments, "--json", *extra], capsys)
        outcomes.append(
            (code, [without_what_changes(json.loads(line)) for line in out.splitlines()])
        )
    assert outcomes[0] == outcomes[1]


def test_a_run_writes_the_records_that_it_writes_without_a_process(desk, capsys):
    arguments = ["run", "caption", "*.png", *SHORT]
    assert cli.main([*arguments, "--out", "there.jsonl", "--resident"]) == 1
    assert cli.main([*arguments, "--out", "here.jsonl"]) == 1
    capsys.readouterr()

    def records(name):
        read = [json.loads(line) for line in (desk / name).read_text().splitlines()]
        return sorted([{**each, "time": 0} for each in read], key=str)

    assert records("there.jsonl") == records("here.jsonl")
    assert cli.main([*arguments, "--out", "here.jsonl", "--resident"]) == 1  # the bad one again
    assert "0 answered" in capsys.readouterr().err


def test_verbose_tells_sampling_and_costs(desk, capsys):
    del desk
    _, _, err = told(["generate", "1.png", "What?", "-V", "--resident", *SHORT], capsys)
    assert "sampling: temperature" in err
    assert "tokens/s" in err


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (["--resident", "--cache"], "--cache keeps on disk what --resident keeps in memory"),
        (["--resident", "--cache-limit", "1"], "--cache-limit sets the memory of this process"),
        (["--keep-alive", "1m"], "--keep-alive is for --resident"),
        (["--resident", "--keep-alive", "soon"], "'soon' is no duration"),
    ],
)
def test_what_contradicts_a_process_is_refused(desk, capsys, extra, why):
    del desk
    code, out, err = told(["generate", "What?", "-m", "demo", *extra], capsys)
    assert (code, out) == (2, "")
    assert why in err


def test_a_folder_is_named_by_its_whole_path_and_a_repo_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "demo"):
        (tmp_path / name).mkdir()
    assert absolute_name("model") == absolute_name("./model/") == str(tmp_path / "model")
    assert absolute_name("demo") == "demo"
    assert absolute_name("./demo") == str(tmp_path / "demo")
    assert absolute_name("LiquidAI/LFM2.5-VL-450M") == "LiquidAI/LFM2.5-VL-450M"


def test_the_client_imports_neither_mlx_nor_decoders(desk):
    code = (
        "import sys; from mlx_lfm2vl.cli import main\n"
        "for asked in ('generate 1.png What?', 'generate --each 1.png -p Hi', 'caption 1.png',\n"
        "              'detect 1.png ring', 'classify 1.png --labels small large'):\n"
        "    assert main([*asked.split(), '--resident', '-m', 'demo']) == 0\n"
        "heavy = {'mlx', 'numpy', 'PIL', 'tokenizers', 'jinja2', 'huggingface_hub', 'email'}\n"
        "heavy |= {'subprocess', 'xml', 'shutil', 'asyncio', 'llguidance'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=desk)


def test_ctrl_c_ends_the_answer_in_the_process(desk, folder):
    program = [sys.executable, "-m", "mlx_lfm2vl", "generate", "--resident", "-m", "demo"]
    asked = [*program, "1.png", "Write.", "--temperature", "3", "--max-tokens", "1500"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, cwd=desk) as run:
        assert run.stdout
        assert run.stdout.read(1)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
    until = time.monotonic() + 60
    while Call(socket_of(folder)).object("GET", "/health")["calls"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_status_lists_the_processes(folder, capsys):
    code, out, _ = told(["resident", "status"], capsys)
    assert code == 0
    head, row = out.splitlines()
    assert head.split() == ["MODEL", "PID", "MEMORY", "IDLE", "SOCKET"]
    assert row.split()[0] == "demo"
    assert row.endswith(socket_of(folder))
    code, out, _ = told(["resident", "status", "demo", "--json"], capsys)
    (values,) = json.loads(out)
    assert (values["model"], values["socket"]) == ("demo", socket_of(folder))
    assert values["pid"] == int(row.split()[1])
    assert values["memory_bytes"] > 10**6
    code, out, err = told(["resident", "stop", "450m"], capsys)
    assert (code, out) == (1, "")
    assert "no resident process holds 450m" in err


def test_stop_ends_the_processes(capsys):
    with own_folder():
        assert told(["resident", "status"], capsys)[:2] == (0, "no process is resident\n")
        pid = RemoteEngine(DEMO) and json.loads(told(["resident", "status", "--json"], capsys)[1])
        code, out, _ = told(["resident", "stop", "demo"], capsys)
        assert (code, out) == (0, f"stopped demo, pid {pid[0]['pid']}\n")
        assert told(["resident", "stop"], capsys)[:2] == (0, "no process is resident\n")


def test_a_process_that_does_not_reply_is_listed_with_the_way_out(capsys, monkeypatch):
    with own_folder() as folder:
        monkeypatch.setattr(resident, "REPLY_SECONDS", 0.05)
        fake = FakeProcess(socket_of(folder), lambda _: time.sleep(0.2))
        code, out, err = told(["resident", "status"], capsys)
        fake.end()
    assert code == 1
    assert f"?      {os.getpid()}" in out
    assert "end it with mlx_lfm2vl resident stop" in err
