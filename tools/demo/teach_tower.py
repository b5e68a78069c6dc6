"""Train the demo model's tower and connector to produce the image tokens of `codes.py`.

usage: python tools/demo/teach_tower.py MODEL OUT [--steps 6000] [--seed 0]
"""

import argparse
import json
import random as stdlib_random
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from codes import COUNT, SLOTS, STARTS, dictionary, field, patch_codes, tells, token_codes
from draw_scene import draw, train_style
from scenes import TRAIN_WORLD, Scene, make_scene

from mlx_lfm2vl import load
from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.patches import process_image
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.saving import save_checkpoint
from mlx_lfm2vl.training.adapters import train_fully
from mlx_lfm2vl.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from mlx_lfm2vl.training.settings import TrainSettings

KINDS = {"shapes": 3, "text": 7, "mixed": 2}
WORLD = replace(TRAIN_WORLD, large=0.0)  # one view
BATCH = 32
PART = 256  # pictures drawn at a time
MOST = 30_000  # pictures drawn in total, all of which are kept (6 GB)
PLENTY = 4096  # pictures drawn before the first update
LOOK = 250  # updates between two measurements
ATTENTION = 4.0  # weight of image tokens that describe a thing or a character
PLACE = 3.0  # weight of the image tokens' error in position
HELP = 0.3  # weight of the auxiliary loss on patches
SHARPNESS = 10.0  # factor on an image token's character codes, to make them logits


@dataclass(frozen=True)
class Picture:
    """A scene as input to the tower, and the codes to predict.

    Attributes:
        grid: (rows, columns) of patches.
        patches: (rows * columns, patch_dim) uint8.
        tokens: `token_codes`, float16.
        under: `patch_codes`, float16.
    """

    grid: tuple[int, int]
    patches: np.ndarray
    tokens: np.ndarray
    under: np.ndarray


class Taught(nn.Module):
    """A model with an auxiliary layer that predicts codes from patches; it is not saved."""

    def __init__(self, model: Lfm2VL) -> None:
        super().__init__()
        self.model = model
        self.under = nn.Linear(model.vision_tower.post_layernorm.weight.size, COUNT)


def draw_pictures(config: ImageConfig, seed: str, count: int) -> list[Picture]:
    """Draw scenes of the training world: of each two invented, the one with more content."""
    random, pictures = stdlib_random.Random(seed), []
    while len(pictures) < count:
        (kind,) = random.choices(list(KINDS), list(KINDS.values()))
        scenes = [make_scene(random, kind, WORLD) for _ in range(2)]
        scene = max(scenes, key=_fullness)
        width, height = scene.size
        plan = plan_image(height, width, config)
        if plan.grid != (1, 1):
            continue
        (patches,) = process_image(draw(scene, train_style(random)), plan, config.resample)
        rows, columns = (side // plan.patch_size for side in plan.canvas)
        factor = config.downsample_factor
        tokens = token_codes(scene, (rows // factor, columns // factor)).astype(np.float16)
        under = patch_codes(scene, (rows, columns)).astype(np.float16)
        pictures.append(Picture((rows, columns), patches, tokens, under))
    return pictures


def _fullness(scene: Scene) -> int:
    """The amount of content; a shape counts as much as two characters."""
    return 2 * len(scene.objects) + (len("".join(scene.text.lines)) if scene.text else 0)


def loss(
    taught: Taught,
    patches: mx.array,
    grid: tuple[int, int],
    tokens: mx.array,
    under: mx.array,
    codes: mx.array,
) -> mx.array:
    """Squared errors of codes, and cross entropies for codes that choose one of several words.

    Args:
        taught: the model and its auxiliary layer.
        patches: (B, N, patch_dim).
        grid: (rows, columns) of patches.
        tokens: (B, F, COUNT), the true codes of image tokens.
        under: (B, N, COUNT), the true codes of patches.
        codes: (COUNT, HIDDEN), the vectors of codes.
    """
    model = taught.model
    seen = model.encode_patches(patches, grid)
    vectors = model.multi_modal_projector(seen.reshape(seen.shape[0], *grid, -1))
    errors = (vectors - tokens @ codes).square().sum(axis=-1)
    weights = mx.where(tells(tokens), ATTENTION, 1.0)
    main = (errors * weights).sum() / weights.sum()
    told = vectors @ codes.T
    is_thing = field(tokens, "is").sum(axis=-1)
    missed = (field(told, "box") - field(tokens, "box")).square().sum(axis=-1)
    main = main + PLACE * (missed * is_thing).sum() / is_thing.sum()
    logits = mx.split(SHARPNESS * field(told, "character"), SLOTS, axis=-1)
    characters = mx.split(field(tokens, "character"), SLOTS, axis=-1)
    words = sum(confusion(*pair) for pair in zip(logits, characters, strict=True))
    guess = taught.under(seen)
    helping = (field(guess, "box") - field(under, "box")).square().sum(-1).mean()
    for name in ("is", "background", "color", "shape", "size", "place", "line", "character"):
        helping = helping + confusion(field(guess, name), field(under, name))
    return main + words + HELP * helping


def confusion(logits: mx.array, words: mx.array) -> mx.array:
    """Mean cross entropy over positions that have a word; both arguments are (..., words)."""
    is_told = words.sum(axis=-1) > 0
    losses = nn.losses.cross_entropy(logits, words.argmax(axis=-1))
    return (losses * is_told).sum() / mx.maximum(is_told.sum(), 1)


def measure(model: Lfm2VL, pictures: Sequence[Picture], codes: np.ndarray) -> dict[str, float]:
    """Compare image tokens with the true codes.

    Args:
        model: the model to measure.
        pictures: what to measure it on.
        codes: (COUNT, HIDDEN), the vectors of codes.

    Returns:
        The mean squared error of "box", and shares of right answers: pictures in which exactly the
        tokens of shapes say so ("shapes found"), shapes' attributes, and characters.
    """
    right: dict[str, list[float]] = defaultdict(list)
    for picture in pictures:
        told = np.array(model.encode_views(mx.array(picture.patches[None]), picture.grid)) @ codes.T
        true = picture.tokens.astype(np.float32)
        is_shape = true[:, STARTS["is"]] > 0
        right["shapes found"].append(((told[:, STARTS["is"]] > 0.5) == is_shape).all())
        for name in ("color", "shape", "size"):
            guess, word = (field(values[is_shape], name).argmax(-1) for values in (told, true))
            right[name].extend(guess == word)
        missed = field(told[is_shape], "box") - field(true[is_shape], "box")
        right["box"].extend(np.square(missed).mean(-1))
        guesses, words = (
            field(values, "character").reshape(len(true), SLOTS, -1) for values in (told, true)
        )
        is_told = words.sum(-1) == 1
        right["character"].extend(guesses[is_told].argmax(-1) == words[is_told].argmax(-1))
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


class Supply:
    """Training pictures, and a process that draws more of them during training."""

    def __init__(self, config: ImageConfig, seed: int, pool: Executor) -> None:
        self.config, self.seed, self.pool = config, seed, pool
        self.random = np.random.default_rng(seed)
        self.pictures: dict[tuple[int, int], list[Picture]] = defaultdict(list)
        self.count = 0
        self.pending = self._draw()

    def batch(self) -> list[Picture]:
        """BATCH pictures with the same grid of patches."""
        while self.pending and (self.count < PLENTY or self.pending.done()):
            for picture in self.pending.result():
                self.pictures[picture.grid].append(picture)
            self.count += PART
            self.pending = self._draw() if self.count < MOST else None
        grids = [grid for grid, pictures in self.pictures.items() if len(pictures) >= BATCH]
        shares = np.array([len(self.pictures[grid]) for grid in grids], float)
        pictures = self.pictures[grids[self.random.choice(len(grids), p=shares / shares.sum())]]
        return [pictures[i] for i in self.random.choice(len(pictures), BATCH, replace=False)]

    def _draw(self) -> Future[list[Picture]]:
        seed = f"tower/{self.seed}/{self.count // PART}"
        return self.pool.submit(draw_pictures, self.config, seed, PART)


def as_arrays(pictures: Sequence[Picture]) -> list[mx.array]:
    """Patches, codes of tokens and codes of patches, as `loss` takes them."""
    stacks = [
        np.stack([getattr(picture, name) for picture in pictures])
        for name in ("patches", "tokens", "under")
    ]
    return [mx.array(stacks[0]), *(mx.array(stack).astype(mx.float32) for stack in stacks[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the demo model's tower")
    add = parser.add_argument
    add("model", type=Path, help="checkpoint folder to start from")
    add("out", type=Path, help="checkpoint folder to write")
    add("--steps", type=int, default=6000, help="updates; default: 6000")
    add("--learning-rate", type=float, default=1.5e-3, help="peak; default: 0.0015")
    add("--seed", type=int, default=0, help="seed of the pictures; default: 0")
    options = parser.parse_args()
    settings = TrainSettings(
        method="full",
        parts=("connector", "vision"),
        steps=options.steps,
        optimizer="muon",
        learning_rate=options.learning_rate,
        warmup_steps=50,
        weight_decay=0.15,
    )
    model, processor = load(options.model, dtype="float32")
    mx.random.seed(options.seed)
    taught = Taught(model)
    train_fully(model, settings.parts)
    optimizer = make_optimizer(settings)
    optimizer.init(taught.trainable_parameters())
    gradient = nn.value_and_grad(taught, loss)
    codes, config = dictionary(), processor.image_config
    held_out, table = draw_pictures(config, "measured", 200), mx.array(codes)
    with ProcessPoolExecutor(1) as pool:
        supply = Supply(config, options.seed, pool)
        for step in range(options.steps):
            pictures = supply.batch()
            started = time.perf_counter()
            patches, tokens, under = as_arrays(pictures)
            model.train()
            value, grads = gradient(taught, patches, pictures[0].grid, tokens, under, table)
            grads, _ = optim.clip_grad_norm(grads, settings.max_grad_norm)
            set_learning_rate(optimizer, learning_rate(settings, step))
            optimizer.update(taught, grads)
            mx.eval(value, taught.trainable_parameters(), optimizer.state)
            entry = {"step": step + 1, "loss": value.item(), "pictures": supply.count}
            entry["seconds"] = round(time.perf_counter() - started, 3)
            if (step + 1) % LOOK == 0 or step + 1 == options.steps:
                model.eval()
                entry |= measure(model, held_out, codes)
            print(json.dumps(entry), flush=True)
    save_checkpoint(model, options.model, options.out, overwrite=True)


if __name__ == "__main__":
    main()
