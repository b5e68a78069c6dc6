"""Noun phrases for the objects of a scene."""

import random as stdlib_random

from scenes import COLORS, SHAPES, SIZES, Object, Scene

Words = tuple[str, str, str]  # size, color, shape; an empty word says nothing


def unique_names(scene: Scene, item: Object, without: str = "") -> list[str]:
    """Noun phrases that fit only this object, of three words only if no shorter one fits."""
    size = "" if without == "size" else item.size
    color = "" if without == "color" else item.color
    shape = "" if without == "shape" else item.shape
    forms = (
        ("", "", shape),
        ("", color, ""),
        ("", color, shape),
        (size, "", shape),
        (size, color, shape),
    )
    names = [
        noun_phrase(words)
        for words in dict.fromkeys(forms)
        if any(words) and sum(fits(other, words) for other in scene.objects) == 1
    ]
    return [name for name in names if len(name.split()) <= 2] or names


def fits(item: Object, words: Words) -> bool:
    """Whether words describe an object; an empty word says nothing."""
    size, color, shape = words
    return size in ("", item.size) and color in ("", item.color) and shape in ("", item.shape)


def some_words(random: stdlib_random.Random, item: Object | None) -> Words:
    """One or two words that describe an object, or random ones if there is none."""
    size = item.size if item else random.choice(list(SIZES))
    color = item.color if item else random.choice(list(COLORS))
    shape = item.shape if item else random.choice(SHAPES)
    return random.choice((("", color, ""), ("", "", shape), ("", color, shape), (size, "", shape)))


def noun_phrase(words: Words) -> str:
    size, color, shape = words
    return " ".join(word for word in (size, color, shape or "shape") if word)


def label_of(item: Object) -> str:
    return f"{item.color} {item.shape}"


def plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
