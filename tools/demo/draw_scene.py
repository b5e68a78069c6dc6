"""Draw scenes as pictures, in the styles of training and of the test set."""

import io
import math
import random as stdlib_random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from lettering import lay_out, load_font
from PIL import Image, ImageDraw, ImageFilter
from scenes import BACKGROUNDS, COLORS, OVERSAMPLING, Box, Object, Scene, Text

RING = 0.24  # thickness of a ring, as a share of its side


def _fill_unit_square(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretch a polygon so that its bounding box is the unit square."""
    left, top = (min(values) for values in zip(*points, strict=True))
    right, bottom = (max(values) for values in zip(*points, strict=True))
    return [((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in points]


POLYGONS = {  # corners (x, y) in a box from (0, 0) to (1, 1), with y pointing down
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "cross": [
        *((0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67)),
        *((0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)),
    ],
    "star": _fill_unit_square(
        [
            (radius * math.sin(turn * math.pi / 5), -radius * math.cos(turn * math.pi / 5))
            for turn, radius in enumerate((1.0, 0.42) * 5)
        ]
    ),
}


@dataclass(frozen=True)
class Style:
    """How a scene is drawn.

    Attributes:
        gradient: (x, y) change of the background's brightness (of 255) from left to right and from
            top to bottom.
        outline: width of the darker outline of shapes, as a share of their side.
        noise: standard deviation of the noise per pixel and channel (of 255).
        blur: radius in pixels.
        jpeg: JPEG quality with which the picture is compressed; 0 does not compress it.
        seed: for the noise.
    """

    gradient: tuple[float, float] = (0.0, 0.0)
    outline: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    seed: int = 0


def train_style(random: stdlib_random.Random) -> Style:
    """Plain or slightly graded backgrounds, and shapes with no outline or a thin one."""
    gradient = (random.uniform(-24, 24), random.uniform(-24, 24))
    return Style(
        gradient=gradient if random.random() < 0.5 else (0.0, 0.0),
        outline=0.05 if random.random() < 0.35 else 0.0,
    )


def shift_style(random: stdlib_random.Random) -> Style:
    """A style with at least one feature that `train_style` never has."""
    style = replace(train_style(random), seed=random.getrandbits(32))
    changes = random.sample(("outline", "noise", "blur", "jpeg"), random.randint(1, 2))
    return replace(
        style,
        outline=random.uniform(0.08, 0.12) if "outline" in changes else style.outline,
        noise=random.uniform(6, 14) if "noise" in changes else 0.0,
        blur=random.uniform(0.5, 0.9) if "blur" in changes else 0.0,
        jpeg=random.randint(30, 60) if "jpeg" in changes else 0,
    )


def draw(scene: Scene, style: Style) -> Image.Image:
    """Draw a scene as an RGB picture of `scene.size` pixels."""
    width, height = scene.size
    canvas = _draw_background(scene, style)
    pen = ImageDraw.Draw(canvas)
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        box = (x1 * canvas.width, y1 * canvas.height, x2 * canvas.width, y2 * canvas.height)
        _draw_shape(pen, item, box, style.outline)
    if scene.text:
        _draw_text(canvas, scene.text)
    picture = canvas.reduce(OVERSAMPLING)
    assert picture.size == (width, height)
    if style.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(style.blur))
    if style.noise:
        noise = np.random.default_rng(style.seed).normal(0, style.noise, (height, width, 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    if style.jpeg:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=style.jpeg)
        picture = Image.open(file).convert("RGB")
    return picture


def _draw_background(scene: Scene, style: Style) -> Image.Image:
    """The background at `OVERSAMPLING` times the size of the scene."""
    width, height = (side * OVERSAMPLING for side in scene.size)
    color = BACKGROUNDS[scene.background]
    if style.gradient == (0.0, 0.0):
        return Image.new("RGB", (width, height), color)
    # The four corners are enough, because the resize between them is linear.
    corners = Image.new("RGB", (2, 2))
    for x in (0, 1):
        for y in (0, 1):
            added = (x - 0.5) * style.gradient[0] + (y - 0.5) * style.gradient[1]
            shade = tuple(min(255, max(0, round(value + added))) for value in color)
            corners.putpixel((x, y), shade)
    return corners.resize((width, height), Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


def _draw_shape(pen: ImageDraw.ImageDraw, item: Object, box: Box, outline: float) -> None:
    """Draw one object into a box given in pixels of the canvas."""
    x1, y1, x2, y2 = box
    side = x2 - x1
    # Black cannot have a darker outline, and a star is too thin for a full one.
    edge = 0 if item.color == "black" else round(outline * side)
    edge = edge // 2 if item.shape == "star" else edge
    rim = tuple(round(value * 0.5) for value in item.tint)
    inner = (x1, y1, x2 - 1, y2 - 1)
    if item.shape == "circle":
        pen.ellipse(inner, fill=item.tint, outline=rim, width=edge)
    elif item.shape == "ring":
        thick = round(RING * side)
        edge = min(edge, thick // 4)
        pen.ellipse(inner, outline=rim if edge else item.tint, width=thick)
        if edge:
            inset = (x1 + edge, y1 + edge, x2 - 1 - edge, y2 - 1 - edge)
            pen.ellipse(inset, outline=item.tint, width=max(1, thick - 2 * edge))
    else:
        points = [(x1 + x * (side - 1), y1 + y * (side - 1)) for x, y in POLYGONS[item.shape]]
        if edge:
            pen.polygon(points, fill=item.tint, outline=rim, width=edge)
        else:
            pen.polygon(points, fill=item.tint)


def _draw_text(canvas: Image.Image, text: Text) -> None:
    """Print the lines onto the canvas so that their ink fills the text's box."""
    letter_height = round(text.letter_height * OVERSAMPLING)
    layout = lay_out(text.lines, text.font, letter_height, text.centred)
    ink = Image.new("L", layout.size)
    pen = ImageDraw.Draw(ink)
    for line, origin in zip(text.lines, layout.origins, strict=True):
        pen.text(origin, line, fill=255, font=load_font(text.font, letter_height), anchor="la")
    if text.angle:
        ink = ink.rotate(text.angle, Image.Resampling.BILINEAR, expand=True)
    if text.ink < 1:
        ink = ink.point(lambda cover: round(cover * text.ink))
    place = (round(text.box[0] * canvas.width), round(text.box[1] * canvas.height))
    canvas.paste(COLORS[text.color], place, ink)
