"""Write the demo model's held-out test set: single questions about scenes not used in training.

usage: python tools/demo/make_eval.py OUT [--per-category 160] [--name eval]

Writes OUT/images/*.png and OUT/eval.jsonl, with one question per line:

    id        "count-0007"
    category  one of questions.CATEGORIES
    shift     whether the picture is drawn in ways not used in training: thick outlines, noise, blur
              or JPEG artifacts; for print also other fonts and tilts of up to 6 degrees (training
              tilts some print by up to 5)
    large     whether an image is split into tiles
    images    one path, or two for "compare", relative to OUT
    question  the user's question
    answer    the true answer, in the form used in training
    also      other true answers, which use another name for the same thing
    boxes     the answer to a "box" question: [{"label": "red star", "bbox": [x1, y1, x2, y2]}],
              rounded as answers are; empty for other categories

Random states are seeded by the set's name ("eval" for the test set), which differs from the names
of make_data's splits. Printed words are those that training never prints. Half of the "yesno"
answers are yes, and half of every category is drawn with a shift.
"""

import argparse
import json
import random as stdlib_random
from collections.abc import Sequence
from pathlib import Path

from comparisons import ask_both
from draw_scene import draw, shift_style, train_style
from PIL import Image
from questions import CATEGORIES, Question, ask
from scenes import SHIFT_WORLD, TEST_WORLD, Scene, World, make_pair, make_scene

KINDS = {  # category -> kinds of scenes to ask about
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
    """Make the images of one test question, and its row without the paths of the images.

    Args:
        category: one of questions.CATEGORIES.
        number: of the question in its category; odd numbers are drawn with a shift.
        worlds: the worlds of even and of odd numbers.
        name: the name of the set.
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
    parser.add_argument(
        "--per-category", type=int, default=160, help="questions per category; default: 160"
    )
    parser.add_argument(
        "--name", default="eval", help="another name gives another set, to select models on"
    )
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
