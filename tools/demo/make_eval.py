"""Write the held-out test set of the demo model: single questions about scenes never trained on.

usage: python tools/demo/make_eval.py OUT [--per-category 160] [--name eval]

Writes OUT/images/*.png and OUT/eval.jsonl, one question a line:

    id        "count-0007"
    category  one of questions.CATEGORIES
    shift     whether the picture is drawn in ways that training does not use: thick outlines,
              noise, blur, JPEG artefacts; for print also other fonts, turned by up to 6 degrees
              (training turns some by up to 5)
    large     whether an image is cut into tiles
    images    one path, or two for "compare", relative to OUT
    question  as the user asks it
    answer    the true answer in the form that training uses
    also      other answers that are as true, with another name for the same thing
    boxes     what a "box" question asks for: [{"label": "red star", "bbox": [x1, y1, x2, y2]}],
              rounded as answers are; else empty

Random states are made of the set's name, which is no split of make_data's ("eval" is the test set);
printed words are those that training never prints. Half of the answers of "yesno" are yes, half of
every category is shift.
"""

import argparse
import json
import random as stdlib_random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from questions import CATEGORIES, Question, ask, ask_both
from scenes import (
    SHIFT_WORLD,
    TEST_WORLD,
    Scene,
    World,
    draw,
    make_pair,
    make_scene,
    shift_style,
    train_style,
)

KINDS = {  # of scenes a category is asked about
    "describe": ("shapes", "shapes", "mixed", "text"),
    "text": ("text", "mixed"),
}
OTHER_KINDS = ("shapes", "shapes", "shapes", "mixed")


def make_row(
    category: str,
    number: int,
    worlds: tuple[World, World] = (TEST_WORLD, SHIFT_WORLD),
    name: str = "eval",
) -> tuple[list[Image.Image], dict]:
    """The images of one test question and its row, without the paths of the images.

    Args:
        number: odd numbers are drawn with a shift.
        worlds: of even and of odd numbers.
        name: of the set.
    """
    random = stdlib_random.Random(f"{name}/{category}/{number}")
    shift = bool(number % 2)
    beginning = ("Yes", "No")[number // 2 % 2] if category == "yesno" else ""
    while True:
        scenes, asked = _ask(random, category, worlds[shift])
        if asked and asked.answer.startswith(beginning):
            break
    style = shift_style(random) if shift else train_style(random)
    return [draw(scene, style) for scene in scenes], as_row(number, asked, scenes, shift=shift)


def as_row(number: int, asked: Question, scenes: Sequence[Scene], *, shift: bool = False) -> dict:
    """A row of eval.jsonl, without the paths of the images."""
    return {
        "id": f"{asked.category}-{number:04d}",
        "category": asked.category,
        "shift": shift,
        "large": any(scene.grid != (1, 1) for scene in scenes),
        "question": asked.question,
        "answer": asked.answer,
        "also": asked.also,
        "boxes": [
            {"label": label, "bbox": [round(value, 2) for value in box]}
            for label, box in asked.boxes
        ],
    }


def _ask(
    random: stdlib_random.Random, category: str, world: World
) -> tuple[list[Scene], Question | None]:
    if category == "compare":
        pair = make_pair(random, world)
        return list(pair), ask_both(random, *pair)
    scene = make_scene(random, random.choice(KINDS.get(category, OTHER_KINDS)), world)
    return [scene], ask(random, scene, category)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out test set")
    parser.add_argument("out", type=Path, help="folder to write; files in it are replaced")
    parser.add_argument("--per-category", type=int, default=160)
    parser.add_argument("--name", default="eval", help="another makes a set to choose models by")
    arguments = parser.parse_args()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for category in CATEGORIES:
        for number in range(arguments.per_category):
            images, row = make_row(category, number, name=arguments.name)
            row["images"] = [
                f"images/{row['id']}{suffix}.png"
                for suffix, _ in zip(("", "b"), images, strict=False)
            ]
            for name, image in zip(row["images"], images, strict=True):
                image.save(arguments.out / name)
            rows.append(json.dumps(row) + "\n")
    (arguments.out / "eval.jsonl").write_text("".join(rows))


if __name__ == "__main__":
    main()
