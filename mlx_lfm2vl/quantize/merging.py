"""What a quantized layer loses when an adapter is merged into it, and learned rounding of the sum.

An adapter's update is often smaller than half a step between two codes. Rounding the sum of both to
the nearest code then gives the old code again, or a neighbor that has little to do with the update.
Learned rounding keeps the outputs of the sum instead of its weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..arrays import named_arrays
from ..checkpoint.packing import Scheme
from ..model.lfm2vl import Lfm2VL
from ..model.packed_layers import repack
from ..prompt.samples import Sample
from .learned_rounding import learn_rounding
from .loss_report import observe

Answers = Sequence[np.ndarray]  # log-probabilities at the answer positions of each sample, (P, V)


@dataclass(frozen=True)
class MergeLoss:
    """Mean KL divergences in nats of the next-token distributions at answer positions.

    Attributes:
        learnt: from base with adapter to base: what the adapter has changed.
        lost: from base with adapter to the merged model.
        kept: from the merged model to base.
    """

    learnt: float
    lost: float
    kept: float

    @property
    def is_too_much(self) -> bool:
        """Whether the merged model is nearer to the base than to what was learned, or farther from
        what was learned than the base is."""
        return self.lost > min(self.kept, self.learnt)


def observe_answers(
    model: Lfm2VL,
    samples: Sequence[Sample],
    report: Callable[[int, int], object] = lambda *_: None,
) -> Answers:
    """Run a model over samples and keep what it predicts for the answers.

    Args:
        model: of any kind.
        samples: with answers.
        report: called with the number of samples observed so far and the total.
    """
    answers = []
    for number, sample in enumerate(samples, 1):
        answers.append(observe(model, sample).logprobs["answer"])
        report(number, len(samples))
    return answers


def measure_merge(adapted: Answers, base: Answers, merged: Answers) -> MergeLoss:
    """Compare what three models predict for the same samples."""
    return MergeLoss(
        learnt=divergence(adapted, base),
        lost=divergence(adapted, merged),
        kept=divergence(merged, base),
    )


def divergence(source: Answers, other: Answers) -> float:
    """Return the mean KL divergence over all positions, in nats."""
    p, q = np.concatenate(source), np.concatenate(other)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def learn_merged(
    model: Lfm2VL,
    schemes: Mapping[str, Scheme],
    samples: Sequence[Sample],
    *,
    report: Callable[[int, int], object] = lambda *_: None,
) -> None:
    """Quantize layers that an adapter was merged into, with learned rounding, in place.

    Args:
        model: with the layers unpacked. It computes in float32 meanwhile, because learning
            subtracts outputs from each other.
        schemes: path of each of these layers -> how its base was quantized.
        samples: what to learn from, preferably what the adapter was trained on.
        report: called with the number of layers learned so far and the total.

    Raises:
        InputError: the samples reach none of the layers.
    """
    dtype = model.language_model.embedding_norm.weight.dtype
    model.set_dtype(mx.float32)
    packed = learn_rounding(model, schemes, samples, dtype=dtype, report=report)
    weights = named_arrays(model.parameters())
    for path, scheme in schemes.items():
        if path not in packed:  # no sample reaches it, such as a tower without images
            weight = weights[f"{path}.weight"].astype(dtype)
            packed[path] = tuple(mx.quantize(weight, scheme.group_size, scheme.bits, scheme.mode))
    repack(model, packed, schemes)
    model.set_dtype(dtype)
    mx.eval(model.parameters())
