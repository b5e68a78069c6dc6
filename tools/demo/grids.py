"""Pictures that are full of things to name: grids of colours, shapes or characters, and print.

The first lesson. A grid has one field in each image token's place, and the answer names them in
that order, so every word of it is about one token at a fixed distance: the decoder learns to look
at the image in some hundred updates. On scenes, whose answers can mostly be guessed, that takes it
thousands.
"""

import random as stdlib_random
import string
from collections import Counter
from dataclasses import replace

from lettering import LINE_PITCH, TRAIN_FONTS, load_font
from PIL import Image, ImageDraw
from scenes import (
    BACKGROUNDS,
    COLOURS,
    DISTINCT,
    OVERSAMPLING,
    SHAPES,
    VIEW,
    Box,
    Colour,
    Object,
    Scene,
    World,
    character_boxes,
    draw,
    draw_shape,
    make_scene,
    train_style,
)

SIDE = 6  # fields in a row, and image tokens of a view of the demo model
FIELD = VIEW * OVERSAMPLING // SIDE  # pixels, as drawn
PALETTE = {**COLOURS, "pink": BACKGROUNDS["pink"], "brown": BACKGROUNDS["brown"]}
CHARACTERS = string.ascii_uppercase + string.digits
EMPTY = "."
MOST_LETTERS = 8  # in a line


def make_grid(
    random: stdlib_random.Random, kind: str | None = None
) -> tuple[Image.Image, str, str]:
    """A picture of VIEW x VIEW pixels, the question, the answer.

    Args:
        kind: one of GRIDS; None draws one.
    """
    if kind is None:
        (kind,) = random.choices(list(GRIDS), [share for _, share in GRIDS.values()])
    canvas = Image.new("RGB", (VIEW * OVERSAMPLING, VIEW * OVERSAMPLING))
    question, answer = GRIDS[kind][0](random, canvas)
    return canvas.reduce(OVERSAMPLING), question, answer


def _make_colours(random: stdlib_random.Random, canvas: Image.Image) -> tuple[str, str]:
    pen = ImageDraw.Draw(canvas)
    palette = random.sample(list(PALETTE), random.randint(2, 6))
    names = random.choices(palette, k=SIDE * SIDE)
    for number, name in enumerate(names):
        y, x = (FIELD * place for place in divmod(number, SIDE))
        pen.rectangle((x, y, x + FIELD - 1, y + FIELD - 1), fill=_tint(random, PALETTE[name]))
    return "Name the colors of the grid.", f"Colors: {' '.join(names)}"


def _make_characters(random: stdlib_random.Random, canvas: Image.Image) -> tuple[str, str]:
    pen, inks = _paper(random, canvas)
    ink, font, filled = random.choice(inks), random.choice(TRAIN_FONTS), random.uniform(0.15, 0.7)
    read = ""
    for number in range(SIDE * SIDE):
        if random.random() >= filled:
            read += EMPTY
            continue
        read += random.choice(CHARACTERS)
        y, x = (FIELD * (place + 0.5) for place in divmod(number, SIDE))
        place = (x + random.uniform(-6, 6), y + random.uniform(-5, 5))
        face = load_font(font, random.randint(40, 56))
        pen.text(place, read[-1], font=face, fill=_tint(random, ink), anchor="mm")
    return "Read the grid.", read


def _make_shapes(random: stdlib_random.Random, canvas: Image.Image) -> tuple[str, str]:
    pen, inks = _paper(random, canvas)
    filled, outline, names = random.uniform(0.2, 0.7), random.choice((0.0, 0.05)), []
    for number in range(SIDE * SIDE):
        if random.random() >= filled:
            names.append(EMPTY)
            continue
        names.append(random.choice(SHAPES))
        y, x = (FIELD * place for place in divmod(number, SIDE))
        side = random.uniform(0.75, 0.95) * FIELD
        left, top = (start + random.uniform(0, FIELD - side) for start in (x, y))
        tint = _tint(random, random.choice(inks))
        item = Object(names[-1], "", "", (0, 0), (0, 0, 0, 0), tint)
        draw_shape(pen, item, (left, top, left + side, top + side), outline)
    return "Name the shapes of the grid.", f"Shapes: {' '.join(names)}"


def _make_lines(random: stdlib_random.Random, canvas: Image.Image) -> tuple[str, str]:
    pen, inks = _paper(random, canvas)
    font, ink = random.choice(TRAIN_FONTS), _tint(random, random.choice(inks))
    height = random.randint(42, 54)
    face = load_font(font, height)
    pitch = LINE_PITCH * height * random.uniform(1.0, 1.2)
    y, lines = random.uniform(8, 30), []
    while y + height < canvas.height - 8:
        x = random.uniform(8, 120)
        line = ""
        while True:
            letter = random.choice(CHARACTERS)
            if x + face.getlength(line + letter) > canvas.width - 8 or len(line) == MOST_LETTERS:
                break
            line += letter
        pen.text((x, y), line, font=face, fill=ink, anchor="lt")
        lines.append(line)
        y += pitch
    return "Read all lines.", f"Lines: {' '.join(lines)}"


def _make_search(random: stdlib_random.Random, canvas: Image.Image) -> tuple[str, str]:
    """Things that differ in one respect, which names them, and what they are in another.

    The name stands right before what it asks for, and there are many in one answer: content is
    looked for, and not a place.
    """
    pen, inks = _paper(random, canvas)
    colours = [name for name, ink in PALETTE.items() if ink in inks]
    kind = random.choice(("colour", "shape", "character"))
    if kind == "colour":
        names = random.sample(colours, random.randint(2, len(colours)))
        things = [(name, random.choice(SHAPES), name) for name in names]
    elif kind == "shape":
        names = random.sample(SHAPES, random.randint(2, len(SHAPES)))
        things = [(name, name, random.choice(colours)) for name in names]
    else:
        names = random.sample(CHARACTERS, random.randint(2, 12))
        things = [(name, name, random.choice(colours)) for name in names]
    font, outline = random.choice(TRAIN_FONTS), random.choice((0.0, 0.05))
    fields = random.sample(range(SIDE * SIDE), len(things))
    for field, (_, what, colour) in zip(fields, things, strict=True):
        y, x = (FIELD * place for place in divmod(field, SIDE))
        tint = _tint(random, PALETTE[colour])
        if kind == "character":
            face = load_font(font, random.randint(40, 56))
            pen.text((x + FIELD / 2, y + FIELD / 2), what, font=face, fill=tint, anchor="mm")
            continue
        side = random.uniform(0.75, 0.95) * FIELD
        left, top = (start + random.uniform(0, FIELD - side) for start in (x, y))
        item = Object(what, "", "", (0, 0), (0, 0, 0, 0), tint)
        draw_shape(pen, item, (left, top, left + side, top + side), outline)
    pairs = [(name, what if kind == "colour" else colour) for name, what, colour in things]
    asked = "shape" if kind == "colour" else "color"
    if random.random() < 0.25:
        in_order = [pair for _, pair in sorted(zip(fields, pairs, strict=True))]
        question = f"Name the {asked} of each {kind}."
        return question, f"Each: {', '.join(map(' '.join, in_order))}"
    question = f"Name the {asked} of: {', '.join(name for name, _ in pairs)}."
    return question, f"Found: {', '.join(map(' '.join, pairs))}"


def _paper(
    random: stdlib_random.Random, canvas: Image.Image
) -> tuple[ImageDraw.ImageDraw, list[Colour]]:
    """Fill the canvas with a background; returns a pen and the colours that stand out on it."""
    pen, background = ImageDraw.Draw(canvas), random.choice(list(BACKGROUNDS.values()))
    pen.rectangle((0, 0, *canvas.size), fill=background)
    return pen, [ink for ink in PALETTE.values() if _distance(ink, background) > 1.3 * DISTINCT]


def _tint(random: stdlib_random.Random, colour: Colour) -> Colour:
    red, green, blue = (min(255, max(0, value + random.randint(-12, 12))) for value in colour)
    return red, green, blue


def _distance(one: Colour, other: Colour) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5


GRIDS = {  # how to make each kind, and its share
    "colors": (_make_colours, 0.05),
    "shapes": (_make_shapes, 0.1),
    "characters": (_make_characters, 0.15),
    "lines": (_make_lines, 0.2),
    "search": (_make_search, 0.5),
}


def make_drill(random: stdlib_random.Random, world: World) -> tuple[Image.Image, str, str]:
    """A scene of shapes, and everything about each of them that one word alone picks out.

    In the answer the word that names an object stands right before what is to be seen of it.
    """
    scene = make_scene(random, "shapes", replace(world, large=0.0))
    key, other = random.choice((("shape", "colour"), ("colour", "shape")))
    counts = Counter(getattr(item, key) for item in scene.objects)
    items = [item for item in scene.objects if counts[getattr(item, key)] == 1]
    if not items:
        return make_drill(random, world)
    random.shuffle(items)
    keys = [getattr(item, key) for item in items]
    facts = [
        f"{getattr(item, key)}: {getattr(item, other)}, {item.size}, "
        f"{item.centre[0]:.2f} {item.centre[1]:.2f}"
        for item in items
    ]
    what = "color" if other == "colour" else "shape"
    question = f"Name {what}, size and center of: {', '.join(keys)}."
    return draw(scene, train_style(random)), question, "; ".join(facts)


def make_map(random: stdlib_random.Random, world: World) -> tuple[Image.Image, str, str]:
    """A scene, and what is to be seen in the middle of each field of a grid laid over it.

    The questions are those of the grids, and so is the place of each word of the answer: what is
    new is that things have any place and size, and are larger than a field.
    """
    kind = random.choice(("colors", "shapes", "sizes", "characters", "characters"))
    kinds = ("text", "text", "mixed") if kind == "characters" else ("shapes", "mixed")
    square = replace(world, square=True)
    tries = [make_scene(random, random.choice(kinds), square) for _ in range(3)]
    scene = max(tries, key=_fullness)
    centres = [((x + 0.5) / SIDE, (y + 0.5) / SIDE) for y in range(SIDE) for x in range(SIDE)]
    if kind == "characters":
        found = [(box, character) for character, box in character_boxes(scene)]
        return _draw(random, scene), "Read the grid.", "".join(_seen(found, centres))
    name = {"colors": "colour", "shapes": "shape", "sizes": "size"}[kind]
    found = [(item.box, getattr(item, name)) for item in scene.objects]
    answer = " ".join(_seen(found, centres))
    return _draw(random, scene), f"Name the {kind} of the grid.", f"{kind.capitalize()}: {answer}"


def _fullness(scene: Scene) -> int:
    return len(scene.objects) + sum(map(len, scene.text.lines if scene.text else ()))


def _seen(found: list[tuple[Box, str]], points: list[tuple[float, float]]) -> list[str]:
    """The name of what is at each point, or EMPTY."""
    return [
        next((name for (x1, y1, x2, y2), name in found if x1 <= x < x2 and y1 <= y < y2), EMPTY)
        for x, y in points
    ]


def _draw(random: stdlib_random.Random, scene: Scene) -> Image.Image:
    return draw(scene, train_style(random))
