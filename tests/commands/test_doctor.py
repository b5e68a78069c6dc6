"""The report on a machine: what it says with and without a GPU, and that it can be shared."""

from pathlib import Path

import pytest
from conftest import golden

from mlx_lfm2vl import __version__, cli, device_check

TINY = golden("new_names").folder
LABELS = ["version", "packages", "system", "chip", "memory", "limits", "Hub", "model", "CPU", "GPU"]


@pytest.fixture
def report(capsys, monkeypatch):
    """Runs `doctor` on the tiny model; gives the code, the lines by label, and stderr."""

    def report(*, gpu: bool) -> tuple[int, list[str], str]:
        monkeypatch.setattr(device_check, "has_gpu", lambda: gpu)
        code = cli.main(["doctor", "-m", str(TINY)])
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
