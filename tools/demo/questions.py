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
from itertools import pairwise

from scenes import COLOURS, SHAPES, SIZES, Box, Object, Scene

Words = tuple[str, str, str]  # size, color, shape; an empty word says nothing

NUMBERS = ("no", "one", "two", "three", "four", "five")
LINES = ("first", "second", "third")
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

DESCRIBE = (
    "Describe this image.",
    "Describe the picture.",
    "What is in this image?",
    "What do you see?",
    "What does this picture show?",
    "Give a short description of the image.",
)
COUNT = (
    "How many {} are there?",
    "How many {} are in the image?",
    "How many {} do you see?",
    "Count the {}.",
)
COLOUR = (
    "What color is the {}?",
    "What is the color of the {}?",
    "Which color does the {} have?",
    "Tell me the color of the {}.",
)
SHAPE = (
    "What shape is the {}?",
    "What is the shape of the {}?",
    "Which shape does the {} have?",
    "What kind of shape is the {}?",
)
SIZE = (
    "What size is the {}?",
    "How big is the {}?",
    "Is the {} small or large?",
    "Is the {} large or small?",
)
WHERE = (
    "Where is the {}?",
    "Where is the {} in the image?",
    "In which part of the image is the {}?",
    "Tell me where the {} is.",
)
RELATED = ("Is the {} {} the {}?", "Can you see the {} {} the {}?", "Is the {} placed {} the {}?")
EITHER = ("Is the {} {} or {} the {}?", "Tell me if the {} is {} or {} the {}.")
HIGHER = ("Which is {}, the {} or the {}?", "What is {}: the {} or the {}?")
DOWNWARD = ("List the objects from top to bottom.", "Name all objects from top to bottom.")
BESIDE = ("What is {} the {}?", "Which object is {} the {}?", "Tell me what is {} the {}.")
EXISTS = (
    "Is there {} in the image?",
    "Is there {}?",
    "Do you see {}?",
    "Does the image show {}?",
    "Can you see {}?",
)
READ = (
    "What does the text say?",
    "What is written?",
    "What is written in the image?",
    "Read the text.",
    "Which text is in the picture?",
)
READ_LINE = (
    "What does the {} line say?",
    "What is written in the {} line?",
    "Read the {} line.",
)
LOCATE = (
    "Give the bounding box of the {}.",
    "What is the bounding box of the {}?",
    "Return the bounding box of the {}.",
    "Locate the {} with a bounding box.",
)
DETECT = (
    "Detect all {}.",
    "Find all {} and give their boxes.",
    "Give the bounding boxes of all {}.",
    "Return the boxes of all {}.",
)
DIFFERENCE = (
    "What is different between the two images?",
    "What is the difference between the two images?",
    "Compare the two images.",
    "What has changed between the images?",
)
MORE = (
    "Which image has more {}?",
    "Which image shows more {}?",
    "Are there more {} in the first or the second image?",
)


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
    return Question(category, _vary(random, question, scene), answer, *boxes)


def ask_both(random: stdlib_random.Random, first: Scene, second: Scene) -> Question | None:
    """Draw a question about two images, or None if they do not allow the one drawn."""
    form = random.choice((_difference, _difference, _more, _in_one_image))
    return _both(random, first, form(random, first, second))


def ask_difference(random: stdlib_random.Random, first: Scene, second: Scene) -> Question | None:
    """Ask what differs between two images; None if one sentence cannot answer that."""
    return _both(random, first, _difference(random, first, second))


def _both(
    random: stdlib_random.Random, first: Scene, asked: tuple[str, ...] | None
) -> Question | None:
    if asked is None:
        return None
    question, answer, *also = asked
    return Question("compare", _vary(random, question, first), answer, also=tuple(also))


def differences(random: stdlib_random.Random, first: Scene, second: Scene) -> list[str]:
    """Sentences that say what differs, each of which is a full answer.

    There are none if more than one object differs, or if no name fits the one that does.
    """
    if first.background != second.background:
        return []
    only_first = [item for item in first.objects if item not in second.objects]
    only_second = [item for item in second.objects if item not in first.objects]
    if not only_first and not only_second:
        return ["The two images are the same."]
    if len(only_first) + len(only_second) == 1:
        scene, ordinal = (first, "first") if only_first else (second, "second")
        return _missing(scene, ordinal, *only_first, *only_second)
    if len(only_first) == len(only_second) == 1 and only_first[0].centre == only_second[0].centre:
        return _changed(random, first, second, only_first[0], only_second[0])
    return []


def part_of_image(centre: tuple[float, float]) -> str | None:
    """Words for the part of the image that holds a point; None near the lines between parts."""
    if any(abs(value - line) < OFF_LINE for value in centre for line in (1 / 3, 2 / 3)):
        return None
    x, y = centre
    return PARTS[min(2, int(y * 3))][min(2, int(x * 3))]


def boxes_json(boxes: tuple[tuple[str, Box], ...]) -> str:
    """The answer to a box question: a JSON list with coordinates rounded to two decimals."""
    rows = [
        f'{{"label": {json.dumps(label)}, "bbox": [{", ".join(f"{value:.2f}" for value in box)}]}}'
        for label, box in boxes
    ]
    return f"[{', '.join(rows)}]"


def _describe(random: stdlib_random.Random, scene: Scene) -> tuple[str, str]:
    kinds = Counter((item.size, item.colour, item.shape) for item in scene.objects)
    parts = [
        f"a {' '.join(kind)}" if number == 1 else f"{NUMBERS[number]} {_plural(' '.join(kind))}"
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
    words = _some_words(random, item)
    if form < 0.25:
        words = ("", "", "")
    elif form < 0.35:
        words = (item.size if item else random.choice(list(SIZES)), "", "")
    number = sum(_fits(other, words) for other in scene.objects)
    noun = _noun(words)
    question = random.choice(COUNT).format(_object(_plural(noun)))
    if number == 0:
        return question, f"There are no {_plural(noun)}."
    if number == 1 and random.random() < 0.5:
        return None  # a count of one is too common
    if number == 1:
        return question, f"There is 1 {noun}."
    return question, f"There are {number} {_plural(noun)}."


def _attribute(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    forms = ["background"] + ["text"] * bool(scene.text) + ["object"] * (5 * bool(scene.objects))
    form = random.choice(forms)
    if form == "background":
        question = random.choice(COLOUR).format("background")
        return question, f"The background is {scene.background}."
    if form == "text" and scene.text:
        return random.choice(COLOUR).format("text"), f"The text is {scene.text.colour}."
    attribute = random.choice(("colour", "shape", "size"))
    item = random.choice(scene.objects)
    names = _names(scene, item, without=attribute)
    if not names:
        return None
    name, value = random.choice(names), getattr(item, attribute)
    templates = {"colour": COLOUR, "shape": SHAPE, "size": SIZE}[attribute]
    question = random.choice(templates).format(_object(name))
    return question, f"The {name} is {'a ' if attribute == 'shape' else ''}{value}."


def _position(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    forms = [_where] + [_related, _beside] * (len(scene.objects) > 1)
    return random.choice(forms)(random, scene)


def _relation(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Mostly ask about above and below; lists from left to right teach the other two."""
    if len(scene.objects) < 2:
        return None
    (form,) = random.choices((_related, _beside, _either, _higher, _downward), (4, 1, 2, 2, 2))
    asked = form(random, scene)
    is_level = asked and ("left of" in asked[1] or "right of" in asked[1])
    return None if is_level and random.random() < 0.7 else asked


def _above(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask as `_relation` does, but ask yes-or-no questions only about "above", not "below".

    Yes or no is the product of how two places compare and which direction the question names.
    Neither factor alone says anything about the answer. If one is fixed, the other can be learned.
    """
    asked = _relation(random, scene)
    is_yes_no = asked and asked[1].startswith(("Yes", "No"))
    return None if is_yes_no and "below" in asked[0] else asked


def _where(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    places = [(_names(scene, item), item.centre) for item in scene.objects]
    if scene.text:
        x1, y1, x2, y2 = scene.text.box
        places.append((["text"], ((x1 + x2) / 2, (y1 + y2) / 2)))
    names, centre = random.choice(places)
    part = part_of_image(centre)
    if not names or not part:
        return None
    name = random.choice(names)
    return random.choice(WHERE).format(_object(name)), f"The {name} is {part}."


def _related(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    one, other = random.sample(scene.objects, 2)
    names, other_names = _names(scene, one), _names(scene, other)
    relation = random.choice(list(RELATIONS))
    axis, sign = RELATIONS[relation]
    step = (one.centre[axis] - other.centre[axis]) * sign
    if not names or not other_names or abs(step) < CLEAR:
        return None
    name, other_name = random.choice(names), random.choice(other_names)
    wording = relation
    if axis == 0 and random.random() < 0.5:
        wording = f"to the {relation}"
    question = random.choice(RELATED).format(_object(name), wording, _object(other_name))
    if step > 0:
        return question, f"Yes, the {name} is {relation} the {other_name}."
    opposite = next(word for word, way in RELATIONS.items() if way == (axis, -sign))
    return question, f"No, the {name} is {opposite} the {other_name}."


def _either(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask which of two opposite relations holds; comparing places is learned before yes and no."""
    one, other = random.sample(scene.objects, 2)
    names, other_names = _names(scene, one), _names(scene, other)
    axis = random.randrange(2)
    step = one.centre[axis] - other.centre[axis]
    if not names or not other_names or abs(step) < CLEAR:
        return None
    name, other_name = random.choice(names), random.choice(other_names)
    before, after = (word for word, (way, _) in RELATIONS.items() if way == axis)
    first, second = (before, after) if random.random() < 0.5 else (after, before)
    question = random.choice(EITHER).format(
        _object(name), first.removesuffix(" of"), second, _object(other_name)
    )
    return question, f"The {name} is {before if step < 0 else after} the {other_name}."


def _higher(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask which of two objects is higher, or lower."""
    items = random.sample(scene.objects, 2)
    names = [_names(scene, item) for item in items]
    if not all(names) or abs(items[0].centre[1] - items[1].centre[1]) < CLEAR:
        return None
    asked = [random.choice(some) for some in names]
    word, pick = random.choice((("higher", min), ("lower", max)))
    answer = asked[pick((0, 1), key=lambda number: items[number].centre[1])]
    question = random.choice(HIGHER).format(word, *(_object(name) for name in asked))
    return question, f"The {answer} is {word}."


def _downward(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask for all objects from top to bottom, in the order of their centers."""
    items = sorted(scene.objects, key=lambda item: item.centre[1])
    if any(after.centre[1] - before.centre[1] < LOWER for before, after in pairwise(items)):
        return None
    *most, last = (f"a {item.size} {_label(item)}" for item in items)
    return random.choice(DOWNWARD), f"A{', '.join(most)[1:]} and {last}."


def _beside(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    """Ask what is on one side of an object, where exactly one other object must clearly be."""
    item = random.choice(scene.objects)
    names = _names(scene, item)
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
    question = random.choice(BESIDE).format(wording, _object(name))
    return question, f"A {beside[0].size} {_label(beside[0])} is {relation} the {name}."


def _yesno(random: stdlib_random.Random, scene: Scene) -> tuple[str, str] | None:
    wanted = random.random() < 0.5
    if random.random() < 0.05 or (wanted and not scene.objects):
        question = random.choice(EXISTS).format("any text")
        return question, "Yes, there is text." if scene.text else "No, there is no text."
    words = _present(random, scene) if wanted else _absent(random, scene)
    if not words:
        return None
    noun = _noun(words)
    article = "an" if noun[0] in "aeiou" else "a"
    question = random.choice(EXISTS).format(f"{article} {_object(noun)}")
    return question, f"Yes, there is {article} {noun}." if wanted else f"No, there is no {noun}."


def _present(random: stdlib_random.Random, scene: Scene) -> Words | None:
    """Words that fit an object of the scene; None if it has no objects."""
    return _some_words(random, random.choice(scene.objects)) if scene.objects else None


def _absent(random: stdlib_random.Random, scene: Scene) -> Words | None:
    """Words that fit nothing in the scene; mostly only one word is wrong."""
    for _ in range(20):
        size, colour, shape = _present(random, scene) or _some_words(random, None)
        if random.random() < 0.3:
            size, colour, shape = _some_words(random, None)
        elif colour and (not shape or random.random() < 0.5):
            colour = random.choice(list(COLOURS))
        else:
            shape = random.choice(SHAPES)
        if not any(_fits(item, (size, colour, shape)) for item in scene.objects):
            return size, colour, shape
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
        boxes = tuple((_label(item), item.box) for item in scene.objects)
        return random.choice(DETECT).format("objects"), boxes_json(boxes), boxes
    item = random.choice(scene.objects)
    names = _names(scene, item)
    if not names:
        return None
    boxes = ((_label(item), item.box),)
    question = random.choice(LOCATE).format(_object(random.choice(names)))
    return question, boxes_json(boxes), boxes


def _difference(
    random: stdlib_random.Random, first: Scene, second: Scene
) -> tuple[str, ...] | None:
    answers = differences(random, first, second)
    return (random.choice(DIFFERENCE), *answers) if answers else None


def _missing(scene: Scene, ordinal: str, item: Object) -> list[str]:
    """Sentences about an object that only one of two images has."""
    forms = (("", item.colour, item.shape), (item.size, item.colour, item.shape))
    return [
        f"The {_noun(words)} is only in the {ordinal} image."
        for words in forms
        if sum(_fits(other, words) for other in scene.objects) == 1
    ]


def _changed(
    random: stdlib_random.Random, first: Scene, second: Scene, old: Object, new: Object
) -> list[str]:
    """Sentences about an object that looks different in the second image, in random order."""
    attribute = next(
        name for name in ("colour", "shape", "size") if getattr(old, name) != getattr(new, name)
    )
    second_names = _names(second, new, without=attribute)
    names = [name for name in _names(first, old, without=attribute) if name in second_names]
    if not names:
        return []
    article = "a " if attribute == "shape" else ""
    before, after = getattr(old, attribute), getattr(new, attribute)
    states = f"{article}{before} in the first image and {article}{after} in the second"
    first_name = random.choice(names)
    names.sort(key=lambda name: name != first_name)
    return [f"The {name} is {states}." for name in names]


def _more(random: stdlib_random.Random, first: Scene, second: Scene) -> tuple[str, str] | None:
    question = random.choice(MORE).format("objects")
    one, other = len(first.objects), len(second.objects)
    if one == other and random.random() < 0.6:
        return None  # equal numbers are too common
    if one == other:
        return question, "Both images have the same number of shapes."
    return question, f"The {'first' if one > other else 'second'} image has more shapes."


def _in_one_image(
    random: stdlib_random.Random, first: Scene, second: Scene
) -> tuple[str, str] | None:
    """Ask about one of the two images."""
    number = random.randrange(2)
    scene, ordinal = (first, second)[number], LINES[number]
    form = random.choice((_count, _attribute, _yesno))
    asked = form(random, scene)
    if asked is None:
        return None
    question, answer = asked[0].replace(" in the image", ""), asked[1]
    question = question.replace("Does the image show", "Do you see")
    return (
        f"{question[:-1]} in the {ordinal} image{question[-1]}",
        f"{answer[:-1]} in the {ordinal} image.",
    )


QUESTIONS: dict[str, Callable[[stdlib_random.Random, Scene], tuple | None]] = {
    "describe": _describe,
    "count": _count,
    "attribute": _attribute,
    "position": _position,
    "yesno": _yesno,
    "text": _text,
    "box": _box,
}
CATEGORIES = (*QUESTIONS, "compare")
TRAINED_ONLY = {"relation": _relation, "above": _above}  # the harder half of "position"


def _vary(random: stdlib_random.Random, question: str, scene: Scene) -> str:
    """Vary spelling and words: "colour" half of the time, and "shape" for "object".

    Questions that ask for a shape keep "object". If the scene has text, all others lose it, since
    text is an object but not a shape.
    """
    if random.random() < 0.5:
        question = question.replace("color", "colour")
    asks_shape = " shape" in question
    if not asks_shape and (scene.text or random.random() < 0.5):
        question = question.replace("object", "shape")
    return question


def _names(scene: Scene, item: Object, without: str = "") -> list[str]:
    """Noun phrases that fit only this object, of three words only if no shorter one fits."""
    size = "" if without == "size" else item.size
    colour = "" if without == "colour" else item.colour
    shape = "" if without == "shape" else item.shape
    forms = (
        ("", "", shape),
        ("", colour, ""),
        ("", colour, shape),
        (size, "", shape),
        (size, colour, shape),
    )
    names = [
        _noun(words)
        for words in dict.fromkeys(forms)
        if any(words) and sum(_fits(other, words) for other in scene.objects) == 1
    ]
    return [name for name in names if len(name.split()) <= 2] or names


def _fits(item: Object, words: Words) -> bool:
    """Whether words describe an object; an empty word says nothing."""
    size, colour, shape = words
    return size in ("", item.size) and colour in ("", item.colour) and shape in ("", item.shape)


def _some_words(random: stdlib_random.Random, item: Object | None) -> Words:
    """One or two words that describe an object, or random ones if there is none."""
    size = item.size if item else random.choice(list(SIZES))
    colour = item.colour if item else random.choice(list(COLOURS))
    shape = item.shape if item else random.choice(SHAPES)
    return random.choice(
        (("", colour, ""), ("", "", shape), ("", colour, shape), (size, "", shape))
    )


def _noun(words: Words) -> str:
    size, colour, shape = words
    return " ".join(word for word in (size, colour, shape or "shape") if word)


def _label(item: Object) -> str:
    return f"{item.colour} {item.shape}"


def _object(name: str) -> str:
    """A name with "object" instead of "shape", as questions have it; `_vary` may undo that."""
    return name.replace("shape", "object")


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
