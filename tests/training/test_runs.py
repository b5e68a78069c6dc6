"""Runs of `train`: every method learns, and what cannot be learned is said before or at once."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_tensors
from pictures import make_picture
from training_runs import ALL_PARTS, TINY, log_of, losses, losses_of, run, write_rows

from mlx_lfm2vl import saving
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.rows import read_rows
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.training.adapters import load_adapter


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_every_method_learns_and_leaves_a_usable_adapter(data, tmp_path, capsys, plotted, method):
    output = tmp_path / "out"
    options = ["--method", method, "--steps", "6", "--batch-size", "5", "--learning-rate", "5e-3"]
    assert run(data, output, *options, "--validation", str(data)) == 0
    log = log_of(output)
    assert log[-1]["loss"] < log[0]["loss"]
    adapted, processor = load(TINY, dtype="float32")
    load_adapter(adapted, output)
    maker, rows = SampleMaker(processor, set(adapted.config.eos_token_ids)), read_rows(data)
    tokens = sum(maker(row).is_answer.sum() for row in rows)
    expected = losses(adapted, maker, rows) / tokens
    assert log[-1]["validation_loss"] == pytest.approx(expected, rel=1e-4)
    assert ["validation_loss" in entry for entry in log] == [False] * 5 + [True]
    assert plotted == [output / "loss.png"]
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == method
    capsys.readouterr()
    ask = ["--prompt", "Which?", "--image", str(data.parent / "3.png"), "--temperature", "0"]
    ask += ["--max-tokens", "9"]
    assert generate(["--model", str(TINY), "--adapter", str(output), *ask]) == 0
    adapted = capsys.readouterr().out
    assert generate(["--model", str(TINY), *ask]) == 0
    assert capsys.readouterr().out != adapted
    fused = tmp_path / "fused"
    arguments = ["--model", str(TINY), "--adapter", str(output), "--output", str(fused)]
    assert fuse(arguments) == 0
    capsys.readouterr()
    assert generate(["--model", str(fused), *ask]) == 0
    assert capsys.readouterr().out == adapted
    assert fuse(arguments) == 2  # it exists now
    assert fuse([*arguments, "--overwrite"]) == 0


def test_validating_changes_nothing_about_what_is_learned(data, few, tmp_path):
    options = ["--steps", "2", "--learning-rate", "1e-2", "--dropout", "0.5"]
    assert run(data, tmp_path / "never", *options) == 0
    often = [*options, "--validation", str(few), "--validate-every", "1"]
    assert run(data, tmp_path / "often", *often) == 0
    assert losses_of(tmp_path / "often") == losses_of(tmp_path / "never")
    assert run(data, tmp_path / "all", *options, "--dropout", "0") == 0
    assert losses_of(tmp_path / "all")[0] == losses_of(tmp_path / "never")[0]  # a fresh adapter
    assert losses_of(tmp_path / "all")[1:] != losses_of(tmp_path / "never")[1:]


def test_every_parameter_of_a_part_is_trained_the_positions_too(data, tmp_path):
    options = ["--method", "full", "--parts", "vision", "--steps", "1", "--learning-rate", "0.1"]
    assert run(data, tmp_path / "out", *options) == 0
    trained = load_tensors(tmp_path / "out" / "adapters.safetensors")
    source = named_arrays(load(TINY, dtype="float32")[0].vision_tower.parameters())
    assert set(trained) == {f"vision_tower.{name}" for name in source}
    assert "vision_tower.embeddings.position_embedding.weight" in trained
    for name, value in source.items():
        if not name.endswith("k_proj.bias"):  # softmax ignores it: its gradient is rounding alone
            assert not np.array_equal(trained[f"vision_tower.{name}"], value), name


@pytest.mark.slow
def test_ten_samples_are_learned_by_heart(data, tmp_path, capsys):
    output = tmp_path / "out"
    options = ["--method", "full", "--parts", *ALL_PARTS, "--steps", "150", "--batch-size", "10"]
    assert run(data, output, *options, "--learning-rate", "1e-2", "--save-every", "150") == 0
    assert losses_of(output)[-1] < 0.05
    model, processor = load(TINY, dtype="float32")
    load_adapter(model, output)
    capsys.readouterr()
    from mlx_lfm2vl import generate as answer
    from mlx_lfm2vl.options import Sampling

    for i in range(10):
        messages = user_message("Which?", [data.parent / f"{i}.png"])
        text = answer(model, processor, messages, max_tokens=12, sampling=Sampling()).text
        assert text == f"no. {i * 37 % 100}"


def test_compiled_steps_equal_plain_ones_also_after_resuming(data, tmp_path):
    options = ["--steps", "2", "--save-every", "1", "--batch-size", "3"]
    for name in ("--compile", "--no-compile"):
        assert run(data, tmp_path / name, *options, name) == 0
    shutil.rmtree(tmp_path / "--compile" / "checkpoints" / "step-0000002")
    assert run(data, tmp_path / "--compile", *options, "--resume") == 0
    compiled, plain = (losses_of(tmp_path / name) for name in ("--compile", "--no-compile"))
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)


def test_accumulated_batches_equal_one_large_batch(data, tmp_path):
    options = ["--steps", "2", "--learning-rate", "1e-3"]
    assert run(data, tmp_path / "one", *options, "--batch-size", "4") == 0
    assert run(data, tmp_path / "two", *options, "--batch-size", "2", "--accumulate", "2") == 0
    np.testing.assert_allclose(losses_of(tmp_path / "one"), losses_of(tmp_path / "two"), rtol=1e-4)


def test_full_training_is_not_done_in_halves(data, tmp_path, capsys):
    half = tmp_path / "half"
    model, _ = load(TINY, dtype="float16")
    saving.save_checkpoint(model, TINY, half)
    options = ["--method", "full", "--steps", "1"]
    assert run(data, tmp_path / "a", *options, "--dtype", "float16", model=half) == 2
    assert "cannot train in float16" in capsys.readouterr().err
    assert run(data, tmp_path / "a", *options, model=half) == 0
    weights = mx.load(str(tmp_path / "a" / "adapters.safetensors"))
    assert isinstance(weights, dict)
    assert {value.dtype for value in weights.values()} == {mx.float32}


def test_a_loss_that_is_no_number_ends_the_run_with_advice(data, tmp_path, capsys):
    options = ["--method", "full", "--steps", "9", "--learning-rate", "1e30", "--warmup-steps", "0"]
    assert run(data, tmp_path / "out", *options) == 2
    assert "use a lower --learning-rate" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--seed", "-1"], ["--learning-rate", "nan"], ["--show", "0"]])
def test_settings_that_make_no_sense_are_refused(data, tmp_path, capsys, options):
    assert run(data, tmp_path / "out", *options) == 2
    assert f"{options[0][2:].replace('-', '_')} is" in capsys.readouterr().err.replace("--", "")


def test_show_prints_samples_and_trains_nothing(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--show", "2") == 0
    assert capsys.readouterr().out.count("⟦no. ") == 2
    assert not output.exists()


def test_rows_the_template_or_the_limits_refuse_are_all_named_before_training(
    data, tmp_path, capsys
):
    picture = str(data.parent / "0.png")
    too_many = {"image": [picture] * 33, "prompt": "x", "answer": "y"}
    good = json.loads(data.read_text().splitlines()[0])
    rows = [too_many, good, {**too_many, "image": [picture] * 40}]
    path = write_rows(data.parent / "bad.jsonl", rows)
    for options in ([], ["--validation", str(path)]):
        given = data if options else path
        assert run(given, tmp_path / "out", "--steps", "1", *options) == 2
        error = capsys.readouterr().err
        name = "validation" if options else "training"
        assert f"the {name} data has 2 bad rows" in error
        assert "conversation 1: the prompt has 33 images" in error
        assert "conversation 3: the prompt has 40 images" in error
    assert not (tmp_path / "out").exists()


def test_an_image_damaged_behind_its_header_is_named_by_its_conversation(data, tmp_path, capsys):
    picture = data.parent / "damaged.png"
    make_picture(64, 64, 1).save(picture)
    picture.write_bytes(picture.read_bytes()[:-40])
    row = {"image": str(picture), "prompt": "x", "answer": "y"}
    path = write_rows(data.parent / "damaged.jsonl", [row])
    assert run(path, tmp_path / "one", "--steps", "1") == 2
    assert "error: conversation 1: " in capsys.readouterr().err
    assert run(data, tmp_path / "two", "--steps", "1", "--validation", str(path)) == 2
    assert "error: validation conversation 1: " in capsys.readouterr().err
    assert len(log_of(tmp_path / "two")) == 1
    assert (tmp_path / "two" / "checkpoints" / "step-0000001").exists()


def test_gradients_are_clipped_to_the_norm_asked_for(data, tmp_path):
    options = ["--steps", "1", "--warmup-steps", "0", "--learning-rate", "0.1"]
    largest = {}
    for norm in ("1", "1e-12"):  # far below AdamW's epsilon
        assert run(data, tmp_path / norm, *options, "--max-grad-norm", norm) == 0
        trained = load_tensors(tmp_path / norm / "adapters.safetensors")
        largest[norm] = max(np.abs(v).max() for n, v in trained.items() if n.endswith("lora_b"))
    assert largest["1"] == pytest.approx(0.1, rel=1e-2)
    assert largest["1e-12"] < 1e-4
    norms = [log_of(tmp_path / norm)[0]["grad_norm"] for norm in largest]
    assert norms[0] == norms[1] > 1e-3  # as it was before


@pytest.mark.parametrize(
    ("has_gpu", "options", "expected"),
    [
        (True, [], True),
        (True, ["--recompute"], False),
        (True, ["--no-compile"], False),
        (False, [], False),
        (False, ["--compile"], True),
    ],
)
def test_a_gpu_compiles_the_step_unless_it_recomputes(
    data, tmp_path, monkeypatch, has_gpu, options, expected
):
    asked = []

    def stop(_model, _maker, _rows, settings, *_arguments, **_options):
        asked.append(settings.compile)
        raise InputError("seen enough")

    monkeypatch.setattr("mlx_lfm2vl.training.trainer.Trainer", stop)
    monkeypatch.setattr(mx.metal, "is_available", lambda: has_gpu)
    assert run(data, tmp_path / "out", *options) == 2
    assert asked == [expected]


def test_only_so_many_shapes_are_compiled(data, tmp_path, monkeypatch):
    compiled = []
    compile_ = mx.compile
    monkeypatch.setattr(mx, "compile", lambda *a, **o: (compiled.append(a), compile_(*a, **o))[1])
    monkeypatch.setattr("mlx_lfm2vl.training.trainer.MAX_COMPILED", 1)
    for name in ("--compile", "--no-compile"):
        assert run(data, tmp_path / name, "--steps", "4", "--batch-size", "2", name) == 0
    assert len(compiled) == 2  # the gradients of one shape, and the update
    limited, plain = (losses_of(tmp_path / name) for name in ("--compile", "--no-compile"))
    np.testing.assert_allclose(limited, plain, rtol=1e-4)
