"""Questions about scenes with their true answers.

Questions vary in wording and spelling (color and colour, object and shape), but every kind of
question has one form of answer. A question is asked only if its answer is unambiguous: what it
names occurs once, and positions are away from the lines between the parts of the image.
"""

import json
import random as stdlib_random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from nouns import Words, fits, label_of, noun_phrase, plural, some_words, unique_names
from places import ask_above, ask_position, ask_relation
from scenes import COLORS, SHAPES, SIZES, Box, Scene
from wordings import (
    COLOR,
    COUNT,
    DESCRIBE,
    DETECT,
    EXISTS,
    LINES,
    LOCATE,
    READ,
    READ_LINE,
    SHAPE,
    SIZE,
    as_object,
    vary,
)

NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        boxes: (label, box) of everything a box question asks for, not rounded.
        also: other true answers, which use another name for the same object.
    """

    category: str
    question: str
    answer: str
    boxes: tuple[tuple[str, Box], ...] = ()
    also: tuple[str, ...] = ()


def ask(random: stdlib_random.Random, scene: Scene, category: str) -> Question | None:
    """Draw a question of a category, or None if the scene does not allow the one drawn."""
    asked = (QUESTIONS | TRAINED_ONLY)[category](random, scene)
    if asked is None:
        return None
    question, answer, *boxes = asked
    return Question(category, vary(random, question, scene), answer, *boxes)


def boxes_json(boxes: tuple[tuple[str, Box], ...]) -> str:
    """The answer to a box question: a JSON list with coordinates rounded to two decimals."""
    rows = [
        f'{{"label": {json.dumps(label)}, "bbox": [{", ".join(f"{value:.2f}" for value in box)}]}}'
        for label, box in boxes
    ]
    return f"[{', '.join(rows)}]"


def _describe(random: stdlib_random.Random, scene: Scene) -> tuple[str, str]:
    kinds = Counter((item.size, item.color, item.shape) for item in scene.objects)
    parts = [
        f"a {' '.join(kind)}" if number == 1 else f"{NUMBERS[number]} {plural(' '.join(kind))}"
        for kind, number in kinds.items()
    ]
    if scene.text:
        parts.append(f'the text "{" ".join(scene.text.lines)}"')
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    answer = f"{listed[0].upper()}{listed[1:]} on a {scene.background} background."
    return random.choice(DESCRIBE), answer


def _count(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    item = random.choice(scene.objects) if scene.objects and random.random() < 0.75 else None
    form = random.random()
    words = some_words(random, item)
    if form < 0.25:
        words = ("", "", "")
    elif form < 0.35:
        words = (item.size if item else random.choice(list(SIZES)), "", "")
    number = sum(fits(other, words) for other in scene.objects)
    noun = noun_phrase(words)
    question = random.choice(COUNT).format(as_object(plural(noun)))
    if number == 0:
        return question, f"There are no {plural(noun)}."
    if number == 1 and random.random() < 0.5:
        return None  # a count of one is too common
    if number == 1:
        return question, f"There is 1 {noun}."
    return question, f"There are {number} {plural(noun)}."


def _attribute(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    forms = ["background"] + ["text"] * bool(scene.text) + ["object"] * (5 * bool(scene.objects))
    form = random.choice(forms)
    if form == "background":
        question = random.choice(COLOR).format("background")
        return question, f"The background is {scene.background}."
    if form == "text" and scene.text:
        return random.choice(COLOR).format("text"), f"The text is {scene.text.color}."
    attribute = random.choice(("color", "shape", "size"))
    item = random.choice(scene.objects)
    names = unique_names(scene, item, without=attribute)
    if not names:
        return None
    name, value = random.choice(names), getattr(item, attribute)
    templates = {"color": COLOR, "shape": SHAPE, "size": SIZE}[attribute]
    question = random.choice(templates).format(as_object(name))
    return question, f"The {name} is {'a ' if attribute == 'shape' else ''}{value}."


def _yesno(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    wanted = random.random() < 0.5
    if random.random() < 0.05 or (wanted and not scene.objects):
        question = random.choice(EXISTS).format("any text")
        return question, "Yes, there is text." if scene.text else "No, there is no text."
    words = _present(random, scene) if wanted else _absent(random, scene)
    if not words:
        return None
    noun = noun_phrase(words)
    article = "an" if noun[0] in "aeiou" else "a"
    question = random.choice(EXISTS).format(f"{article} {as_object(noun)}")
    return question, f"Yes, there is {article} {noun}." if wanted else f"No, there is no {noun}."


def _present(random: stdlib_random.Random, scene: Scene) -> Words | None:
    """Words that fit an object of the scene; None if it has no objects."""
    return some_words(random, random.choice(scene.objects)) if scene.objects else None


def _absent(random: stdlib_random.Random, scene: Scene) -> Words | None:
    """Words that fit nothing in the scene; mostly only one word is wrong."""
    for _ in range(20):
        size, color, shape = _present(random, scene) or some_words(random, None)
        if random.random() < 0.3:
            size, color, shape = some_words(random, None)
        elif color and (not shape or random.random() < 0.5):
            color = random.choice(list(COLORS))
        else:
            shape = random.choice(SHAPES)
        if not any(fits(item, (size, color, shape)) for item in scene.objects):
            return size, color, shape
    return None


def _text(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    if not scene.text:
        return None
    lines = scene.text.lines
    if len(lines) > 1 and random.random() < 0.5:
        number = random.randrange(len(lines))
        question = random.choice(READ_LINE).format(LINES[number])
        return question, f'The {LINES[number]} line says "{lines[number]}".'
    return random.choice(READ), f'The text says "{" ".join(lines)}".'


def _box(
    random: stdlib_random.Random, scene: Scene
) -> tuple[str, str, tuple[tuple[str, Box], ...]] | None:
    if scene.text and (not scene.objects or random.random() < 0.2):
        boxes = (("text", scene.text.box),)
        return random.choice(LOCATE).format("text"), boxes_json(boxes), boxes
    if len(scene.objects) <= 3 and random.random() < 0.4:
        boxes = tuple((label_of(item), item.box) for item in scene.objects)
        return random.choice(DETECT).format("objects"), boxes_json(boxes), boxes
    item = random.choice(scene.objects)
    names = unique_names(scene, item)
    if not names:
        return None
    boxes = ((label_of(item), item.box),)
    question = random.choice(LOCATE).format(as_object(random.choice(names)))
    return question, boxes_json(boxes), boxes


QUESTIONS: dict[str, Callable[[stdlib_random.Random, Scene], tuple | None]] = {
    "describe": _describe,
    "count": _count,
    "attribute": _attribute,
    "position": ask_position,
    "yesno": _yesno,
    "text": _text,
    "box": _box,
}
CATEGORIES = (*QUESTIONS, "compare")
TRAINED_ONLY = {"relation": ask_relation, "above": ask_above}  # the harder half of "position"
