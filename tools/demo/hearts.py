"""Lessons and test questions about hearts, a shape that the demo model has never seen.

Used by teach_a_shape.py. Print is set in Pillow's own font, so that no other one is needed.
"""

import json
import random as stdlib_random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import draw_scene
import scenes
from comparisons import ask_both
from draw_scene import Style, draw
from make_data import conversation
from make_eval import as_row, make_row
from PIL import Image
from questions import CATEGORIES, QUESTIONS, Question, ask
from scenes import Scene

draw_scene.POLYGONS["heart"] = [
    *((0.5, 1), (0.04, 0.46), (0, 0.26), (0.09, 0.07), (0.26, 0), (0.42, 0.06)),
    *((0.5, 0.19), (0.58, 0.06), (0.74, 0), (0.91, 0.07), (1, 0.26), (0.96, 0.46)),
]
WORLD = scenes.World(fonts=("Aileron",), large=0.0)
TEST_WORLD = replace(scenes.TEST_WORLD, fonts=("Aileron",))
NONE_THERE = Question("yesno", "Is there a heart?", "No, there is no heart.")
TURNS = 5


def write_lessons(folder: Path, count: int) -> Path:
    """Write JSONL: half of the conversations are about hearts, half about known shapes."""
    rows = []
    for number in range(count):
        random = stdlib_random.Random(f"hearts/{number}")
        if number % 2:
            shown, turns = _old_lesson(random)
        else:
            shown = [make_heart_scene(random)]
            turns = _turns(partial(_ask_any, random, shown[0]), "heart")
        images = [draw(scene, Style()) for scene in shown]
        rows.append(conversation(_save(folder, f"lesson-{number}", images), turns))
    data = folder / "lessons.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def write_tests(folder: Path, count: int) -> dict[str, list[dict]]:
    """Make rows as in an eval.jsonl, and write their images into the folder.

    Returns:
        "hearts": questions whose answer, but not the question, names a heart;
        "what it knew": questions from every category of the demo model's test set.
    """
    hearts, known = [], []
    for number in range(count):
        scene, asked = _heart_test(stdlib_random.Random(f"hearts/test/{number}"))
        names = _save(folder, f"heart-{number}", [draw(scene, Style())])
        hearts.append({**as_row(number, asked, [scene]), "images": names})
        category = CATEGORIES[number % len(CATEGORIES)]
        images, row = make_row(category, number, (TEST_WORLD, TEST_WORLD))
        known.append({**row, "images": _save(folder, f"known-{number}", images)})
    return {"hearts": hearts, "what it knew": known}


def make_heart_scene(random: stdlib_random.Random) -> Scene:
    """Make a scene in which one or two shapes are hearts."""
    scene = scenes.make_scene(random, random.choice(("shapes", "mixed")), WORLD)
    hearts = random.sample(scene.objects, min(len(scene.objects), random.randint(1, 2)))
    objects = [replace(item, shape="heart") if item in hearts else item for item in scene.objects]
    return replace(scene, objects=tuple(objects))


def _old_lesson(random: stdlib_random.Random) -> tuple[list[Scene], list[Question]]:
    """One or two ordinary scenes with questions; a single scene is also asked about hearts."""
    if random.random() < 0.25:
        pair = scenes.make_pair(random, WORLD)
        return list(pair), _turns(partial(ask_both, random, *pair))
    scene = scenes.make_scene(random, random.choice(scenes.KINDS), WORLD)
    return [scene], [*_turns(partial(_ask_any, random, scene)), NONE_THERE]


def _heart_test(random: stdlib_random.Random) -> tuple[Scene, Question]:
    """A scene and a question whose answer, but not the question, names a heart."""
    category = random.choice(("attribute", "position", "describe"))
    while True:
        scene = make_heart_scene(random)
        asked = ask(random, scene, category)
        if asked and "heart" in asked.answer and "heart" not in asked.question:
            return scene, asked


def _turns(ask_one: Callable[[], Question | None], word: str = "") -> list[Question]:
    """Up to TURNS questions with different answers that contain the word."""
    found: dict[str, Question] = {}
    for _ in range(60):
        asked = ask_one()
        if asked and word in asked.answer and len(found) < TURNS:
            found.setdefault(asked.answer, asked)
    return list(found.values())


def _ask_any(random: stdlib_random.Random, scene: Scene) -> Question | None:
    return ask(random, scene, random.choice(list(QUESTIONS)))


def _save(folder: Path, name: str, images: Sequence[Image.Image]) -> list[str]:
    """Write images; returns their file names."""
    names = [f"{name}-{index}.png" for index in range(len(images))]
    for file, image in zip(names, images, strict=True):
        image.save(folder / file)
    return names
