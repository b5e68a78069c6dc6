"""Teach the demo model's tower and connector what its image tokens are to tell (see `codes.py`).

usage: python tools/demo/teach_tower.py MODEL OUT [--steps 4000] [--seed 0]
"""

import argparse
import json
import random as stdlib_random
import shutil
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from codes import (
    COUNT,
    SLOTS,
    STARTS,
    dictionary,
    field,
    patch_codes,
    tells,
    token_codes,
)
from scenes import TRAIN_WORLD, draw, make_scene, train_style

from mlx_lfm2vl import load
from mlx_lfm2vl.config import ImageConfig, read_image_config
from mlx_lfm2vl.geometry import plan_image
from mlx_lfm2vl.image_processor import process_image
from mlx_lfm2vl.saving import write_weights
from mlx_lfm2vl.training.settings import TrainSettings
from mlx_lfm2vl.training.trainer import learning_rate, make_optimizer, set_learning_rate

KINDS = {"shapes": 4, "text": 6, "mixed": 2}
WORLD = replace(TRAIN_WORLD, large=0.0)  # one view
BATCH = 32
PART = 256  # pictures drawn at a time
MOST = 60_000  # pictures kept; when there are as many, no more are drawn
PLENTY = 4096  # pictures before the first update
ATTENTION = 4.0  # weight of image tokens that have something to tell
PLACE = 3.0  # weight of where things are, of image tokens
HELP = 0.3  # weight of what helps along
SHARPNESS = 10.0  # of an image token's characters, in their cross entropy


@dataclass(frozen=True)
class Picture:
    """A scene as the tower gets it, and what it is to tell.

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
    """A tower and its connector, with a layer for what lies under patches, thrown away later."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.under = nn.Linear(model.vision_tower.post_layernorm.weight.size, COUNT)


def draw_pictures(config: ImageConfig, seed: str, count: int) -> list[Picture]:
    """Draw scenes of the training world, the fuller one of two each time."""
    random, pictures = stdlib_random.Random(seed), []
    while len(pictures) < count:
        (kind,) = random.choices(list(KINDS), list(KINDS.values()))
        scenes = [make_scene(random, kind, WORLD) for _ in range(2)]
        scene = max(scenes, key=lambda scene: len(scene.objects))
        plan = plan_image(*scene.size, config)
        if plan.grid != (1, 1):
            continue
        (patches,) = process_image(draw(scene, train_style(random)), plan, config.resample)
        rows, columns = (side // plan.patch_size for side in plan.canvas)
        factor = config.downsample_factor
        tokens = token_codes(scene, (rows // factor, columns // factor)).astype(np.float16)
        under = patch_codes(scene, (rows, columns)).astype(np.float16)
        pictures.append(Picture((rows, columns), patches, tokens, under))
    return pictures


def loss(
    taught: Taught,
    patches: mx.array,
    grid: tuple[int, int],
    tokens: mx.array,
    under: mx.array,
    codes: mx.array,
) -> mx.array:
    """Squared errors of codes, and cross entropies where one of several is to be told.

    Args:
        patches: (B, N, patch_dim).
        tokens: (B, F, COUNT), what image tokens are to tell.
        under: (B, N, COUNT), what lies under patches.
        codes: (COUNT, HIDDEN).
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
    for name in ("is", "background", "colour", "shape", "size", "place", "line", "character"):
        helping = helping + confusion(field(guess, name), field(under, name))
    return main + HELP * (words + helping)


def confusion(logits: mx.array, words: mx.array) -> mx.array:
    """Mean cross entropy where there is a word; both (..., words)."""
    is_told = words.sum(axis=-1) > 0
    losses = nn.losses.cross_entropy(logits, words.argmax(axis=-1))
    return (losses * is_told).sum() / mx.maximum(is_told.sum(), 1)


def measure(model: nn.Module, pictures: list[Picture], codes: np.ndarray) -> dict[str, float]:
    """How much of what image tokens are to tell is told: shares of right words, mean errors."""
    right: dict[str, list[float]] = defaultdict(list)
    for picture in pictures:
        told = np.array(model.encode_views(mx.array(picture.patches[None]), picture.grid)) @ codes.T
        true = picture.tokens.astype(np.float32)
        is_shape = true[:, STARTS["is"]] > 0
        right["shapes found"].append(((told[:, STARTS["is"]] > 0.5) == is_shape).all())
        for token in np.flatnonzero(is_shape):
            for name, size in (("colour", 8), ("shape", 6), ("size", 2)):
                part = slice(STARTS[name], STARTS[name] + size)
                right[name].append(told[token, part].argmax() == true[token, part].argmax())
            part = slice(STARTS["box"], STARTS["place"])
            right["box"].append(float(np.square(told[token, part] - true[token, part]).mean()))
        characters = slice(STARTS["character"], COUNT)
        for token in np.flatnonzero(true[:, characters].sum(-1)):
            for slot in range(3):
                row = true[token, characters].reshape(3, -1)[slot]
                if row.sum() == 1:
                    guess = told[token, characters].reshape(3, -1)[slot].argmax()
                    right["character"].append(guess == row.argmax())
            part = slice(STARTS["place"], STARTS["line"])
            right["place"].append(told[token, part].argmax() in np.flatnonzero(true[token, part]))
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the demo model's tower")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
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
    model, _ = load(options.model, dtype="float32")
    config = read_image_config(options.model)
    codes = dictionary()
    mx.random.seed(options.seed)
    taught = Taught(model)
    taught.freeze()
    model.vision_tower.unfreeze()
    model.multi_modal_projector.unfreeze()
    taught.under.unfreeze()
    optimizer = make_optimizer(settings)
    optimizer.init(taught.trainable_parameters())
    gradient = nn.value_and_grad(taught, loss)
    held_out = draw_pictures(config, "measured", 200)
    table = mx.array(codes)
    groups: dict[tuple[int, int], list[Picture]] = defaultdict(list)
    count, part = 0, 0
    random = np.random.default_rng(options.seed)
    with ProcessPoolExecutor(1) as pool:
        pending = pool.submit(draw_pictures, config, f"tower/{options.seed}/0", PART)
        for step in range(options.steps):
            while count < PLENTY or (pending and pending.done()):
                for picture in pending.result():
                    groups[picture.grid].append(picture)
                count, part = count + PART, part + 1
                pending = None
                if count >= MOST:
                    break
                seed = f"tower/{options.seed}/{part}"
                pending = pool.submit(draw_pictures, config, seed, PART)
            started = time.perf_counter()
            grids = [grid for grid, pictures in groups.items() if len(pictures) >= BATCH]
            shares = np.array([len(groups[grid]) for grid in grids], float)
            grid = grids[random.choice(len(grids), p=shares / shares.sum())]
            picked = [groups[grid][i] for i in random.choice(len(groups[grid]), BATCH, False)]
            batch = [
                mx.array(np.stack([getattr(picture, name) for picture in picked]))
                for name in ("patches", "tokens", "under")
            ]
            tokens, under = (values.astype(mx.float32) for values in batch[1:])
            model.train()
            value, grads = gradient(taught, batch[0], grid, tokens, under, table)
            grads, _ = optim.clip_grad_norm(grads, 1.0)
            set_learning_rate(optimizer, learning_rate(settings, step))
            optimizer.update(taught, grads)
            mx.eval(value, taught.trainable_parameters(), optimizer.state)
            entry = {"step": step + 1, "loss": value.item(), "pictures": count}
            entry["seconds"] = round(time.perf_counter() - started, 3)
            if (step + 1) % 250 == 0 or step + 1 == options.steps:
                model.eval()
                entry |= measure(model, held_out, codes)
                shutil.copytree(options.model, options.out, dirs_exist_ok=True)
                write_weights(model, options.out)
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
