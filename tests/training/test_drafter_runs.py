"""`train --drafter`: runs, what they leave behind, and what they refuse."""

import json
import shutil

import numpy as np
import pytest
from conftest import load_tensors
from networks import TEXT
from pictures import make_picture
from training_runs import TINY, log_of, losses_of, run

from mlx_lfm2vl.checkpoint.config import TextConfig
from mlx_lfm2vl.checkpoint.drafter_config import read_drafter_config
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.training.drafter_data import Lessons
from mlx_lfm2vl.training.drafter_replay import replay
from mlx_lfm2vl.training.drafter_shape import choose_shape

OPTIONS = ["--drafter", "--draft-block", "3", "--anchors", "4", "--answer-tokens", "6"]
OPTIONS += ["--batch-size", "2", "--learning-rate", "1e-2"]


@pytest.fixture
def data(data):
    """Four of the ten rows: a run begins with an answer to each."""
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:4]))
    return data


def answers_of(output) -> list[dict]:
    """The target's answers to each row."""
    _origin, *lines = (output / "answers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_drafter_resumes_exactly_and_keeps_the_answers(data, few, tmp_path, plotted):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*OPTIONS, "--steps", "4", "--save-every", "2", "--validation", str(few)]
    assert run(data, whole, *options) == 0
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "step-0000004")  # as if stopped after step 2
    written = (parts / "answers.jsonl").stat().st_mtime_ns
    assert run(data, parts, *options, "--resume") == 0
    assert (parts / "answers.jsonl").stat().st_mtime_ns == written
    assert losses_of(parts) == losses_of(whole)
    ours, theirs = (load_tensors(o / "model.safetensors") for o in (parts, whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    last = log_of(whole)[-1]
    assert sum(last["accepted"]) * last["tokens_per_round"] > 0
    assert {whole / "loss.png", whole / "tokens.png"} <= set(plotted)


def test_the_losses_do_not_depend_on_what_is_kept(data, tmp_path):
    options = [*OPTIONS, "--steps", "2"]
    assert run(data, tmp_path / "kept", *options) == 0
    assert run(data, tmp_path / "none", *options, "--feature-memory", "0") == 0
    kept, none = log_of(tmp_path / "kept"), log_of(tmp_path / "none")
    assert [entry["loss"] for entry in kept] == [entry["loss"] for entry in none]
    assert kept[-1]["kept_bytes"] > none[-1]["kept_bytes"] == 0


def test_micro_steps_equal_one_batch(data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(data, one, *OPTIONS, "--steps", "2", "--batch-size", "4") == 0
    assert run(data, two, *OPTIONS, "--steps", "2", "--accumulate", "2") == 0
    np.testing.assert_allclose(losses_of(one), losses_of(two), rtol=1e-5)


def test_training_goes_on_from_a_drafter_that_it_wrote(data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(data, first, *OPTIONS, "--steps", "1") == 0
    model, _ = load(TINY)
    drafter = load_drafter(first, model)
    assert drafter.config == read_drafter_config(first)
    assert drafter.config.block_size == 3
    assert run(data, second, "--drafter", str(first), "--steps", "1", "--answer-tokens", "6") == 0
    assert read_drafter_config(second) == drafter.config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drafter", "--rank", "3"], "--rank cannot be used with --drafter"),
        (["--drafter", "--adapter", "x"], "--adapter cannot be used with --drafter"),
        (["--drafter", "somewhere", "--draft-rank", "3"], "--draft-rank is that of somewhere"),
        (["--draft-block", "3"], "--draft-block needs --drafter"),
        (["--drafter", "--draft-block", "32"], "--draft-block is 32, expected 1 to 31"),
        (["--drafter", "--anchors", "0"], "anchors is 0, expected 1 or more"),
    ],
)
def test_what_a_drafter_has_no_use_for_is_refused(data, tmp_path, capsys, options, message):
    assert run(data, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_answers_of_another_target_are_not_reused(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, *OPTIONS, "--steps", "1") == 0
    shutil.rmtree(output / "checkpoints")
    assert run(data, output, *OPTIONS, "--steps", "1", "--answer-tokens", "7") == 2
    assert "answers.jsonl holds the answers of another target" in capsys.readouterr().err


def test_questions_without_answers_are_enough(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "What is it?"}\n{"prompt": "And that?"}\n')
    output = tmp_path / "out"
    assert run(path, output, *OPTIONS, "--steps", "1") == 0
    assert [len(entry["answers"]) for entry in answers_of(output)] == [1, 1]


def test_half_a_line_of_answers_is_made_again(data, tmp_path):
    output = tmp_path / "out"
    assert run(data, output, *OPTIONS, "--steps", "1") == 0
    path = output / "answers.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    shutil.rmtree(output / "checkpoints")
    assert run(data, output, *OPTIONS, "--steps", "1") == 0
    assert path.read_text() == whole


@pytest.mark.parametrize(
    ("depth", "taps", "layers"),
    [(16, (2, 5, 8, 11, 14), 4), (5, (1, 2, 3), 2), (30, (2, 8, 15, 21, 28), 4), (2, (0,), 2)],
)
def test_the_shape_follows_the_target(depth, taps, layers):
    shape = choose_shape(TextConfig(**{**vars(TEXT), "layer_types": ("conv",) * depth}))
    assert shape.target_layer_ids == taps
    assert shape.num_hidden_layers == layers


def test_taps_behind_the_last_but_one_layer_are_refused():
    with pytest.raises(InputError, match="--draft-taps is 1 3, expected ascending numbers, 0 to 2"):
        choose_shape(TEXT, taps=(1, 3))


def test_a_replay_counts_the_rounds_of_a_real_answer():
    model, processor = load("demo")
    drafter = load_drafter("demo", model)
    question = [
        {"role": "user", "content": [{"type": "image", "image": make_picture(96, 96, 1)}]},
    ]
    question[0]["content"].append({"type": "text", "text": "Describe the image in one sentence."})
    real = Engine(model, processor, drafter=drafter).generate(
        question, temperature=0.0, draft_tokens=drafter.config.block_size
    )
    maker = SampleMaker(processor, set(model.config.eos_token_ids))
    row = [*question, {"role": "assistant", "content": real.text}]
    lessons = Lessons(model, drafter.config.target_layer_ids, maker, [row], 0)
    found = replay(drafter, model, [lessons(0)])
    assert found.tokens == len(real.token_ids)  # the end token for the first one
    assert sum(found.accepted) > 0
    counted = sum(number * rounds for number, rounds in enumerate(found.accepted))
    assert abs(counted - real.accepted_tokens) <= 1  # the loop does not count an end token
