"""The report on a machine: what it says with and without a GPU, and that it can be shared."""

import functools
import json
import re
from pathlib import Path

import pytest
from conftest import golden
from pages import page

from mlx_lfm2vl import __version__, cli, device_check

TINY = golden("new_names").folder
LABELS = ["version", "packages", "system", "chip", "memory", "limits", "Hub", "model"]
LABELS += ["CPU", "kernels", "waits", "GPU"]


once = functools.cache(device_check.observe_on_cpu)  # a process of its own takes seconds
counted_once = functools.cache(device_check.count_work)


@pytest.fixture
def report(capsys, monkeypatch):
    """Runs `doctor` on the tiny model; gives the code, the lines by label, and stderr."""

    def report(*arguments: str, gpu: bool) -> tuple[int, list[str], str]:
        monkeypatch.setattr(device_check, "has_gpu", lambda: gpu)
        monkeypatch.setattr(device_check, "observe_on_cpu", once)
        monkeypatch.setattr(device_check, "count_work", counted_once)
        code = cli.main(["doctor", "-m", str(TINY), *arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return report


def test_without_a_gpu_the_report_says_what_it_could_not_check(report):
    code, lines, _ = report(gpu=False)
    assert code == 0
    assert [line.split()[0] for line in lines] == LABELS
    assert f"mlx_lfm2vl {__version__}" in lines[0]
    assert "HF_HUB_OFFLINE is set" in lines[6]
    assert "not checked: MLX has no GPU here" in lines[-1]


def test_the_report_names_no_folders(report):
    _, lines, _ = report(gpu=False)
    text = "\n".join(lines)
    assert str(TINY.parent) not in text
    assert str(Path.home()) not in text
    assert f"model     {TINY.name}" in lines


def test_with_a_gpu_both_number_types_are_compared(report):
    code, lines, _ = report(gpu=True)
    assert code == 0
    compared = [line for line in lines if line.startswith("GPU")]
    assert [line.split()[1] for line in compared] == ["float32:"]  # the type in use on a CPU too
    assert "of 64 greedy tokens equal: as expected" in compared[0]


def test_a_gpu_that_computes_something_else_is_a_failure(report, monkeypatch):
    observe = device_check.observe

    def wrong(model, dtype):
        values = observe(model, dtype)
        return {**values, "logits0": -values["logits0"]}

    monkeypatch.setattr(device_check, "observe", wrong)
    code, lines, err = report(gpu=True)
    assert code == 1
    assert any("NOT AS EXPECTED" in line for line in lines)
    assert err.splitlines()[-1].startswith("error: the GPU does not compute what the CPU computes")


def test_the_work_of_a_token_and_a_picture_is_counted(report):
    _, lines, _ = report(gpu=False)
    kernels, waits = lines[9:11]
    assert re.fullmatch(
        r"kernels   \d+ a token, \d+ of them in a chain; \d+ a picture of 7 views, "
        r"\d+ of them in a chain \(as Metal would have them\)",
        kernels,
    )
    assert waits == "waits     the host waits 1 time a token, 0 a picture"
    _, lines, _ = report(gpu=True)
    assert lines[9].endswith("of them in a chain")


@pytest.mark.parametrize("gpu", [False, True])
def test_a_report_for_a_program_has_the_keys_described(report, gpu, tmp_path):
    path = tmp_path / "report.json"
    code, lines, err = report("--report", str(path), gpu=gpu)
    assert (code, err) == (0, f"wrote {path}\n")
    found = json.loads(path.read_text())
    section = page("json").text.partition("## A report")[2]
    described = set(re.findall(r"`(\w+)`", section))
    keys = {*found, *found["work"], *(found["gpu"] or {}).get("float32", {})}
    assert keys <= described
    assert found.keys() == {"schema", "work", "gpu", *(name.lower() for name in LABELS[:9])}
    assert found["model"] == TINY.name
    assert (found["gpu"] is None) == (not gpu)
    assert str(Path.home()) not in path.read_text()
    assert f"cpu       {found['cpu']}".lower() == lines[8].lower()


def test_a_report_for_people_is_a_table_of_what_was_printed(report, tmp_path):
    path = tmp_path / "report.md"
    _, lines, _ = report("--report", str(path), gpu=True)
    head, line, *rows = path.read_text().splitlines()
    assert (head, line) == ("| what | found |", "|---|---|")
    assert [
        f"{row.split('|')[1].strip():10}{row[4:-2].split(' | ', 1)[1]}" for row in rows
    ] == lines


@pytest.mark.parametrize("name", ["report", "report.txt", "no/report.md", "."])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_done(name, tmp_path, capsys):
    assert cli.main(["doctor", "--report", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert str(tmp_path) in err
    assert len(err.splitlines()) == 1


def test_a_model_that_is_not_there_is_said_as_every_command_says_it(capsys):
    assert cli.main(["doctor", "-m", "nosuch", "--offline"]) == 2
    assert capsys.readouterr().err.startswith("error: nosuch is neither a folder nor a repo id")
