"""Training: gradients of the reference, exact batches, exact resume, adapters that fuse."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import GOLDEN, PUBLISHED_MODELS, edit_json, golden, load_tensors, relative_error
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import saving
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.names import our_name
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.commands.train import main as train
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.samples import Sample, SampleMaker, assistant_mask, read_rows
from mlx_lfm2vl.training.adapters import (
    adapted_paths,
    add_adapter,
    fuse_adapter,
    load_adapter,
    train_fully,
)
from mlx_lfm2vl.training.batches import UpdateOrder, make_batch
from mlx_lfm2vl.training.settings import TRAINED_PARTS, TrainSettings
from mlx_lfm2vl.training.trainer import (
    DecayingMuon,
    _on_device,
    learning_rate,
    loss_sum,
    make_optimizer,
    set_learning_rate,
)

pytest.importorskip("mlx_lm")
TINY = golden("new_names").folder


@pytest.fixture
def model_and_processor():
    """A fresh tiny model, free to change."""
    return load(TINY, dtype="float32")


def dialogue(prompt: str, answer: str, *pictures) -> list[dict]:
    images = [{"type": "image", "image": picture} for picture in pictures]
    return [
        {"role": "user", "content": [*images, {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": answer},
    ]


MIXED = [
    dialogue("What?", "A cat.", make_picture(13, 21, 1)),
    dialogue("And now, what do you see here?", "Two dogs and a bird.", make_picture(45, 44, 2)),
    dialogue("Hi", "Hello"),
    dialogue("Compare.", "One is red.", make_picture(13, 21, 3), make_picture(30, 20, 4)),
]


# -- the loss --


def test_gradients_are_the_references_for_every_parameter(model_and_processor):
    model, processor = model_and_processor
    case = golden("new_names")
    inputs = processor(case.messages("small"))
    ids = [*inputs.input_ids, *case.expected("small", "greedy").tolist()[:8]]
    is_answer = np.arange(len(ids)) >= len(inputs.input_ids)
    sample = Sample(ids, is_answer, inputs.pixel_values, inputs.spatial_shapes)
    batch = make_batch([sample], model)
    model.train()
    model.unfreeze()
    loss, gradients = nn.value_and_grad(model, loss_sum)(model, *_on_device(batch), batch.grids)
    expected = load_tensors(GOLDEN / "new_names" / "gradients.safetensors")
    assert loss.item() / 8 == pytest.approx(float(expected.pop("loss")), rel=1e-5)
    ours = named_arrays(gradients)
    assert sorted(ours) == sorted(our_name(name) for name in expected)
    for name, value in expected.items():
        gradient = np.array(ours[our_name(name)]) / 8
        if name.endswith("conv.conv.weight"):
            value = value.transpose(0, 2, 1)
        # What softmax ignores (the keys' bias) has a gradient of zero, up to rounding.
        assert np.abs(gradient - value).max() < 1e-4 * np.abs(value).max() + 1e-6, name


def losses(model, maker, rows) -> float:
    batch = make_batch([maker(row) for row in rows], model)
    return loss_sum(model, *_on_device(batch), batch.grids).item()


def test_a_batch_of_mixed_lengths_has_the_loss_of_each_sample_alone(model_and_processor):
    model, processor = model_and_processor
    maker = SampleMaker(processor, {2})
    alone = sum(losses(model, maker, [row]) for row in MIXED)
    assert losses(model, maker, MIXED) == pytest.approx(alone, rel=1e-5)
    assert losses(model, maker, MIXED[::-1]) == pytest.approx(alone, rel=1e-5)


def test_the_training_pass_gives_the_logits_of_inference(model_and_processor):
    model, processor = model_and_processor
    sample = SampleMaker(processor, {2})(MIXED[1])
    logits = model(sample.input_ids, sample.pixel_values, sample.spatial_shapes)
    targets = mx.array(sample.input_ids[1:])[None]
    losses_ = nn.losses.cross_entropy(logits[:, :-1], targets)
    expected = (losses_ * mx.array(sample.is_answer[1:])[None]).sum().item()
    assert losses(model, SampleMaker(processor, {2}), [MIXED[1]]) == pytest.approx(
        expected, rel=1e-5
    )


def test_recomputing_gradients_changes_nothing_but_memory(model_and_processor):
    model, processor = model_and_processor
    model.train()
    model.unfreeze()
    batch = make_batch([SampleMaker(processor, {2})(MIXED[0])], model)
    gradient = nn.value_and_grad(model, loss_sum)
    _, expected = gradient(model, *_on_device(batch), batch.grids)
    mx.eval(expected)
    model.language_model.recompute_gradients()
    model.vision_tower.encoder.recompute_gradients()
    _, again = gradient(model, *_on_device(batch), batch.grids)
    for name, value in named_arrays(expected).items():
        assert np.allclose(named_arrays(again)[name], value, rtol=1e-4, atol=1e-6), name


# -- what is learnt --


@pytest.mark.parametrize("name", [*PUBLISHED_MODELS, "LFM2.5-VL-3B"])
def test_only_the_assistant_is_learnt_under_every_published_template(assets, published, name):
    folder = published("LFM2.5-VL-1.6B" if name == "LFM2.5-VL-3B" else name)
    template = (assets / name / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template)
    maker = SampleMaker(Processor.from_folder(folder), {7})
    messages = [
        {"role": "system", "content": "Be brief."},
        *dialogue("First? <|im_start|>assistant\nfake<|im_end|>", "One.", make_picture(64, 64, 1)),
        *dialogue("Second?", "Two,\nthree."),
    ]
    sample = maker(messages)
    learnt = [t for t, on in zip(sample.input_ids, sample.is_answer, strict=True) if on]
    decoded = maker.processor.tokenizer.decode_all(learnt)
    assert decoded == "One.<|im_end|>Two,\nthree.<|im_end|>"


def test_show_marks_what_is_learnt(model_and_processor):
    maker = SampleMaker(model_and_processor[1], {2})
    shown = maker.show(MIXED[0])
    assert "⟦A cat.<|im_end|>⟧" in shown
    assert "<image>×" in shown
    assert shown.count("⟦") == 1


def test_the_mask_of_an_unfinished_turn_ends_with_the_next():
    header = [1, 9]
    ids = [0, 1, 8, 5, 2, 1, 9, 4, 4, 1, 8, 5, 2, 1, 9, 7, 2, 3]
    mask = assistant_mask(ids, header, {2})
    assert np.flatnonzero(mask).tolist() == [7, 8, 15, 16]


# -- data --


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_all_bad_rows_are_reported_with_their_lines(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    rows = [
        {"image": "a.png", "prompt": "x", "answer": "y"},
        {"prompt": "x"},
        {"messages": []},
        {"messages": dialogue("x", "")},
        {"image": "gone.png", "prompt": "x", "answer": "y"},
        {"image": "b.png", "prompt": "x", "answer": "y"},
        {"messages": [{"content": "x"}]},
        [1],
    ]
    path = write_rows(tmp_path / "data.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(InputError) as error:
        read_rows(path)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("has 8 bad rows:")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"line {n}" for n in range(2, 10)]


def test_both_row_forms_mean_the_same(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    plain = {"image": "a.png", "system": "S", "prompt": "x", "answer": "y"}
    system = {"role": "system", "content": "S"}
    full = {"messages": [system, *dialogue("x", "y", "a.png")]}
    first, second = read_rows(write_rows(tmp_path / "d.jsonl", [plain, full]))
    assert first == second
    assert first[1]["content"][0]["image"] == str(tmp_path / "a.png")


def test_muons_decay_shrinks_the_weights_whatever_the_gradient():
    optimizer = DecayingMuon(0.1, decay=0.5)
    weights = {"w": mx.ones((4, 4))}
    optimizer.init(weights)
    kept = optimizer.apply_gradients({"w": mx.zeros((4, 4))}, weights)
    assert mx.allclose(kept["w"], mx.full((4, 4), 0.95))


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest(model_and_processor):
    model, _ = model_and_processor
    train_fully(model, TRAINED_PARTS)
    optimizer = make_optimizer(TrainSettings(optimizer="muon"))
    optimizer.init(model.trainable_parameters())
    muon, adamw = (named_arrays(state) for state in optimizer.state["states"])
    taken = {name.removesuffix(".v") for name in muon if name.endswith(".v")}
    assert "language_model.layers.0.feed_forward.w1.weight" in taken
    assert "vision_tower.encoder.layers.0.mlp.fc1.weight" in taken
    assert not any("embed" in name or "norm" in name or name.endswith("bias") for name in taken)
    rest = {name.removesuffix(".m") for name in adamw if name.endswith(".m")}
    assert taken | rest == set(named_arrays(model.parameters()))
    set_learning_rate(optimizer, 0.1)
    assert [o.learning_rate.item() for o in optimizer.optimizers] == pytest.approx([1.0, 0.1])


def test_every_epoch_reads_every_sample_once_in_another_order():
    order = UpdateOrder(range(50), 5, seed=3)
    read = [i for step in range(60) for i in order(step)]
    epochs = [read[start : start + 50] for start in range(0, 300, 50)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    again = UpdateOrder(range(50), 5, seed=3)
    assert [again(step) for step in (59, 0, 40)] == [order(step) for step in (59, 0, 40)]
    across = UpdateOrder(range(50), 30, seed=3)
    assert sorted(sum((across(step) for step in range(5)), [])) == sorted([*range(50)] * 3)


def test_the_batches_of_an_update_hold_alike_lengths():
    lengths = np.random.default_rng(0).integers(10, 300, 640)
    order = UpdateOrder(lengths, 32, seed=0)
    updates = [lengths[order(step)] for step in range(20)]
    assert all((np.diff(update) >= 0).all() for update in updates)
    means = [update.mean() for update in updates]
    assert np.std(means) < np.std(lengths) / 4  # an update as a whole is a random choice


def test_estimated_lengths_order_samples_as_exact_ones_do(model_and_processor):
    maker = SampleMaker(model_and_processor[1], {2})
    exact = [len(maker(row)) for row in MIXED]
    assert np.argsort(maker.lengths(MIXED, "these")).tolist() == np.argsort(exact).tolist()


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


def test_line_ends_inside_strings_do_not_end_a_row(tmp_path):
    row = {"prompt": "a\u2028b\u0085c", "answer": "y"}
    (messages,) = read_rows(write_rows(tmp_path / "d.jsonl", [row]))
    assert messages[0]["content"][0]["text"] == row["prompt"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("https://example.com/a.png", "https://example.com/a.png is no path: training reads"),
        ("data:image/png;base64," + 5000 * "A", "A... is no path: training reads"),
        (300 * "b" + ".png", "no such image: " + 100 * "b" + "..."),
        ("~nobody-of-that-name/a.png", "no such image: ~nobody-of-that-name/a.png"),
    ],
)
def test_an_image_that_is_no_file_is_named_by_its_line(name, why, tmp_path):
    rows = [{"image": name, "prompt": "x", "answer": "y"}]
    with pytest.raises(InputError) as error:
        read_rows(write_rows(tmp_path / "d.jsonl", rows))
    _, line = str(error.value).splitlines()
    assert line.strip().startswith("line 1: ")
    assert why in line
    assert len(line) < 200


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


def test_an_image_url_item_is_a_path_beside_the_file(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    item = {"type": "image_url", "image_url": {"url": "a.png"}}
    user = {"role": "user", "content": [item, {"type": "text", "text": "x"}]}
    row = {"messages": [user, {"role": "assistant", "content": "y"}]}
    (messages,) = read_rows(write_rows(tmp_path / "d.jsonl", [row]))
    assert messages[0]["content"][0] == {"type": "image", "image": str(tmp_path / "a.png")}
    item["image_url"]["url"] = "gone.png"
    with pytest.raises(InputError, match="no such image: gone.png"):
        read_rows(write_rows(tmp_path / "d.jsonl", [row]))


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    settings = TrainSettings(steps=100, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


# -- adapters --


def perturb(model) -> None:
    """Give the zero factor of an adapter values."""
    mx.random.seed(0)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.random.normal(module.lora_b.shape) * 0.1


def logits_of(model, processor) -> np.ndarray:
    model.eval()
    inputs = processor(golden("new_names").messages("two_images"))
    return np.array(model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes))


ALL_PARTS = ("language", "connector", "vision")


@pytest.mark.parametrize("dora", [False, True])
def test_a_fresh_adapter_changes_nothing_and_a_fused_one_is_the_adapter(model_and_processor, dora):
    model, processor = model_and_processor
    before = logits_of(model, processor)
    add_adapter(model, adapted_paths(model, ALL_PARTS), dora=dora, rank=4, scale=2.0, dropout=0.0)
    assert relative_error(logits_of(model, processor), before) < 1e-5
    perturb(model)
    adapted = logits_of(model, processor)
    assert relative_error(adapted, before) > 1e-2
    fuse_adapter(model)
    assert relative_error(logits_of(model, processor), adapted) < 1e-5
    assert not any("lora" in name for name in named_arrays(model.parameters()))


def test_parts_choose_the_layers(model_and_processor):
    model, _ = model_and_processor
    for part, prefix in {
        "language": "language_model.",
        "connector": "multi_modal_projector.",
    }.items():
        assert all(path.startswith(prefix) for path in adapted_paths(model, [part]))
    assert len(adapted_paths(model, ALL_PARTS)) == sum(
        len(adapted_paths(model, [part])) for part in ALL_PARTS
    )


# -- runs of the command --


@pytest.fixture
def data(tmp_path) -> Path:
    """Ten pictures, each with an answer of its own."""
    rows = []
    for i in range(10):
        make_picture(20 + i, 30 - i, i).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "prompt": "Which?", "answer": f"no. {i * 37 % 100}"})
    return write_rows(tmp_path / "data.jsonl", rows)


def run(data: Path, output: Path, *options: str, model: Path = TINY) -> int:
    fixed = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return train([*fixed, "--save-every", "5", "--seed", "1", *options])


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def losses_of(output: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(output)]


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_every_method_learns_and_leaves_a_usable_adapter(data, tmp_path, capsys, method):
    output = tmp_path / "out"
    options = ["--method", method, "--steps", "12", "--batch-size", "5", "--learning-rate", "5e-3"]
    assert run(data, output, *options, "--validation", str(data)) == 0
    log = log_of(output)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["validation_loss"] > 0
    with Image.open(output / "loss.png") as plot:
        assert plot.size == (1800, 1000)
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


def test_fusing_replaces_neither_the_adapter_nor_the_model(data, tmp_path, capsys, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    assert run(data, model / "adapter", "--steps", "1", model=model) == 0
    arguments = ["--model", str(model), "--adapter", str(model / "adapter"), "--overwrite"]
    assert fuse([*arguments, "--output", str(model)]) == 2
    assert "which is needed" in capsys.readouterr().err
    monkeypatch.chdir(model)
    assert fuse([*arguments, "--output", "."]) == 2
    shutil.move(model / "adapter", tmp_path)
    arguments[3] = str(tmp_path / "adapter")
    assert fuse([*arguments, "--output", "."]) == 2
    assert (model / "model.safetensors").exists()


def test_a_full_adapter_is_fused_without_mlx_lm(data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert run(data, output, "--method", "full", "--steps", "1") == 0
    for name in [name for name in sys.modules if name.startswith("mlx_lm.")] + ["mlx_lm"]:
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ["--model", str(TINY), "--adapter", str(output), "--output", str(tmp_path / "f")]
    assert fuse(arguments) == 0


def test_positions_are_those_of_the_adapter_also_after_an_answer(data, tmp_path):
    output = tmp_path / "out"
    options = ["--method", "full", "--parts", "vision", "--steps", "3", "--learning-rate", "0.1"]
    assert run(data, output, *options) == 0
    used, fresh = load(TINY)[0], load(TINY)[0]
    patches = mx.random.uniform(shape=(1, 16, used.config.vision.patch_size**2 * 3))
    used.encode_views(patches, (4, 4))
    for model in (used, fresh):
        load_adapter(model, output)
    assert mx.array_equal(used.encode_views(patches, (4, 4)), fresh.encode_views(patches, (4, 4)))


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_fuse_writes_the_type_asked_for(data, tmp_path, method):
    output, fused = tmp_path / "out", tmp_path / "fused"
    assert run(data, output, "--method", method, "--steps", "1") == 0
    arguments = ["--model", str(TINY), "--adapter", str(output), "--output", str(fused)]
    assert fuse([*arguments, "--dtype", "float16"]) == 0
    weights = mx.load(str(fused / "model.safetensors"))
    assert isinstance(weights, dict)
    assert {value.dtype for value in weights.values()} == {mx.float16}


def test_the_config_says_which_type_was_saved(tmp_path):
    model, _ = load(TINY, dtype="float16")
    saving.save_checkpoint(model, TINY, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


def test_ten_samples_are_learnt_by_heart(data, tmp_path, capsys):
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_equals_not_stopping(data, tmp_path, optimizer):
    options = ["--batch-size", "3", "--steps", "10", "--dropout", "0.2", "--optimizer", optimizer]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(data, whole, *options) == 0
    assert run(data, parts, *options) == 0
    shutil.rmtree(parts / "checkpoints" / "step-0000010")  # as if stopped after step 5
    assert run(data, parts, *options, "--resume") == 0
    assert losses_of(parts) == losses_of(whole)
    ours, theirs = (load_tensors(o / "adapters.safetensors") for o in (parts, whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_compiled_steps_equal_plain_ones(data, tmp_path):
    for name in ("--compile", "--no-compile"):
        assert run(data, tmp_path / name, "--steps", "6", "--batch-size", "3", name) == 0
    compiled, plain = (losses_of(tmp_path / name) for name in ("--compile", "--no-compile"))
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)


def test_accumulated_batches_equal_one_large_batch(data, tmp_path):
    options = ["--steps", "4", "--learning-rate", "1e-3"]
    assert run(data, tmp_path / "one", *options, "--batch-size", "4") == 0
    assert run(data, tmp_path / "two", *options, "--batch-size", "2", "--accumulate", "2") == 0
    np.testing.assert_allclose(losses_of(tmp_path / "one"), losses_of(tmp_path / "two"), rtol=1e-4)


def test_a_run_is_not_overwritten_or_resumed_with_other_settings(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "5") == 0
    assert run(data, output, "--steps", "5") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert run(data, output, "--steps", "5", "--resume", "--rank", "3") == 2
    assert "rank was 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    "part", ["language_model.embedding_norm", "vision_tower.encoder.layers.0.self_attn.q_proj"]
)
def test_a_run_resumes_on_its_own_model_only(part, data, tmp_path, capsys):
    other = tmp_path / "other"
    model, _ = load(TINY)
    changed = dict(model.named_modules())[part]
    changed.weight = changed.weight + 0.25
    saving.save_checkpoint(model, TINY, other)
    assert run(data, tmp_path / "out", "--steps", "5") == 0
    assert run(data, tmp_path / "out", "--steps", "5", "--resume", model=other) == 2
    assert "cannot resume with other settings (model was " in capsys.readouterr().err


def test_resuming_what_has_not_begun_says_so(data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "--steps", "1", "--resume") == 0
    assert "out has no checkpoint: starting at update 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight_decay", math.nan), ("learning_rate", math.inf), ("scale", 0.0), ("warmup_steps", -1)],
)
def test_settings_that_train_nothing_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}, expected"):
        TrainSettings(**{name: value})


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


def test_half_a_line_in_the_log_does_not_stop_a_run(data, tmp_path):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "10") == 0
    whole = losses_of(output)
    log = output / "log.jsonl"
    (output / "checkpoints" / ".step-0000001.partial").mkdir()
    shutil.rmtree(output / "checkpoints" / "step-0000010")
    log.write_text(log.read_text()[:-20])
    assert run(data, output, "--steps", "10", "--resume") == 0
    assert losses_of(output) == whole
    assert not list((output / "checkpoints").glob(".step-*.partial"))


def command(data: Path, output: Path, *options: str) -> list[str]:
    fixed = ["--model", str(TINY), "--data", str(data), "--output", str(output), "--seed", "1"]
    return [sys.executable, "-m", "mlx_lfm2vl.train", *fixed, *options]


def test_what_was_learned_before_a_damaged_image_is_kept(data, tmp_path, capsys):
    assert run(data, tmp_path / "whole", "--steps", "8") == 0
    (number,) = UpdateOrder([1] * 10, 1, seed=1)(3)
    picture = data.parent / f"{number}.png"
    undamaged = picture.read_bytes()
    picture.write_bytes(undamaged[:-40])
    output = tmp_path / "out"
    assert run(data, output, "--steps", "8") == 2
    assert f"error: conversation {number + 1}: " in capsys.readouterr().err
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-0000003"]
    picture.write_bytes(undamaged)
    assert run(data, output, "--steps", "8", "--resume") == 0
    assert losses_of(output) == losses_of(tmp_path / "whole")


def test_a_killed_run_resumes_exactly(data, tmp_path):
    options = ["--steps", "40", "--save-every", "3", "--batch-size", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(data, whole, *options), check=True, capture_output=True)
    process = subprocess.Popen(command(data, killed, *options), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((killed / "checkpoints").glob("step-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(data, killed, *options, "--resume"), check=True, capture_output=True)
    assert losses_of(killed) == losses_of(whole)


def test_an_interrupted_run_is_saved_and_resumes(data, tmp_path):
    options = ["--steps", "400", "--save-every", "1000"]
    output = tmp_path / "out"
    process = subprocess.Popen(command(data, output, *options), stderr=subprocess.PIPE)
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


def test_two_processes_equal_one_with_twice_the_batch(data, tmp_path):
    launcher = Path(sys.executable).with_name("mlx.launch")
    if not launcher.exists():
        pytest.skip("mlx.launch is not installed")
    options = ["--steps", "6", "--learning-rate", "1e-3"]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(
        command(data, one, *options, "--batch-size", "4"), check=True, capture_output=True
    )
    launch = [str(launcher), "-n", "2", "--backend", "ring", "--"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [*launch, *command(data, two, *options, "--batch-size", "2")],
        check=True,
        capture_output=True,
        env=environment,
        timeout=120,
    )
    np.testing.assert_allclose(losses_of(one), losses_of(two), rtol=1e-4)


def run_two_processes(data: Path, folder: Path, *options: str) -> tuple[list[int], list[str]]:
    """Exit codes and errors of two processes, as on two machines: folder/out0 and folder/out1.

    "RANK" in an option is the process's number.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [[f"127.0.0.1:{server.getsockname()[1]}"] for server in sockets]
    (folder / "hosts.json").write_text(json.dumps(hosts))
    for server in sockets:
        server.close()
    processes = [
        subprocess.Popen(
            command(data, folder / f"out{rank}", *[o.replace("RANK", str(rank)) for o in options]),
            env={
                **os.environ,
                "MLX_RANK": str(rank),
                "MLX_HOSTFILE": str(folder / "hosts.json"),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def test_processes_that_stopped_at_different_updates_do_not_go_on_together(data, tmp_path):
    options = ["--steps", "4", "--save-every", "2", "--resume"]
    assert run_two_processes(data, tmp_path, *options)[0] == [0, 0]
    # The second machine has no checkpoint.
    codes, errors = run_two_processes(data, tmp_path, *options)
    assert codes == [2, 2]
    assert "this one is at update 4, one is at 4" in errors[0]
    assert "this one is at update 0, one is at 4" in errors[1]


@pytest.mark.parametrize("place", [0, 1])  # in an update: one for each process
def test_a_damaged_image_of_one_process_ends_all_with_a_checkpoint(place, data, tmp_path):
    number = UpdateOrder([1] * 10, 2, seed=1)(3)[place]
    picture = data.parent / f"{number}.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    codes, errors = run_two_processes(data, tmp_path, "--steps", "5")
    assert codes == [2, 2]
    other, met = sorted(errors)
    assert other == "error: another process could not use a conversation\n"
    assert met.startswith(f"error: conversation {number + 1}: ")
    saved = [path.name for path in (tmp_path / "out0" / "checkpoints").iterdir()]
    assert saved == ["step-0000003"]


def test_a_validation_image_damaged_on_one_machine_ends_all_with_a_checkpoint(data, tmp_path):
    for rank in range(2):
        picture = data.parent / f"validation{rank}.png"
        make_picture(20, 20, 1).save(picture)
        row = {"image": picture.name, "prompt": "Which?", "answer": "no. 1"}
        write_rows(tmp_path / f"validation{rank}.jsonl", [row])
    picture.write_bytes(picture.read_bytes()[:-40])
    validation = ["--validation", str(tmp_path / "validationRANK.jsonl"), "--validate-every", "2"]
    codes, errors = run_two_processes(data, tmp_path, "--steps", "5", *validation)
    assert codes == [2, 2]
    assert errors[0].endswith("error: another process could not use a conversation\n")
    assert errors[1].startswith("error: validation conversation 1: ")
    saved = [path.name for path in (tmp_path / "out0" / "checkpoints").iterdir()]
    assert saved == ["step-0000002"]


def test_show_prints_samples_and_trains_nothing(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--show", "2") == 0
    assert capsys.readouterr().out.count("⟦no. ") == 2
    assert not output.exists()


def test_a_quantized_base_is_trained_by_adapter_only(data, tmp_path, capsys):
    from weights import quantized

    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "wide")
    quantized(folder, lambda path: 4 if "language_model.model.layers" in path else None)
    assert run(data, tmp_path / "a", "--steps", "6", "--method", "full", model=folder) == 2
    assert "use --method lora or dora" in capsys.readouterr().err
    output = tmp_path / "b"
    assert run(data, output, "--steps", "10", "--learning-rate", "5e-3", model=folder) == 0
    assert losses_of(output)[-1] < losses_of(output)[0]
    for extra, dense in (([], False), (["--dequantize"], True)):
        fused = tmp_path / f"fused{dense}"
        arguments = ["--model", str(folder), "--adapter", str(output), "--output", str(fused)]
        assert fuse([*arguments, *extra]) == 0
        model, _ = load(fused)
        scales = [n for n in named_arrays(model.parameters()) if n.endswith(".scales")]
        assert bool(scales) != dense


def test_dora_refuses_bits_that_it_cannot_unpack(data, tmp_path, capsys):
    from weights import quantized

    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "wide")
    quantized(
        folder,
        lambda path: 6 if "language_model.model.layers" in path else None,
        overrides={"bits": 6},
    )
    options = ["--steps", "1", "--parts", "language"]
    assert run(data, tmp_path / "a", *options, "--method", "dora", model=folder) == 2
    assert "has 6 bits, which DoRA cannot train: use --method lora" in capsys.readouterr().err
    assert run(data, tmp_path / "a", *options, model=folder) == 0


def test_an_adapter_that_is_not_there_is_wrong_use(tmp_path, capsys):
    adapter = ["--model", str(TINY), "--adapter", str(tmp_path / "nope")]
    assert generate([*adapter, "--prompt", "x"]) == 2
    assert fuse([*adapter, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("nope does not exist") == 2
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_model_is_refused(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(data, output, "--steps", "5") == 0
    config = json.loads((output / "adapter_config.json").read_text())
    keys = [*config["lora_parameters"]["keys"], "language_model.layers.77.conv.in_proj"]
    edit_json(output / "adapter_config.json", lora_parameters__keys=keys)
    arguments = ["--model", str(TINY), "--adapter", str(output), "--prompt", "x"]
    assert generate(arguments) == 1
    assert "layers.77" in capsys.readouterr().err
    assert generate(["--model", str(TINY), "--adapter", str(tmp_path), "--prompt", "x"]) == 1
    assert "not an adapter" in capsys.readouterr().err
    (output / "adapter_config.json").unlink()
    assert generate(arguments) == 1
    assert "its run has not ended, --resume it" in capsys.readouterr().err


def test_mlx_lm_reads_our_adapter(data, tmp_path, model_and_processor):
    from mlx_lm.tuner.utils import load_adapters

    output = tmp_path / "out"
    assert run(data, output, "--steps", "5") == 0
    model, processor = model_and_processor
    load_adapters(model, str(output))
    theirs = logits_of(model, processor)
    ours, _ = load(TINY, dtype="float32")
    load_adapter(ours, output)
    np.testing.assert_array_equal(logits_of(ours, processor), theirs)


def test_a_failed_save_leaves_an_existing_checkpoint_as_it_was(tmp_path, monkeypatch, tiny):
    target = Path(shutil.copytree(TINY, tmp_path / "kept"))
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_weights", full_disk)
    with pytest.raises(InputError, match="cannot be written"):
        saving.save_checkpoint(tiny[0], TINY, target, overwrite=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_repaired_tiling_is_written_down(tmp_path):
    from weights import rewrite

    from mlx_lfm2vl.checkpoint.names import mlx_name

    source = Path(shutil.copytree(TINY, tmp_path / "source"))
    rewrite(source, mlx_name, transpose=True, metadata={"format": "mlx"})
    edit_json(source / "processor_config.json", image_processor__do_image_splitting=False)
    model, processor = load(source, dtype="float32")
    assert processor.image_config.do_image_splitting  # a published mistake, undone
    saving.save_checkpoint(model, source, tmp_path / "saved")
    assert load(tmp_path / "saved")[1].image_config == processor.image_config
