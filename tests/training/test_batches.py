"""Batches: the loss of each sample alone, and an order that reads every sample once."""

import math
from dataclasses import replace

import numpy as np
import pytest
from training_runs import MIXED, losses

from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.training.batches import UpdateOrder, make_batch
from mlx_lfm2vl.training.loss import loss_sum, on_device


def test_a_batch_of_mixed_lengths_has_the_loss_of_each_sample_alone(model_and_processor):
    model, processor = model_and_processor
    maker = SampleMaker(processor, {2})
    alone = sum(losses(model, maker, [row]) for row in MIXED)
    assert losses(model, maker, MIXED) == pytest.approx(alone, rel=1e-5)
    assert losses(model, maker, MIXED[::-1]) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("multiple", [1, 7, 32])
def test_a_batch_is_padded_no_further_than_asked(model_and_processor, multiple):
    model, processor = model_and_processor
    samples = [SampleMaker(processor, {2})(row) for row in MIXED]
    batch = make_batch(samples, model, multiple)
    needed = max(map(len, samples)) - 1, batch.tokens
    assert (batch.input_ids.shape[1], len(batch.positions)) == tuple(
        math.ceil(length / multiple) * multiple for length in needed
    )


def test_padding_changes_no_loss(model_and_processor):
    model, processor = model_and_processor
    samples = [SampleMaker(processor, {2})(row) for row in MIXED]
    bare, padded = (make_batch(samples, model, multiple) for multiple in (1, 32))
    plain, same = (loss_sum(model, *on_device(batch), batch.grids) for batch in (bare, padded))
    assert same.item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_positions_before_all_answers_are_left_out(model_and_processor):
    model, processor = model_and_processor
    samples = [SampleMaker(processor, {2})(row) for row in MIXED]
    batch = make_batch(samples, model)
    length = batch.input_ids.shape[1]
    assert batch.last == length - min(s.is_answer[1:].argmax() for s in samples) < length
    rows, places = np.divmod(batch.positions, batch.last)
    whole = replace(batch, last=length, positions=rows * length + places + length - batch.last)
    some, every = (loss_sum(model, *on_device(b), b.grids).item() for b in (batch, whole))
    assert some == pytest.approx(every, rel=1e-5)


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
