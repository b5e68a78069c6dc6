"""Invent scenes of a few shapes and printed lines."""

import math
import random as stdlib_random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lettering import PLAIN_FONTS, SHIFT_FONTS, TRAIN_FONTS, lay_out, load_font
from words import make_text

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 as shares of the width and height
Color = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = {"small": (0.16, 0.20), "large": (0.31, 0.38)}  # side, as a share of the canvas unit
COLORS: dict[str, Color] = {
    "red": (215, 35, 40),
    "green": (35, 155, 60),
    "blue": (35, 80, 220),
    "yellow": (245, 210, 30),
    "purple": (140, 50, 170),
    "orange": (245, 130, 25),
    "black": (18, 18, 18),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, Color] = {
    "white": (248, 248, 248),
    "light gray": (205, 205, 205),
    "light blue": (185, 215, 245),
    "light green": (190, 230, 190),
    "light yellow": (250, 240, 190),
    "pink": (250, 200, 215),
    "black": (14, 14, 14),
    "dark gray": (78, 78, 78),
    "dark blue": (22, 32, 90),
    "brown": (100, 62, 35),
}
KINDS = ("shapes", "text", "mixed")

VIEW = 96  # side in pixels of a square with about the area of a one-view canvas
GRIDS = ((2, 1), (1, 2), (2, 2), (2, 2), (3, 2), (2, 3))  # (columns, rows) of tiles, if large
DISTINCT = 95  # smallest RGB distance between an object's color and the background's
LEGIBLE = 3.0  # smallest contrast ratio of print in full ink, as WCAG defines it
GAP = 2  # pixels left free between things
OVERSAMPLING = 4  # scenes are drawn this many times larger, then reduced


@dataclass(frozen=True)
class Object:
    """One drawn shape.

    Attributes:
        centre: (x, y) as shares of the canvas.
        tint: the color as drawn, which is slightly off the named one.
    """

    shape: str
    color: str
    size: str
    centre: tuple[float, float]
    box: Box
    tint: Color


@dataclass(frozen=True)
class Text:
    """Printed lines.

    Attributes:
        letter_height: height of a capital H, in pixels of the canvas.
        angle: tilt in degrees, counterclockwise.
        box: of the ink of all lines; for tilted text, of the tilted rectangle.
        ink: opacity of the print, 0 to 1.
    """

    lines: tuple[str, ...]
    color: str
    font: str
    letter_height: float
    centred: bool
    angle: float
    box: Box
    ink: float = 1.0


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows and a question can ask about.

    Attributes:
        size: (width, height) of the canvas in pixels.
        grid: (columns, rows) of the tiles that the demo model makes of it; (1, 1) is one view.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    background: str
    objects: tuple[Object, ...] = ()
    text: Text | None = None


@dataclass(frozen=True)
class World:
    """What scenes may hold.

    Attributes:
        fonts: names that `lettering.load_font` knows.
        held_out: whether to print words of the test split instead of the training split.
        large: share of canvases that are split into tiles.
        most: most objects in a scene.
        tilt: largest tilt of text, in degrees.
        fade: half of the print loses up to this share of its ink.
        repeats: as in `make_text`. Repeated characters defeat a model that finds its place in a
            word by the previous character.
    """

    fonts: tuple[str, ...] = TRAIN_FONTS
    held_out: bool = False
    large: float = 0.12
    most: int = 5
    tilt: float = 0.0
    fade: float = 0.0
    repeats: bool = False


TRAIN_WORLD = World(large=0.06, fade=0.4, repeats=True)  # large canvases are costly to train on
TEST_WORLD = World(held_out=True, fonts=PLAIN_FONTS)
SHIFT_WORLD = World(held_out=True, fonts=SHIFT_FONTS, tilt=6.0)


def make_scene(random: stdlib_random.Random, kind: str, world: World = TRAIN_WORLD) -> Scene:
    """Invent a scene.

    Args:
        random: the source of randomness.
        kind: "shapes" (1 to `world.most` objects), "text" (1 to 3 lines) or "mixed" (1 to 3
            objects and a line).
        world: what the scene may hold.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of scene, expected one of {', '.join(KINDS)}")
    size, grid = _make_canvas(random, world)
    scene = Scene(size, grid, random.choice(list(BACKGROUNDS)))
    if kind != "shapes":
        lines = 1 if kind == "mixed" else random.choice((1, 1, 2, 3))
        scene = replace(scene, text=_make_text(random, scene, lines, world))
    if kind == "text":
        return scene
    most = min(3, world.most) if kind == "mixed" else world.most
    # The larger of two numbers, since full scenes allow more questions.
    count = max(random.randint(1, most), random.randint(1, most))
    objects = _make_objects(random, scene, count)
    # A wide text may leave no room for an object: start again.
    return replace(scene, objects=objects) if objects else make_scene(random, kind, world)


def make_pair(random: stdlib_random.Random, world: World = TRAIN_WORLD) -> tuple[Scene, Scene]:
    """Invent two scenes of one view each: equal, different in one object, or unrelated."""
    world = replace(world, large=0.0)
    first = make_scene(random, "shapes", world)
    choice = random.random()
    if choice < 0.3:
        return first, make_scene(random, "shapes", world)
    if choice < 0.4:
        return first, first
    if len(first.objects) > 1 and choice < 0.55:
        gone = random.randrange(len(first.objects))
        fewer = replace(first, objects=first.objects[:gone] + first.objects[gone + 1 :])
        return (first, fewer) if random.random() < 0.5 else (fewer, first)
    changed = random.randrange(len(first.objects))
    objects = list(first.objects)
    objects[changed] = _change(random, first, changed)
    return first, replace(first, objects=tuple(objects))


def character_boxes(scene: Scene) -> list[tuple[str, Box]]:
    """Every printed character and its box; the text must not be tilted."""
    if scene.text is None:
        return []
    width, height = (side * OVERSAMPLING for side in scene.size)
    letter_height = round(scene.text.letter_height * OVERSAMPLING)
    font = load_font(scene.text.font, letter_height)
    layout = lay_out(scene.text.lines, scene.text.font, letter_height, scene.text.centred)
    left, top = scene.text.box[0] * width, scene.text.box[1] * height
    boxes = []
    for line, origin in zip(scene.text.lines, layout.origins, strict=True):
        for place, character in enumerate(line):
            x1, y1, x2, y2 = font.getbbox(line[: place + 1], anchor="la")
            x1 = font.getlength(line[:place])
            x1, x2 = (origin[0] + left + x for x in (x1, x2))
            y1, y2 = (origin[1] + top + y for y in (y1, y2))
            boxes.append((character, (x1 / width, y1 / height, x2 / width, y2 / height)))
    return boxes


def is_distinct(color: str, background: str) -> bool:
    """Whether an object of this color is easy to see on this background."""
    return math.dist(COLORS[color], BACKGROUNDS[background]) >= DISTINCT


def is_legible(color: str, background: str) -> bool:
    """Whether print of this color is easy to read on this background."""
    light, dark = sorted((_luminance(COLORS[color]), _luminance(BACKGROUNDS[background])))[::-1]
    return (light + 0.05) / (dark + 0.05) >= LEGIBLE


def _luminance(color: Color) -> float:
    red, green, blue = (
        (value / 255 / 12.92) if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4
        for value in color
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _make_canvas(
    random: stdlib_random.Random, world: World
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((width, height), grid): mostly one view, sometimes large enough to be split into tiles."""
    if random.random() >= world.large:
        area = VIEW**2 * random.uniform(0.75, 1.15)
        width = math.sqrt(area) * math.sqrt(random.uniform(0.7, 1.43))
        return (round(width), round(area / width)), (1, 1)
    columns, rows = random.choice(GRIDS)
    tiles = columns * rows
    # Below 1.1 two tiles would still be one view; six tiles are costly enough at scale 1.
    scale = random.uniform(1.15, 1.5) if tiles == 2 else random.uniform(0.9, 1.4 - 0.05 * tiles)
    return (round(columns * VIEW * scale), round(rows * VIEW * scale)), (columns, rows)


def _make_text(random: stdlib_random.Random, scene: Scene, line_count: int, world: World) -> Text:
    """Invent printed lines that fit into one view or tile of the scene."""
    lines = tuple(
        make_text(random, held_out=world.held_out, repeats=world.repeats) for _ in range(line_count)
    )
    colors = [color for color in COLORS if is_legible(color, scene.background)]
    color, font = random.choice(colors), random.choice(world.fonts)
    centred = random.random() < 0.5
    angle = random.uniform(-world.tilt, world.tilt)
    width, height = scene.size
    columns, rows = scene.grid
    cell = (width / columns, height / rows)  # lines that cross tiles are hard to read
    scale = min(cell) / VIEW if scene.grid != (1, 1) else 1.0
    letter_height = random.uniform(11, 20) * max(scale, 1.0)
    while True:
        layout = lay_out(lines, font, round(letter_height * OVERSAMPLING), centred)
        size = _turned([side / OVERSAMPLING for side in layout.size], angle)
        if all(side + 2 * GAP <= space for side, space in zip(size, cell, strict=True)):
            break
        letter_height *= 0.92
    column, row = random.randrange(columns), random.randrange(rows)
    x = column * cell[0] + random.uniform(GAP, cell[0] - GAP - size[0])
    y = row * cell[1] + random.uniform(GAP, cell[1] - GAP - size[1])
    box = (x / width, y / height, (x + size[0]) / width, (y + size[1]) / height)
    ink = _ink(random, color, scene.background, world.fade)
    return Text(lines, color, font, letter_height, centred, angle, box, ink)


def _ink(random: stdlib_random.Random, color: str, background: str, fade: float) -> float:
    """Opacity of print: half of it is faint, if its color can still be recognized then."""
    # Draw no number if nothing fades, so that the test set does not change.
    ink = random.uniform(1 - fade, 1) if fade and random.random() < 0.5 else 1.0
    pairs = zip(COLORS[color], BACKGROUNDS[background], strict=True)
    seen = [ink * over + (1 - ink) * under for over, under in pairs]
    nearest = min(COLORS, key=lambda name: math.dist(COLORS[name], seen))
    return ink if nearest == color else 1.0


def _make_objects(random: stdlib_random.Random, scene: Scene, count: int) -> tuple[Object, ...]:
    """Invent up to `count` objects, as many as find room, sorted from left to right."""
    colors = [color for color in COLORS if is_distinct(color, scene.background)]
    shapes: Sequence[str] = SHAPES
    if random.random() < 0.6:  # fewer kinds, so that there are equal things to count
        colors = random.sample(colors, 2)
    if random.random() < 0.6:
        shapes = random.sample(SHAPES, 2)
    objects: list[Object] = []
    taken = [scene.text.box] if scene.text else []
    for _ in range(count):
        shape, color = random.choice(shapes), random.choice(colors)
        size = "large" if random.random() < (0.5 if count < 4 else 0.35) else "small"
        item = _place(random, scene, shape, color, size, taken)
        item = item or _place(random, scene, shape, color, "small", taken)
        if item:
            objects.append(item)
            taken.append(item.box)
    return tuple(sorted(objects, key=lambda item: item.centre))


def _place(
    random: stdlib_random.Random,
    scene: Scene,
    shape: str,
    color: str,
    size: str,
    taken: list[Box],
) -> Object | None:
    """An object in a free place, or None if a few tries find no place."""
    width, height = scene.size
    side = random.uniform(*SIZES[size]) * math.sqrt(width * height)
    for _ in range(25):
        x = random.uniform(GAP, width - GAP - side)
        y = random.uniform(GAP, height - GAP - side)
        box = (x / width, y / height, (x + side) / width, (y + side) / height)
        if not any(_meet(box, other, scene.size) for other in taken):
            return Object(shape, color, size, _centre(box), box, _tint(random, color))
    return None


def _meet(one: Box, other: Box, size: tuple[int, int]) -> bool:
    """Whether two boxes are closer to each other than the gap."""
    gap_x, gap_y = GAP / size[0], GAP / size[1]
    return (
        one[0] < other[2] + gap_x
        and other[0] < one[2] + gap_x
        and one[1] < other[3] + gap_y
        and other[1] < one[3] + gap_y
    )


def _tint(random: stdlib_random.Random, color: str) -> Color:
    red, green, blue = (
        min(255, max(0, value + random.randint(-14, 14))) for value in COLORS[color]
    )
    return red, green, blue


def _turned(size: Sequence[float], angle: float) -> tuple[float, float]:
    """(width, height) of the bounding box of a rectangle turned by `angle` degrees."""
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    return size[0] * cos + size[1] * sin, size[0] * sin + size[1] * cos


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _change(random: stdlib_random.Random, scene: Scene, index: int) -> Object:
    """Object `index` of the scene, in another color, shape or size."""
    item = scene.objects[index]
    attribute = random.choice(("color", "shape", "size"))
    if attribute == "shape":
        return replace(item, shape=random.choice([name for name in SHAPES if name != item.shape]))
    if attribute == "size":
        resized = _resize(random, scene, item)
        others = [other.box for other in scene.objects if other is not item]
        inside = all(0 <= edge <= 1 for edge in resized.box)
        if inside and not any(_meet(resized.box, other, scene.size) for other in others):
            return resized
    colors = [name for name in COLORS if is_distinct(name, scene.background)]
    color = random.choice([name for name in colors if name != item.color])
    return replace(item, color=color, tint=_tint(random, color))


def _resize(random: stdlib_random.Random, scene: Scene, item: Object) -> Object:
    size = "small" if item.size == "large" else "large"
    width, height = scene.size
    half = random.uniform(*SIZES[size]) * math.sqrt(width * height) / 2
    x, y = item.centre
    box = (x - half / width, y - half / height, x + half / width, y + half / height)
    return replace(item, size=size, box=box)
