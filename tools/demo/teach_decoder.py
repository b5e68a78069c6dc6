"""Train the demo model's decoder to answer from true image tokens (see `codes.py`).

usage: python tools/demo/teach_decoder.py MODEL OUT [--lesson all] [--steps 4000] [--seed 0]

The image tokens are computed from the scene, with some noise, so that no picture is drawn and no
tower runs. The vectors of the codes are trained, too. They start from MODEL/codes.npy if an earlier
lesson or `take_apart.py` wrote it. Writes the model with the new decoder, and the vectors into
OUT/codes.npy for `put_together.py`.
"""

import argparse
import random as stdlib_random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from codes import dictionary, token_codes
from comparisons import ask_both, ask_difference
from make_data import ALIKE_MOST, PAIR_TURNS, ask_turns, conversation
from PIL import Image
from questions import QUESTIONS, Question, ask
from scenes import TRAIN_WORLD, Scene, make_pair, make_scene

from mlx_lfm2vl import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.samples import Sample, SampleMaker, assistant_mask
from mlx_lfm2vl.saving import copy_small_files, write_weights
from mlx_lfm2vl.training.adapters import train_fully
from mlx_lfm2vl.training.settings import TrainSettings
from mlx_lfm2vl.training.trainer import Trainer
from mlx_lfm2vl.whole_folder import new_folder

LESSONS = {  # lesson -> kinds of conversations and their shares
    "above": {"above": 1},
    "relations": {"relations": 1},
    "all": {"shapes": 12, "text": 3, "mixed": 4, "compare": 7},
    "print": {"read": 12, "alike": 6, "shapes": 6, "text": 2, "mixed": 4, "compare": 3},
}
WORLD = replace(TRAIN_WORLD, large=0.0)  # one view
WEIGHTS = {  # kind -> categories and their weights; hard ones decided by one word weigh more
    "above": (("describe", "count", "above"), (1, 1, 30)),
    "relations": (("describe", "count", "relation"), (1, 1, 30)),
    "shapes": (
        ("describe", "count", "attribute", "position", "relation", "yesno", "box"),
        (3, 6, 1, 1, 16, 1, 2),
    ),
    "read": (("text",), (1,)),
    "text": (("text", "attribute", "position", "describe", "box", "yesno"), (6, 1, 2, 2, 1, 1)),
    "mixed": (tuple(QUESTIONS), (3, 2, 1, 2, 2, 4, 2)),
}
SCENES = {"above": "shapes", "relations": "shapes", "read": "text"}  # other kinds name the scene's
TURNS = (6, 10)
ONE_TURN = (1, 1)  # later answers could be copied from one that spells out the print
CODES = "codes.npy"  # file with the vectors of codes, beside a model's
NOISE = 0.08  # standard deviation of the noise added to each element of an image token


@dataclass(frozen=True)
class Row:
    """Scenes and a conversation about them, drawn from a seed and a number."""

    seed: int
    number: int
    scenes: tuple[Scene, ...]
    turns: tuple[Question, ...]


def make_row(lesson: str, seed: int, number: int) -> Row:
    random = stdlib_random.Random(f"decoder/{seed}/{number}")
    (kind,) = random.choices(list(LESSONS[lesson]), list(LESSONS[lesson].values()))
    if kind == "compare":
        scenes = make_pair(random, WORLD)
        turns = ask_turns(random, lambda: ask_both(random, *scenes), PAIR_TURNS)
    elif kind == "alike":
        turns = []
        while not turns:  # nothing can be asked about some pairs
            scenes = make_pair(random, replace(WORLD, most=random.choice(ALIKE_MOST)))
            turns = ask_turns(random, partial(ask_difference, random, *scenes), ONE_TURN)
    else:
        scenes = (make_scene(random, SCENES.get(kind, kind), WORLD),)
        categories, weights = WEIGHTS[kind]
        turns = ask_turns(
            random,
            lambda: ask(random, scenes[0], random.choices(categories, weights)[0]),
            ONE_TURN if kind == "read" else TURNS,
        )
    random.shuffle(turns)
    return Row(seed, number, scenes, tuple(turns))


class TrueTokens:
    """Makes samples from rows, with codes of image tokens in place of pixels."""

    def __init__(self, maker: SampleMaker, factor: int) -> None:
        self.maker, self.factor = maker, factor

    def lengths(self, rows: Sequence[Row], _name: str) -> list[int]:
        return [sum(len(turn.question + turn.answer) for turn in row.turns) for row in rows]

    def __call__(self, row: Row) -> Sample:
        blank = [Image.new("RGB", scene.size) for scene in row.scenes]
        messages = conversation(blank, row.turns)["messages"]
        prompt = self.maker.processor(messages, add_generation_prompt=False)
        is_answer = assistant_mask(prompt.input_ids, self.maker.header, self.maker.end_ids)
        shapes = prompt.spatial_shapes
        random = np.random.default_rng((row.seed, row.number))
        tokens = []
        for scene, (rows, columns) in zip(row.scenes, shapes, strict=True):
            told = token_codes(scene, (rows // self.factor, columns // self.factor))
            noise = random.normal(0, NOISE, told.shape)
            tokens.append((told + noise).astype(np.float32))
        return Sample(prompt.input_ids, is_answer, tokens, shapes)


class CodeEmbedding(nn.Module):
    """The vectors of codes as parameters, scaled to a mean norm of 1 to suit the learning rate."""

    def __init__(self, codes: np.ndarray) -> None:
        super().__init__()
        self.norm = float(np.linalg.norm(codes, axis=1).mean())
        self.weight = mx.array(codes.T / self.norm)

    def __call__(self, told: mx.array) -> mx.array:
        return self.norm * (told @ self.weight.T)

    def vectors(self) -> np.ndarray:
        """(COUNT, HIDDEN) float32."""
        return self.norm * np.array(self.weight).T


def read_codes(model: Lfm2VL, codes: np.ndarray) -> None:
    """Make a model take codes instead of pixels; their vectors, (COUNT, HIDDEN), are parameters."""
    model.code_embedding = CodeEmbedding(codes)
    model.encode_views = lambda told, _grid: model.code_embedding(told.flatten(0, 1))


def save_with_codes(model: Lfm2VL, codes: np.ndarray, source: Path, out: Path) -> None:
    """Write a model, the small files of its source, and the vectors of codes, (COUNT, HIDDEN)."""
    with new_folder(out, overwrite=True) as folder:
        copy_small_files(source, folder)
        write_weights(model, folder)
        np.save(folder / CODES, codes)


def make_rows(lesson: str, seed: int, samples: int) -> Sequence[Row]:
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(make_row, lesson, seed), range(samples), chunksize=256))
    return [row for row in rows if row.turns]


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the demo model's decoder")
    add = parser.add_argument
    add("model", type=Path, help="checkpoint folder to start from")
    add("out", type=Path, help="checkpoint folder to write")
    add("--lesson", choices=tuple(LESSONS), default="all", help="default: all")
    add("--steps", type=int, default=4000, help="updates; default: 4000")
    add("--samples", type=int, default=30_000, help="conversations; default: 30000")
    add("--learning-rate", type=float, default=1.5e-3, help="peak; default: 0.0015")
    add("--seed", type=int, default=0, help="seed of the conversations; default: 0")
    options = parser.parse_args()
    settings = TrainSettings(
        method="full",
        parts=("language",),
        steps=options.steps,
        batch_size=4,
        accumulate=8,
        optimizer="muon",
        learning_rate=options.learning_rate,
        warmup_steps=20,
        weight_decay=0.15,
        seed=options.seed,
    )
    model, processor = load(options.model, dtype="float32")
    end_id = processor.tokenizer.id_of("<|im_end|>")
    assert end_id is not None
    maker = TrueTokens(SampleMaker(processor, {end_id}), model.config.projector.downsample_factor)
    rows = make_rows(options.lesson, options.seed, options.samples)
    train_fully(model, settings.parts)
    known = options.model / CODES
    read_codes(model, np.load(known) if known.is_file() else dictionary())
    run = options.out.with_name(f"{options.out.name}-run")
    identity = {"model": str(options.model), "lesson": options.lesson, "rows": str(len(rows))}
    Trainer(model, maker, rows, settings, run, identity=identity).train(resume=True)
    codes = model.pop("code_embedding").vectors()
    save_with_codes(model, codes, options.model, options.out)


if __name__ == "__main__":
    main()
