"""Questions about two images with their true answers."""

import random as stdlib_random

from nouns import fits, noun_phrase, unique_names
from questions import QUESTIONS, Question
from scenes import Object, Scene
from wordings import DIFFERENCE, LINES, MORE, vary

ABOUT_ONE = ("count", "attribute", "yesno")  # also asked about one of the two images


def ask_both(random: stdlib_random.Random, first: Scene, second: Scene) -> Question | None:
    """Draw a question about two images, or None if they do not allow the one drawn."""
    form = random.choice((_difference, _difference, _more, _in_one_image))
    return _both(random, first, form(random, first, second))


def ask_difference(random: stdlib_random.Random, first: Scene, second: Scene) -> Question | None:
    """Ask what differs between two images; None if one sentence cannot answer that."""
    return _both(random, first, _difference(random, first, second))


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


def _both(
    random: stdlib_random.Random, first: Scene, asked: tuple[str, ...] | None
) -> Question | None:
    if asked is None:
        return None
    question, answer, *also = asked
    return Question("compare", vary(random, question, first), answer, also=tuple(also))


def _difference(
    random: stdlib_random.Random, first: Scene, second: Scene
) -> tuple[str, ...] | None:
    answers = differences(random, first, second)
    return (random.choice(DIFFERENCE), *answers) if answers else None


def _missing(scene: Scene, ordinal: str, item: Object) -> list[str]:
    """Sentences about an object that only one of two images has."""
    forms = (("", item.color, item.shape), (item.size, item.color, item.shape))
    return [
        f"The {noun_phrase(words)} is only in the {ordinal} image."
        for words in forms
        if sum(fits(other, words) for other in scene.objects) == 1
    ]


def _changed(
    random: stdlib_random.Random, first: Scene, second: Scene, old: Object, new: Object
) -> list[str]:
    """Sentences about an object that looks different in the second image, in random order."""
    attribute = next(
        name for name in ("color", "shape", "size") if getattr(old, name) != getattr(new, name)
    )
    second_names = unique_names(second, new, without=attribute)
    names = [name for name in unique_names(first, old, without=attribute) if name in second_names]
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
    asked = QUESTIONS[random.choice(ABOUT_ONE)](random, scene)
    if asked is None:
        return None
    question, answer = asked[0].replace(" in the image", ""), asked[1]
    question = question.replace("Does the image show", "Do you see")
    return (
        f"{question[:-1]} in the {ordinal} image{question[-1]}",
        f"{answer[:-1]} in the {ordinal} image.",
    )
