"""The loss of a drafter: how far its distributions are from those of its target.

Follows the DSpark recipe (DeepSpec). A block begins at an anchor p of an answer. Its row j predicts
the token at p + 1 + j, given the true tokens before. The teacher is the target's own distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from ..model.drafter import DraftModel
from ..model.lfm2vl import Lfm2VL

CROSS_ENTROPY, DISTANCE, CONFIDENCE = 0.1, 0.9, 1.0  # weights of the three losses
DECAY = 4.0  # row j counts exp(-j / DECAY): late proposals are rarely reached
CHUNK_BYTES = 64 * 2**20  # of float32 logits at a time; the backward pass holds a few of them

Chunk = Callable[..., tuple[mx.array, mx.array]]


@dataclass(frozen=True)
class Blocks:
    """Blocks of B sequences, A anchors each, G rows each, for one gradient.

    Attributes:
        taps: (B, S, taps * C) outputs of the target's layers.
        finals: (B, A, G, C) states of the target after its final norm, which predict the labels.
        ids: (B, A, G + 1) int32, the anchor and the labels, which are the tokens after it.
        places: (B, A) int32, positions of the anchors.
        weights: (B, A, G) float32; 0 for rows that predict nothing of the same answer.
    """

    taps: mx.array
    finals: mx.array
    ids: mx.array
    places: mx.array
    weights: mx.array


def row_weights(valid: mx.array) -> mx.array:
    """Return the (..., G) weights of rows, of which the bool array `valid` says whether they count.

    A row counts only if all before it do.
    """
    decay = mx.exp(-mx.arange(valid.shape[-1]) / DECAY)
    return mx.cumprod(valid.astype(mx.float32), axis=-1) * decay


def embed_blocks(drafter: DraftModel, target: Lfm2VL, anchors: mx.array) -> mx.array:
    """Embed blocks: (B, A) ids of anchors -> (B, A, G, C) float32, masks after each anchor."""
    config, embed = drafter.config, target.language_model.embed_tokens
    first = embed(anchors)[:, :, None]
    masks = embed(mx.array([config.mask_token_id]))
    shape = (*anchors.shape, config.block_size - 1, first.shape[-1])
    return mx.concatenate([first, mx.broadcast_to(masks, shape)], axis=2).astype(mx.float32)


def drafter_loss(drafter: DraftModel, target: Lfm2VL, blocks: Blocks) -> tuple[mx.array, mx.array]:
    """Return the sum of the weighted losses, and how many proposals would be accepted.

    Args:
        drafter: to train, in float32.
        target: frozen; its embedding and output head are used.
        blocks: what to learn.

    Returns:
        The loss as a scalar, to be divided by the sum of all weights. The expected number of
        accepted proposals, summed over blocks, if all sampling is at temperature 1.
    """
    embedded = embed_blocks(drafter, target, blocks.ids[..., 0])
    states = drafter.block_states(embedded, blocks.taps, blocks.places)
    codes = drafter.markov_head.markov_w1(blocks.ids[..., :-1])
    after = drafter.markov_head.markov_w2.weight
    sure = list[mx.array]()
    if drafter.config.has_confidence:
        sure = [drafter.confidence_head.proj.weight, drafter.confidence_head.proj.bias]
    dtype = target.language_model.embedding_norm.weight.dtype

    def of_chunk(finals: mx.array, labels: mx.array, weights: mx.array) -> Chunk:
        """Return the loss of some blocks as a function of what is learned."""

        def loss_of(
            states: mx.array, codes: mx.array, after: mx.array, *sure: mx.array
        ) -> tuple[mx.array, mx.array]:
            logits = target.head(states.astype(dtype)).astype(mx.float32) + codes @ after.T
            teacher = mx.softmax(target.head(finals.astype(dtype)).astype(mx.float32), axis=-1)
            apart = mx.abs(mx.softmax(logits, axis=-1) - mx.stop_gradient(teacher)).sum(axis=-1)
            loss = CROSS_ENTROPY * nn.losses.cross_entropy(logits, labels) + DISTANCE * apart
            accepted = mx.stop_gradient(1 - 0.5 * apart)
            if sure:
                guess = mx.concatenate([states, codes], axis=-1) @ sure[0][0] + sure[1]
                loss = loss + CONFIDENCE * nn.losses.binary_cross_entropy(
                    guess, accepted, reduction="none"
                )
            survival = mx.cumprod(accepted * (weights > 0), axis=-1)
            return (loss * weights).sum(), survival.sum()

        return loss_of

    count, rows = blocks.places.size, blocks.ids.shape[-1] - 1
    size = max(1, CHUNK_BYTES // (4 * rows * drafter.config.vocab_size))
    parts = [states, codes, blocks.finals, blocks.ids[..., 1:], blocks.weights]
    flat = [part.flatten(0, 1) for part in parts]
    total, accepted = mx.array(0.0), mx.array(0.0)
    for start in range(0, count, size):
        state, code, *given = (part[start : start + size] for part in flat)
        run = of_chunk(*given)
        if count > size:
            run = cast(Chunk, mx.checkpoint(run))
        loss, survived = run(state, code, after, *sure)
        total, accepted = total + loss, accepted + survived
    return total, accepted
