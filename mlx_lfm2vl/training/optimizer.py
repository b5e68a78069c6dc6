"""The optimizer of a run, and the learning rate of each update."""

import math

import mlx.core as mx
import mlx.optimizers as optim

from .settings import TrainSettings

BETAS = (0.9, 0.99)  # of AdamW; runs are short, so squares are averaged over only 100 updates
MUON_RATE = 10  # ratio of Muon's learning rate to AdamW's


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of a step: linear warmup to the peak, then the schedule to the final fraction."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    rest = max(1, settings.steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / rest)
    left = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[settings.schedule]
    low = settings.final_fraction
    return settings.learning_rate * (low + (1 - low) * left)


class DecayingMuon(optim.Muon):
    """Muon with weight decay that acts on the weights.

    MLX's Muon adds the decay to the gradient, and then orthogonalizes the sum, which discards its
    size. The weights would grow without limit, until updates no longer change the network.
    """

    def __init__(self, learning_rate: float, decay: float) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=0.0)
        self.decay = decay

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]
    ) -> mx.array:
        kept = 1 - self.decay * self.learning_rate.astype(parameter.dtype)
        return super().apply_single(gradient, kept * parameter, state)


def make_optimizer(settings: TrainSettings, betas: tuple[float, float] = BETAS) -> optim.Optimizer:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    adamw = optim.AdamW(
        learning_rate=settings.learning_rate,
        betas=list(betas),
        weight_decay=settings.weight_decay,
        bias_correction=True,  # without it the first steps are up to three times as long
    )
    if settings.optimizer == "adamw":
        return adamw
    muon = DecayingMuon(settings.learning_rate, settings.weight_decay)
    return optim.MultiOptimizer([muon, adamw], [_is_hidden_matrix])


def _is_hidden_matrix(path: str, parameter: mx.array) -> bool:
    return parameter.ndim == 2 and not any(part in path for part in ("embed", "head", "markov"))


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Set AdamW's rate, and Muon's, whose updates are scaled differently, to MUON_RATE times it."""
    if isinstance(optimizer, optim.MultiOptimizer):
        muon, adamw = optimizer.optimizers
        muon.learning_rate, adamw.learning_rate = MUON_RATE * rate, rate
    else:
        optimizer.learning_rate = rate
