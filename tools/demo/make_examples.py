"""Draw the pictures in examples/images, and write questions about them with true answers.

usage: python tools/demo/make_examples.py [ROOT]

ROOT is the repository. Writes examples/images/*.png, questions.json with rows like make_eval.py's,
and the picture in the package, mlx_lfm2vl/demo/example.png. Printed words are ones that training
never prints. Needs pillow and numpy.
"""

import argparse
import json
import random as stdlib_random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from comparisons import ask_both
from draw_scene import Style, draw
from make_eval import as_row
from PIL import Image
from questions import Question, ask
from scenes import TEST_WORLD, make_pair, make_scene

SCENES = {  # name -> (kind of scene, seed picked by eye, category -> question)
    "mixed": (
        "mixed",
        138,
        {
            "describe": "Describe the picture.",
            "text": "Read the text.",
            "attribute": "What color is the circle?",
        },
    ),
    "shapes": (
        "shapes",
        360,
        {
            "describe": "What do you see?",
            "count": "How many shapes are there?",
            "attribute": "What color is the ring?",
            "yesno": "Is there a blue circle?",
            "box": "Detect all shapes.",
        },
    ),
    "word": (
        "text",
        6,
        {"text": "What does the text say?", "attribute": "What color is the text?"},
    ),
    "large": (
        "mixed",
        33,
        {"describe": "Describe this image.", "text": "What is written in the image?"},
    ),
}
PAIR = ("before", "after")
PAIR_SEED = 240
PAIR_QUESTIONS = ("What is different between the two images?",)
WORLD = replace(TEST_WORLD, fonts=("Aileron",))  # Pillow's own: the same picture everywhere


def make_examples() -> tuple[dict[str, Image.Image], list[dict]]:
    """Make the pictures, by file name, and the rows about them."""
    pictures, rows = {}, []
    for name, (kind, seed, questions) in SCENES.items():
        random = stdlib_random.Random(f"examples/{name}/{seed}")
        scene = make_scene(random, kind, replace(WORLD, large=float(name == "large")))
        pictures[f"{name}.png"] = draw(scene, Style())
        for category, question in questions.items():
            asked = _truth(question, partial(ask, random, scene, category))
            rows.append({**as_row(len(rows), asked, [scene]), "images": [f"{name}.png"]})
    random = stdlib_random.Random(f"examples/pair/{PAIR_SEED}")
    pair = make_pair(random, WORLD)
    names = [f"{name}.png" for name in PAIR]
    pictures |= {name: draw(scene, Style()) for name, scene in zip(names, pair, strict=True)}
    for question in PAIR_QUESTIONS:
        asked = _truth(question, partial(ask_both, random, *pair))
        rows.append({**as_row(len(rows), asked, pair), "images": names})
    return pictures, rows


def _truth(question: str, ask_any: Callable[[], Question | None]) -> Question:
    """Find a question's answer: ask random questions until this one comes up."""
    for _ in range(10_000):
        asked = ask_any()
        if asked and asked.question == question:
            return asked
    raise ValueError(f"{question!r} is never asked about this scene")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the example pictures")
    repository = Path(__file__).parents[2]
    parser.add_argument("root", type=Path, nargs="?", default=repository)
    root = parser.parse_args().root
    folder, package = root / "examples" / "images", root / "mlx_lfm2vl" / "demo"
    for path in (folder, package):
        path.mkdir(parents=True, exist_ok=True)
    pictures, rows = make_examples()
    for name, picture in pictures.items():
        picture.save(folder / name, optimize=True)
    (folder / "questions.json").write_text(json.dumps(rows, indent=2) + "\n")
    shutil.copyfile(folder / "mixed.png", package / "example.png")


if __name__ == "__main__":
    main()
