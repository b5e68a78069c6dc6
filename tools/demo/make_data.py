"""Write conversations about drawn scenes for training the demo model.

usage: python tools/demo/make_data.py OUT --samples 20000 --seed 1 [--lesson LESSON]
       [--split train|test] [--corpus FILE]

Needs pillow, numpy and matplotlib (for its fonts). Writes OUT/images/*.png and OUT/data.jsonl, with
one conversation per line:

    {"messages": [
        {"role": "user", "content": [{"type": "image", "image": "images/000001.png"},
                                     {"type": "text", "text": "What does the text say?"}]},
        {"role": "assistant", "content": "The text says \\"HELLO\\"."},
        {"role": "user", "content": "Where is the text?"}, ...]}

Every sample has its own random state, seeded by the split, the seed and its number. The same
arguments therefore give the same files, and the two splits share no sample.
"""

import argparse
import json
import random as stdlib_random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comparisons import ask_both, ask_difference
from draw_scene import draw, train_style
from PIL import Image
from questions import QUESTIONS, Question, ask
from readings import make_reading
from scenes import TEST_WORLD, TRAIN_WORLD, World, make_pair, make_scene

LESSONS = {  # lesson -> kinds of samples and their shares
    "reading": {"reading": 1.0},
    "scenes": {"shapes": 0.40, "text": 0.28, "mixed": 0.12, "compare": 0.20},
    "alike": {"shapes": 0.20, "text": 0.20, "mixed": 0.05, "compare": 0.10, "alike": 0.45},
    "print": {
        "read": 0.34,
        "count": 0.12,
        "alike": 0.08,
        "shapes": 0.17,
        "text": 0.13,
        "mixed": 0.06,
        "compare": 0.10,
    },
}
SCENES = {"read": "text", "count": "shapes"}  # kinds of scenes for kinds that do not name one
WEIGHTS = {  # kind -> categories of questions and their weights
    "shapes": (
        ("describe", "count", "attribute", "position", "relation", "yesno", "box"),
        (3, 6, 1, 1, 10, 1, 2),
    ),
    "read": (("text",), (1,)),
    "count": (("count",), (1,)),
    "text": (("text", "attribute", "position", "describe", "box"), (8, 1, 1, 2, 1)),
    "mixed": (tuple(QUESTIONS), (3, 1, 1, 1, 1, 5, 2)),
}
TURNS = (4, 6)
FEW_TURNS = {"read": (1, 1), "count": (2, 3)}  # more answers would be copied from the first ones
TURNED, TILT = 0.4, 5.0  # share of "read" samples with tilted print; largest tilt in degrees
ALIKE_MOST = (1, 1, 2, 3, 5)  # most objects in a scene; differences are learned first with one
PAIR_TURNS = (2, 4)  # one sentence says what differs, so more turns would mostly ask other things
WORLDS = {"train": TRAIN_WORLD, "test": TEST_WORLD}


def make_sample(
    random: stdlib_random.Random, world: World, shares: dict[str, float]
) -> tuple[list[Image.Image], list[Question]]:
    """Make the images and turns of one conversation.

    Args:
        random: the source of randomness.
        world: what scenes may hold.
        shares: kinds of samples and their shares, as in LESSONS.
    """
    (kind,) = random.choices(list(shares), list(shares.values()))
    if kind == "reading":
        return [], make_reading(random, world, WEIGHTS)
    style = train_style(random)
    if kind in ("compare", "alike"):
        alike = kind == "alike"
        ask_pair, number = (ask_difference, (1, 1)) if alike else (ask_both, PAIR_TURNS)
        turns = []
        while not turns:  # nothing can be asked about some pairs
            most = random.choice(ALIKE_MOST) if alike else world.most
            first, second = make_pair(random, replace(world, most=most))
            turns = ask_turns(random, partial(ask_pair, random, first, second), number)
        return [draw(first, style), draw(second, style)], turns
    if kind == "read" and random.random() < TURNED:
        world = replace(world, tilt=TILT)
    scene = make_scene(random, SCENES.get(kind, kind), world)
    categories, weights = WEIGHTS[kind]
    turns = ask_turns(
        random,
        lambda: ask(random, scene, random.choices(categories, weights)[0]),
        FEW_TURNS.get(kind, TURNS),
    )
    # Answers after a description can be copied from it, and vice versa: train both by sight.
    turns.sort(key=lambda turn: turn.category == "describe", reverse=random.random() < 0.5)
    return [draw(scene, style)], turns


def sample_random(split: str, seed: int, number: int) -> stdlib_random.Random:
    """The random state of one sample."""
    return stdlib_random.Random(f"{split}/{seed}/{number}")


def conversation(images: Sequence[Any], turns: Sequence[Question]) -> dict[str, list]:
    """A row of data.jsonl."""
    messages: list[dict] = []
    for number, turn in enumerate(turns):
        content: list | str = turn.question
        if number == 0 and images:
            content = [{"type": "image", "image": image} for image in images]
            content.append({"type": "text", "text": turn.question})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": turn.answer})
    return {"messages": messages}


def corpus_line(text: str) -> str:
    """Remove printed words from a text, since the tokenizer should spell them."""
    return re.sub(r'(says|text) "[A-Z0-9 ]*"', r'\1 ""', text)


def ask_turns(
    random: stdlib_random.Random,
    ask_one: Callable[[], Question | None],
    number: tuple[int, int] = TURNS,
) -> list[Question]:
    """Ask questions with different answers, fewer than wanted if the scene allows no more."""
    wanted = random.randint(*number)
    turns: dict[str, Question] = {}
    for _ in range(8 * wanted):
        turn = ask_one()
        if turn:
            turns.setdefault(turn.answer, turn)
        if len(turns) == wanted:
            break
    return list(turns.values())


def _write_sample(
    out: Path, shares: dict[str, float], split: str, seed: int, number: int
) -> dict[str, list]:
    images, turns = make_sample(sample_random(split, seed, number), WORLDS[split], shares)
    names = []
    for suffix, image in zip(("", "b"), images, strict=False):
        names.append(f"images/{number:06d}{suffix}.png")
        image.save(out / names[-1], compress_level=1)
    return conversation(names, turns)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write training conversations")
    parser.add_argument("out", type=Path, help="folder to write; files in it are replaced")
    parser.add_argument("--samples", type=int, default=1000, help="conversations; default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="seed of all samples; default: 0")
    parser.add_argument(
        "--split", choices=tuple(WORLDS), default="train", help="words to print; default: train"
    )
    parser.add_argument(
        "--lesson", choices=tuple(LESSONS), default="scenes", help="kinds; default: scenes"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--corpus", type=Path, help="write all texts here, for the tokenizer")
    arguments = parser.parse_args()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    shares = LESSONS[arguments.lesson]
    write = partial(_write_sample, arguments.out, shares, arguments.split, arguments.seed)
    numbers = range(arguments.samples)
    if arguments.workers > 1:
        with ProcessPoolExecutor(arguments.workers) as pool:
            rows = list(pool.map(write, numbers, chunksize=64))
    else:
        rows = [write(number) for number in numbers]
    with (arguments.out / "data.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    if arguments.corpus:
        with arguments.corpus.open("w") as file:
            for row in rows:
                for message in row["messages"]:
                    content = message["content"]
                    text = content if isinstance(content, str) else content[-1]["text"]
                    file.write(corpus_line(text) + "\n")


if __name__ == "__main__":
    main()
