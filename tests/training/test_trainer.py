"""An update: the reference's gradients, the rate it takes, and the optimizer that applies it."""

import math
import re
from unittest.mock import Mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import GOLDEN, golden, load_tensors
from mlx.utils import tree_map
from training_runs import MIXED, losses

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.names import our_name
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.samples import Sample, SampleMaker
from mlx_lfm2vl.speed.launches import Cost, graph
from mlx_lfm2vl.training.adapters import train_fully
from mlx_lfm2vl.training.batches import make_batch
from mlx_lfm2vl.training.loss import loss_sum, on_device
from mlx_lfm2vl.training.optimizer import (
    DecayingMuon,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from mlx_lfm2vl.training.settings import TRAINED_PARTS, TrainSettings
from mlx_lfm2vl.training.trainer import Trainer


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
    loss, gradients = nn.value_and_grad(model, loss_sum)(model, *on_device(batch), batch.grids)
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
    _, expected = gradient(model, *on_device(batch), batch.grids)
    mx.eval(expected)
    model.language_model.recompute_gradients()
    model.vision_tower.encoder.recompute_gradients()
    _, again = gradient(model, *on_device(batch), batch.grids)
    for name, value in named_arrays(expected).items():
        assert np.allclose(named_arrays(again)[name], value, rtol=1e-4, atol=1e-6), name


def update_cost(model, settings, tmp_path) -> Cost:
    """The kernels of an update, from the gradients to the weights and the optimizer's state."""
    trainer = Trainer(
        model, Mock(lengths=lambda rows, _: [1] * len(rows)), [[]], settings, tmp_path
    )
    gradients = tree_map(mx.ones_like, model.trainable_parameters())
    mx.eval(gradients, model.parameters(), trainer.optimizer.state)
    norm = trainer._updater()(gradients, mx.array(0.5))
    changed = named_arrays(model.trainable_parameters()), named_arrays(trainer.optimizer.state)
    return Cost.of(graph(norm, *(value for arrays in changed for value in arrays.values())))


def test_a_compiled_update_is_a_few_kernels_per_trained_matrix(model_and_processor, tmp_path):
    model, _ = model_and_processor
    train_fully(model, ("language",))
    count = len(named_arrays(model.trainable_parameters()))
    plain, compiled = (
        update_cost(model, TrainSettings(compile=choice), tmp_path) for choice in (False, True)
    )
    assert compiled.kernels.total() <= 4 * count + 30
    assert plain.kernels.total() > 20 * count
    assert compiled.chain < 30


def test_no_gradient_goes_through_frozen_parts(model_and_processor):
    model, processor = model_and_processor
    model.train()
    model.freeze()
    model.language_model.layers[-1].unfreeze()
    batch = make_batch([SampleMaker(processor, {2})(MIXED[0])], model)
    arguments, grids = on_device(batch), batch.grids

    def products(*outputs: mx.array) -> int:
        names = [node.name for node in graph(*outputs)]
        return sum(name in ("Matmul", "AddMM") for name in names)

    def products_of_gradient(encode=Lfm2VL.encode_views) -> int:
        loss, gradients = nn.value_and_grad(model, loss_sum)(model, *arguments, grids, encode)
        return products(loss, *named_arrays(gradients).values())

    features = model.encode_views(arguments[-1][0], grids[0])
    whole, encoding = products_of_gradient(), products(features)
    mx.eval(features)
    assert whole - encoding == products_of_gradient(lambda *_: features)


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


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    settings = TrainSettings(steps=100, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight_decay", math.nan), ("learning_rate", math.inf), ("scale", 0.0), ("warmup_steps", -1)],
)
def test_settings_that_train_nothing_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}, expected"):
        TrainSettings(**{name: value})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 or more and less than 1"),
        ({"seed": 2**32}, "seed is 4294967296, expected 0 to 4294967295"),
        ({"parts": ()}, "are not among"),
        ({"parts": ("language", "embed")}, "parts ['embed'] are not among"),
        ({"save_every": 0}, "save_every is 0, expected a number above 0"),
    ],
)
def test_settings_beyond_their_limits_are_refused(setting, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TrainSettings(**setting)


def test_settings_at_their_limits_are_accepted():
    TrainSettings(dropout=0.0, seed=2**32 - 1, warmup_steps=0, weight_decay=0.0, save_every=1)
