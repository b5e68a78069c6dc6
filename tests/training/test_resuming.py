"""Runs that stopped go on as if they had not, or say why they cannot."""

import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import load_tensors
from training_runs import TINY, log_of, losses_of, run, train_command

from mlx_lfm2vl import saving
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.training.batches import UpdateOrder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_equals_not_stopping(data, tmp_path, optimizer):
    options = ["--batch-size", "3", "--steps", "4", "--dropout", "0.2", "--optimizer", optimizer]
    options += ["--save-every", "2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(data, whole, *options) == 0
    assert run(data, parts, *options) == 0
    shutil.rmtree(parts / "checkpoints" / "step-0000004")  # as if stopped after step 2
    assert run(data, parts, *options, "--resume") == 0
    assert losses_of(parts) == losses_of(whole)
    ours, theirs = (load_tensors(o / "adapters.safetensors") for o in (parts, whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_a_run_is_not_overwritten_or_resumed_with_other_settings(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "1") == 0
    assert run(data, output, "--steps", "1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert run(data, output, "--steps", "1", "--resume", "--rank", "3") == 2
    assert "rank was 16" in capsys.readouterr().err


def test_a_run_with_nothing_left_to_train_says_so(data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "--steps", "2") == 0
    assert "nothing left" not in capsys.readouterr().err
    for steps in ("1", "2"):
        assert run(data, tmp_path / "out", "--steps", steps, "--resume") == 0
        expected = f"note: nothing left to train: the run has 2 updates, and --steps is {steps}\n"
        assert expected in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_before_the_model_is_read(data, capsys):
    assert run(data, data, model=data / "no-model") == 2
    assert f"{data} is a file, expected a folder for --output" in capsys.readouterr().err


def test_a_run_resumes_on_its_own_model_only(data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "--steps", "1") == 0
    for part in ("language_model.embedding_norm", "vision_tower.encoder.layers.0.self_attn.q_proj"):
        other = tmp_path / part
        model, _ = load(TINY)
        changed = dict(model.named_modules())[part]
        changed.weight = changed.weight + 0.25
        saving.save_checkpoint(model, TINY, other)
        assert run(data, tmp_path / "out", "--steps", "1", "--resume", model=other) == 2
        assert "cannot resume with other settings (model was " in capsys.readouterr().err


def test_resuming_what_has_not_begun_says_so(data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "--steps", "1", "--resume") == 0
    assert "out has no checkpoint: starting at update 1" in capsys.readouterr().err


def test_half_a_line_in_the_log_does_not_stop_a_run(data, tmp_path):
    output = tmp_path / "out"
    options = ["--steps", "4", "--save-every", "2"]
    assert run(data, output, *options) == 0
    whole = losses_of(output)
    log = output / "log.jsonl"
    (output / "checkpoints" / ".step-0000001.partial").mkdir()
    shutil.rmtree(output / "checkpoints" / "step-0000004")
    log.write_text(log.read_text()[:-20])
    assert run(data, output, *options, "--resume") == 0
    assert losses_of(output) == whole
    assert not list((output / "checkpoints").glob(".step-*.partial"))


def test_what_was_learned_before_a_damaged_image_is_kept(data, tmp_path, capsys):
    assert run(data, tmp_path / "whole", "--steps", "5") == 0
    (number,) = UpdateOrder([1] * 10, 1, seed=1)(3)
    picture = data.parent / f"{number}.png"
    undamaged = picture.read_bytes()
    picture.write_bytes(undamaged[:-40])
    output = tmp_path / "out"
    assert run(data, output, "--steps", "5") == 2
    assert f"error: conversation {number + 1}: " in capsys.readouterr().err
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-0000003"]
    picture.write_bytes(undamaged)
    assert run(data, output, "--steps", "5", "--resume") == 0
    assert losses_of(output) == losses_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(data, tmp_path):
    options = ["--steps", "24", "--save-every", "3", "--batch-size", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(train_command(data, whole, *options), check=True, capture_output=True)
    process = subprocess.Popen(train_command(data, killed, *options), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((killed / "checkpoints").glob("step-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(
        train_command(data, killed, *options, "--resume"), check=True, capture_output=True
    )
    assert losses_of(killed) == losses_of(whole)


def test_an_interrupted_run_is_saved_and_resumes(data, tmp_path):
    # Full training leaves mlx-lm alone, whose import takes longer than the run.
    options = ["--steps", "400", "--save-every", "1000", "--method", "full"]
    output = tmp_path / "out"
    process = subprocess.Popen(train_command(data, output, *options), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (output / "log.jsonl").exists() or len(log_of(output)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    (saved,) = (output / "checkpoints").glob("step-*")
    assert int(saved.name.removeprefix("step-")) == len(log_of(output))
