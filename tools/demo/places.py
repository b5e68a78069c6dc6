"""Questions about where things are, with their true answers."""

import random as stdlib_random
from itertools import pairwise

from nouns import label_of, unique_names
from scenes import Scene
from wordings import BESIDE, DOWNWARD, EITHER, HIGHER, RELATED, WHERE, as_object

PARTS = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the center", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
RELATIONS = {  # relation -> (axis, sign of the difference)
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
CLEAR = 0.15  # smallest difference of centers that makes a relation, as a share of the side
OFF_LINE = 0.05  # smallest distance of a center from the lines between parts of the image
LOWER = 0.05  # smallest difference between successive centers in a list from top to bottom


def ask_position(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    forms = [_where] + [_related, _beside] * (len(scene.objects) > 1)
    return random.choice(forms)(random, scene)


def ask_relation(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Mostly ask about above and below; lists from left to right teach the other two."""
    if len(scene.objects) < 2:
        return None
    (form,) = random.choices((_related, _beside, _either, _higher, _downward), (4, 1, 2, 2, 2))
    asked = form(random, scene)
    is_level = asked and ("left of" in asked[1] or "right of" in asked[1])
    return None if is_level and random.random() < 0.7 else asked


def ask_above(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask as `ask_relation` does, but ask yes-or-no questions only about "above", not "below".

    Yes or no is the product of how two places compare and which direction the question names.
    Neither factor alone says anything about the answer. If one is fixed, the other can be learned.
    """
    asked = ask_relation(random, scene)
    is_yes_no = asked and asked[1].startswith(("Yes", "No"))
    return None if is_yes_no and "below" in asked[0] else asked


def part_of_image(centre: tuple[float, float]) -> str | None:
    """Words for the part of the image that holds a point; None near the lines between parts."""
    if any(abs(value - line) < OFF_LINE for value in centre for line in (1 / 3, 2 / 3)):
        return None
    x, y = centre
    return PARTS[min(2, int(y * 3))][min(2, int(x * 3))]


def _where(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    places = [(unique_names(scene, item), item.centre) for item in scene.objects]
    if scene.text:
        x1, y1, x2, y2 = scene.text.box
        places.append((["text"], ((x1 + x2) / 2, (y1 + y2) / 2)))
    names, centre = random.choice(places)
    part = part_of_image(centre)
    if not names or not part:
        return None
    name = random.choice(names)
    return random.choice(WHERE).format(as_object(name)), f"The {name} is {part}."


def _related(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    one, other = random.sample(scene.objects, 2)
    names, other_names = unique_names(scene, one), unique_names(scene, other)
    relation = random.choice(list(RELATIONS))
    axis, sign = RELATIONS[relation]
    step = (one.centre[axis] - other.centre[axis]) * sign
    if not names or not other_names or abs(step) < CLEAR:
        return None
    name, other_name = random.choice(names), random.choice(other_names)
    wording = relation
    if axis == 0 and random.random() < 0.5:
        wording = f"to the {relation}"
    question = random.choice(RELATED).format(as_object(name), wording, as_object(other_name))
    if step > 0:
        return question, f"Yes, the {name} is {relation} the {other_name}."
    opposite = next(word for word, way in RELATIONS.items() if way == (axis, -sign))
    return question, f"No, the {name} is {opposite} the {other_name}."


def _either(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask which of two opposite relations holds; comparing places is learned before yes and no."""
    one, other = random.sample(scene.objects, 2)
    names, other_names = unique_names(scene, one), unique_names(scene, other)
    axis = random.randrange(2)
    step = one.centre[axis] - other.centre[axis]
    if not names or not other_names or abs(step) < CLEAR:
        return None
    name, other_name = random.choice(names), random.choice(other_names)
    before, after = (word for word, (way, _) in RELATIONS.items() if way == axis)
    first, second = (before, after) if random.random() < 0.5 else (after, before)
    question = random.choice(EITHER).format(
        as_object(name), first.removesuffix(" of"), second, as_object(other_name)
    )
    return question, f"The {name} is {before if step < 0 else after} the {other_name}."


def _higher(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask which of two objects is higher, or lower."""
    items = random.sample(scene.objects, 2)
    names = [unique_names(scene, item) for item in items]
    if not all(names) or abs(items[0].centre[1] - items[1].centre[1]) < CLEAR:
        return None
    asked = [random.choice(some) for some in names]
    word, pick = random.choice((("higher", min), ("lower", max)))
    answer = asked[pick((0, 1), key=lambda number: items[number].centre[1])]
    question = random.choice(HIGHER).format(word, *(as_object(name) for name in asked))
    return question, f"The {answer} is {word}."


def _downward(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask for all objects from top to bottom, in the order of their centers."""
    items = sorted(scene.objects, key=lambda item: item.centre[1])
    if any(after.centre[1] - before.centre[1] < LOWER for before, after in pairwise(items)):
        return None
    *most, last = (f"a {item.size} {label_of(item)}" for item in items)
    return random.choice(DOWNWARD), f"A{', '.join(most)[1:]} and {last}."


def _beside(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask what is on one side of an object, where exactly one other object must clearly be."""
    item = random.choice(scene.objects)
    names = unique_names(scene, item)
    relation = random.choice(list(RELATIONS))
    axis, sign = RELATIONS[relation]
    steps = [
        ((other.centre[axis] - item.centre[axis]) * sign, other)
        for other in scene.objects
        if other is not item
    ]
    beside = [other for step, other in steps if step >= CLEAR]
    if not names or len(beside) != 1 or any(0 < step < CLEAR for step, _ in steps):
        return None
    name = random.choice(names)
    wording = relation
    if axis == 0 and random.random() < 0.5:
        wording = f"to the {relation}"
    question = random.choice(BESIDE).format(wording, as_object(name))
    return question, f"A {beside[0].size} {label_of(beside[0])} is {relation} the {name}."
