"""The forms of the questions that the demo model was taught, as its model card lists them."""

from collections.abc import Iterable

import wordings
from comparisons import ABOUT_ONE
from places import RELATIONS
from scenes import COLORS, SHAPES, SIZES

THING, THINGS = "[thing]", "[things]"
SIDE, OPPOSITE = "[side]", "[opposite side]"

# By category: templates, and what fills their gaps.
TEMPLATES: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "describe": [(wordings.DESCRIBE, ())],
    "count": [(wordings.COUNT, (THINGS,))],
    "attribute": [
        (wordings.COLOR, (THING,)),
        (wordings.SHAPE, (THING,)),
        (wordings.SIZE, (THING,)),
    ],
    "position": [
        (wordings.WHERE, (THING,)),
        (wordings.RELATED, (THING, SIDE, THING)),
        (wordings.BESIDE, (SIDE, THING)),
        (wordings.EITHER, (THING, SIDE, OPPOSITE, THING)),
        (wordings.HIGHER, ("higher", THING, THING)),
        (wordings.HIGHER, ("lower", THING, THING)),
        (wordings.DOWNWARD, ()),
    ],
    "yesno": [(wordings.EXISTS, ("a [thing]",)), (wordings.EXISTS, ("any text",))],
    "text": [(wordings.READ, ()), (wordings.READ_LINE, ("[first]",))],
    "box": [(wordings.LOCATE, (THING,)), (wordings.DETECT, ("objects",))],
    "compare": [(wordings.DIFFERENCE, ()), (wordings.MORE, ("objects",))],
}


def forms(category: str) -> list[str]:
    """Every form of question of a category, gaps filled with what stands there."""
    return [
        template.format(*gaps) for templates, gaps in TEMPLATES[category] for template in templates
    ]


def listed() -> str:
    """The forms as a Markdown list, and what the words in brackets stand for."""
    lines = [f"- **{category}**: {' '.join(forms(category))}" for category in TEMPLATES]
    lines[-1] += (
        f" Also the questions of {', '.join(ABOUT_ONE[:-1])} and {ABOUT_ONE[-1]} about one of the "
        'two, which end with "in the first image" or "in the second image".'
    )
    return "\n".join(
        [
            *lines,
            "",
            f"A thing is a {_either(SHAPES)}, or an object, which is any of them.",
            f"Its name may have a size ({_either(SIZES)}) and a color ({_either(COLORS)}).",
            "The text and the background can be things, too.",
            f'A side is {_either(RELATIONS)}; left and right may begin with "to the".',
            f"A line is the {_either(wordings.LINES)} one.",
            '"Color" may be spelled "colour", and an object may be called a shape.',
        ]
    )


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
