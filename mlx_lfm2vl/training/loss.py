"""The loss: cross entropy of what the assistant says."""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..model.lfm2vl import Lfm2VL
from ..prompt.samples import Sample
from .batches import Batch, make_batch
from .frozen import Finish, FrozenViews


def loss_sum(
    model: Lfm2VL,
    input_ids: mx.array,
    index: mx.array,
    last: int,
    positions: mx.array,
    targets: mx.array,
    weights: mx.array,
    views: Sequence[mx.array],
    grids: Sequence[tuple[int, int]],
    finish: Finish = Lfm2VL.encode_views,
) -> mx.array:
    """Sum of the cross entropies of the assistant's tokens; most arguments are fields of `Batch`.

    The output head runs only on the positions to learn, and the last layers from the first of these
    on.

    Args:
        model: to train.
        input_ids: see `Batch`, as for the next five.
        index: for `Lfm2VL.join`.
        last: number of positions whose hidden states are computed.
        positions: that predict an id of the assistant.
        targets: the ids to predict.
        weights: of the targets.
        views: (n, N, ...) for each grid: patches, or what `FrozenViews` made of them.
        grids: of the views.
        finish: makes image features of the views of one grid.
    """
    features = [finish(model, group, grid) for group, grid in zip(views, grids, strict=True)]
    joined = mx.concatenate(features) if features else None
    hidden = model.language_model(model.join(input_ids, joined, index), None, last)
    logits = model.head(hidden.flatten(0, 1)[positions]).astype(mx.float32)
    return (nn.losses.cross_entropy(logits, targets) * weights).sum()


def on_device(
    batch: Batch, frozen: FrozenViews | None = None
) -> tuple[mx.array, mx.array, int, mx.array, mx.array, mx.array, list[mx.array]]:
    """The fields of a batch, in the order that `loss_sum` takes them.

    Args:
        batch: on the host.
        frozen: computes what is not trained of the image features; its `finish` does the rest.
    """
    return (
        mx.array(batch.input_ids),
        mx.array(batch.index),
        batch.last,
        mx.array(batch.positions),
        mx.array(batch.targets),
        mx.array(batch.weights),
        frozen(batch) if frozen else [mx.array(patches) for patches in batch.pixel_values],
    )


def mean_loss(frozen: FrozenViews, samples: Iterable[Sample]) -> float:
    """Mean cross entropy of the assistant's tokens in some samples, in nats."""
    model = frozen.model
    model.eval()
    total, tokens = 0.0, 0
    for sample in samples:  # one at a time: no larger than what is trained on
        batch = make_batch([sample], model)
        loss = loss_sum(model, *on_device(batch, frozen), batch.grids, frozen.finish)
        total, tokens = total + as_float(loss), tokens + batch.tokens
    return total / tokens


def as_float(value: mx.array) -> float:
    """The value of a scalar array as a Python float."""
    number = value.item()
    assert isinstance(number, (int, float))
    return float(number)
