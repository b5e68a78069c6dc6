"""A run goes on: with more steps or rows, from an adapter, from its best or an older checkpoint."""

import json
from argparse import Namespace

import numpy as np
import pytest
from conftest import load_tensors
from pictures import make_picture
from training_runs import TINY, log_of, losses_of, run, write_rows

from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.commands.train import _sampler
from mlx_lfm2vl.commands.train_drafter import _asker
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.rows import read_rows
from mlx_lfm2vl.training.adapters import load_adapter
from mlx_lfm2vl.training.settings import DrafterSettings, TrainSettings


def test_a_finished_run_goes_on_with_more_steps_and_keeps_its_other_settings(
    data, tmp_path, capsys
):
    output = tmp_path / "out"
    options = [
        "--rank",
        "4",
        "--schedule",
        "constant",
        "--learning-rate",
        "1e-2",
        "--max-tiles",
        "2",
    ]
    assert run(data, output, *options, "--steps", "2") == 0
    assert run(data, tmp_path / "whole", *options, "--steps", "4") == 0
    assert run(data, output, "--resume", "--steps", "4") == 0
    assert "the run goes on with other settings than before: steps" in capsys.readouterr().err
    assert losses_of(output) == losses_of(tmp_path / "whole")


def test_a_run_goes_on_with_new_rows_and_says_so(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "2") == 0
    write_rows(
        data, [*map(json.loads, data.read_text().splitlines()), {"prompt": "?", "answer": "!"}]
    )
    assert run(data, output, "--steps", "4", "--resume") == 0
    assert "other settings than before: data, steps" in capsys.readouterr().err
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]


def test_every_checkpoint_is_an_adapter(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert (
        run(
            data,
            output,
            "--steps",
            "4",
            "--save-every",
            "2",
            "--learning-rate",
            "1e-2",
            "--keep",
            "1",
        )
        == 0
    )
    (step,) = (output / "checkpoints").iterdir()
    assert step.name == "step-0000004"
    tensors = load_tensors(output / "adapters.safetensors")
    for name, value in load_tensors(step / "adapters.safetensors").items():
        np.testing.assert_array_equal(value, tensors[name])
    answers = []
    for adapter in (output, step):
        options = ["--adapter", str(adapter), "--temperature", "0", "--max-tokens", "5"]
        assert generate(["--model", str(TINY), *options, "--prompt", "Which?"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_the_adapter_with_the_lowest_validation_loss_is_kept(data, few, tmp_path, capsys):
    output = tmp_path / "out"
    # So large a rate makes the loss worse from some update on.
    options = ["--learning-rate", "0.3", "--warmup-steps", "4", "--schedule", "constant"]
    validated = ["--validation", str(few), "--validate-every", "1"]
    assert run(data, output, *options, *validated, "--steps", "4") == 0
    found = [entry["validation_loss"] for entry in log_of(output)]
    assert min(found) < found[-1]
    assert f"lowest validation loss, {min(found):.4f}" in capsys.readouterr().err
    at_best = tmp_path / "stopped"
    best = found.index(min(found)) + 1
    assert run(data, at_best, *options, "--steps", str(best)) == 0
    expected = load_tensors(at_best / "adapters.safetensors")
    for name, value in load_tensors(output / "best" / "adapters.safetensors").items():
        np.testing.assert_array_equal(value, expected[name])
    # A run that goes on compares with what it found before.
    assert run(data, output, *validated, "--steps", "5", "--resume") == 0
    assert min(entry["validation_loss"] for entry in log_of(output)) == min(found)
    for name, value in load_tensors(output / "best" / "adapters.safetensors").items():
        np.testing.assert_array_equal(value, expected[name])


def test_epochs_count_passes_over_the_data(data, tmp_path):
    assert run(data, tmp_path / "out", "--epochs", "1.5", "--batch-size", "4") == 0
    assert len(log_of(tmp_path / "out")) == 4  # 15 conversations of ten, four at a time


def test_long_conversations_are_left_out_when_asked(data, tmp_path, capsys):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows.append({"prompt": "Which? " * 300, "answer": "All."})
    write_rows(data, rows)
    assert run(data, tmp_path / "out", "--steps", "1", "--max-length", "300") == 0
    assert "1 of 11 conversations are left out: longer than 300 tokens" in capsys.readouterr().err
    assert run(data, tmp_path / "none", "--steps", "1", "--max-length", "3") == 2
    assert "no conversation has at most 3 tokens (--max-length)" in capsys.readouterr().err


def test_image_limits_shrink_what_is_trained_on(data, tmp_path, capsys):
    make_picture(300, 500, 1).save(data.parent / "0.png")
    shown = []
    for options in ([], ["--no-image-splitting", "--max-image-tokens", "4"]):
        assert run(data, tmp_path / "out", "--show", "1", *options) == 0
        shown.append(capsys.readouterr().out)
    counts = [sum(int(n.split("<")[0]) for n in text.split("×")[1:]) for text in shown]
    assert counts[1] <= 4 < counts[0]


def test_the_test_data_are_measured_at_the_end(data, few, tmp_path, capsys):
    output = tmp_path / "out"
    options = ["--validation", str(few), "--test", str(few), "--steps", "2"]
    assert run(data, output, *options) == 0
    found = json.loads((output / "test.json").read_text())
    assert found["loss"] == pytest.approx(log_of(output)[-1]["validation_loss"])
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    assert f"test: loss {found['loss']:.4f}" in capsys.readouterr().err


def test_sample_answers_are_those_of_the_adapter_at_that_update(
    data, few, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mlx_lfm2vl.commands.train.MAX_ANSWER", 12)
    output = tmp_path / "out"
    options = ["--steps", "2", "--learning-rate", "0.05", "--warmup-steps", "0"]
    options += ["--validation", str(few), "--validate-every", "1", "--sample-answers", "2"]
    assert run(data, output, *options) == 0
    model, processor = load(TINY, dtype="float32")
    load_adapter(model, output)
    engine, rows = Engine(model, processor), read_rows(data)[:2]
    expected = [
        {
            "answer": engine.generate(row[:1], temperature=0.0, max_tokens=12).text,
            "expected": row[1]["content"],
        }
        for row in rows
    ]
    answers = [entry["answers"] for entry in log_of(output)]
    assert answers[-1] == expected
    assert answers[0] != answers[1]
    assert f"answer {expected[0]['answer']!r}" in capsys.readouterr().err
    assert run(data, tmp_path / "bad", "--sample-answers", "2") == 2
    assert "--sample-answers needs --validation" in capsys.readouterr().err


def test_questions_that_leave_little_room_in_the_context_get_shorter_answers():
    model, processor = load(TINY, dtype="float32")
    room = model.config.text.max_position_embeddings
    question = {"role": "user", "content": "q?" * (room // 2 - 20)}
    assert 0 < room - len(processor([question]).input_ids) < 40
    row = [question, {"role": "assistant", "content": "Yes."}]
    sampled = _sampler(model, processor, [row], TrainSettings())
    assert sampled is not None
    assert [answer["expected"] for answer in sampled()] == ["Yes."]
    ask = _asker(model, processor, Namespace(special_tokens=()), DrafterSettings(), {})
    assert [type(answer) for _, answer in ask([row[:1]])] == [str]


def test_a_checkpoint_of_another_version_is_named(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "1") == 0
    settings = output / "checkpoints" / "step-0000001" / "run.json"
    settings.write_text(settings.read_text().replace('"schedule"', '"plan"'))
    assert run(data, output, "--resume", "--steps", "2") == 1
    assert "run.json is not of this version: 'schedule'" in capsys.readouterr().err


def test_unknown_schedules_and_senseless_numbers_are_refused(data, tmp_path, capsys):
    for options, reason in [
        (["--schedule", "steep"], "schedule"),
        (["--epochs", "0"], "epochs is 0.0"),
        (["--final-fraction", "2"], "final_fraction is 2.0"),
        (["--keep", "0"], "keep is 0"),
        (["--steps", "3", "--epochs", "1"], "not allowed with"),
    ]:
        assert run(data, tmp_path / "out", *options) == 2
        assert reason in capsys.readouterr().err
