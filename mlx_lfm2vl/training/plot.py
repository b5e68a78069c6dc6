"""Plot the loss of a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..drawing import (
    Canvas,
    Theme,
    linear_ticks,
    log_ticks,
    save_both,
    shorten,
    tick_labels,
    width_of,
)
from .log import read_log

WIDTH, HEIGHT = 900, 500  # points
TOP, RIGHT, BOTTOM, EDGE = 86, 40, 58, 24  # margins around the curves; EDGE around everything else
PADDING = 0.03  # share of an axis beyond the outermost values
MEANS = 50  # a run of more than twice as many steps is averaged over this many groups
FEW = 30  # up to this many points are marked by dots
LOGARITHMIC_FROM = 100  # ratio of the largest to the smallest loss
FLAT = 1e-4  # a smaller relative change of the loss is not magnified

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """What a picture shows: its title, and the log's keys of the two curves."""

    title: str
    training: str
    validation: str


LOSS = Curves("Loss per token", "loss", "validation_loss")
TOKENS = Curves("Tokens per round", "expected", "tokens_per_round")  # of a drafter


def plot_log(log: Path, picture: Path, origin: str, curves: Curves = LOSS) -> None:
    """Draw training loss (blue) and validation loss (orange) over steps from a JSONL log.

    Args:
        log: written by a run; if it has no entries, the picture says so.
        picture: PNG to write; a version for dark pages is written beside it.
        origin: model, chip, date or the like, shown below the title.
        curves: others to draw.

    Raises:
        InputError: the pictures cannot be written.
    """
    entries = read_log(log)
    save_both(lambda theme: draw_losses(entries, origin, theme, curves), picture)


def draw_losses(
    entries: Sequence[dict[str, Any]], origin: str, theme: Theme, curves: Curves = LOSS
) -> Canvas:
    """Draw the picture of a log's entries."""
    canvas = Canvas(WIDTH, HEIGHT, theme)
    canvas.text(EDGE, 52, shorten(origin, WIDTH - 2 * EDGE), color=theme.muted)
    training, validation = (_points(entries, key) for key in (curves.training, curves.validation))
    if not training + validation:
        canvas.text(EDGE, 28, curves.title, size=18)
        canvas.text(WIDTH / 2, HEIGHT / 2, "no steps yet", color=theme.muted, align="middle")
        return canvas
    axes = _Axes(canvas, training + validation)
    axes.draw()
    canvas.text(EDGE, 28, f"{curves.title}, logarithmic" if axes.is_log else curves.title, size=18)
    means, size = _means(training)
    legend = []
    if means:
        axes.curve(training, theme.pale_blue, 1)
        axes.curve(means, theme.blue, 2)
        legend += [("training", theme.pale_blue), (f"mean of {size:,} steps", theme.blue)]
    elif training:
        axes.curve(training, theme.blue, 2)
        legend.append(("training", theme.blue))
    if validation:
        axes.curve(validation, theme.orange, 2)
        legend.append(("validation", theme.orange))
    canvas.legend(WIDTH - RIGHT, 28, legend)
    return canvas


def _points(entries: Sequence[dict[str, Any]], key: str) -> Points:
    """(step, loss) of the entries whose loss is there and finite."""
    return [(e["step"], e[key]) for e in entries if key in e and math.isfinite(e[key])]


def _means(points: Points) -> tuple[Points, int]:
    """Mean step and loss of groups of equal size, and that size; a short run has no groups."""
    size = math.ceil(len(points) / MEANS)
    if len(points) <= 2 * MEANS:
        return [], size
    whole = len(points) // size * size  # drops the oldest points that fill no group
    groups = np.array(points[-whole:]).reshape(-1, size, 2)
    return [(float(step), float(loss)) for step, loss in groups.mean(axis=1)], size


class _Axes:
    """Map steps and losses to points on the canvas."""

    def __init__(self, canvas: Canvas, points: Points) -> None:
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        low, high = min(losses), max(losses)
        self.canvas = canvas
        self.is_log = low > 0 and high / low > LOGARITHMIC_FROM
        self.steps = _padded(min(steps), max(steps), 0.5)
        if self.is_log:
            self.low, self.high = _padded(math.log(low), math.log(high), 1)
            self.ticks = log_ticks(math.exp(self.low), math.exp(self.high))
            self.labels = [f"{tick:,g}" for tick in self.ticks]
        else:
            is_flat = high - low <= FLAT * abs(high)
            margin = 0.05 * abs(high) or 1.0
            self.low, self.high = _padded(low, low if is_flat else high, margin)
            if low >= 0:
                self.low = max(0.0, self.low)
            self.ticks = linear_ticks(self.low, self.high)
            self.labels = tick_labels(self.ticks)
        self.left = EDGE + max(map(width_of, self.labels)) + 10
        self.right, self.bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(self, step: float) -> float:
        first, last = self.steps
        return self.left + (self.right - self.left) * (step - first) / (last - first)

    def y(self, loss: float) -> float:
        value = math.log(loss) if self.is_log else loss
        return self.bottom - (self.bottom - TOP) * (value - self.low) / (self.high - self.low)

    def draw(self) -> None:
        """Draw horizontal lines at round losses and label round steps below."""
        canvas, muted = self.canvas, self.canvas.theme.muted
        for loss, label in zip(self.ticks, self.labels, strict=True):
            y = self.y(loss)
            canvas.line([(self.left, y), (self.right, y)], canvas.theme.grid, 1)
            canvas.text(self.left - 10, y, label, color=muted, align="right")
        canvas.line([(self.left, self.bottom), (self.right, self.bottom)], muted, 1)
        steps = [step for step in linear_ticks(*self.steps, most=10) if step == int(step)]
        for step, label in zip(steps, tick_labels(steps), strict=True):
            x = self.x(step)
            canvas.line([(x, self.bottom), (x, self.bottom + 5)], muted, 1)
            canvas.text(x, self.bottom + 16, label, color=muted, align="middle")
        middle = (self.left + self.right) / 2
        canvas.text(middle, HEIGHT - 18, "step", color=muted, align="middle")

    def curve(self, points: Points, color: str, width: float) -> None:
        """Draw a line through points, with dots on them if they are few."""
        places = [(self.x(step), self.y(loss)) for step, loss in points]
        self.canvas.line(places, color, width)
        for x, y in places if len(places) <= FEW else []:
            self.canvas.dot(x, y, color, 3)


def _padded(low: float, high: float, if_equal: float) -> tuple[float, float]:
    margin = PADDING * (high - low) or if_equal
    return low - margin, high + margin
