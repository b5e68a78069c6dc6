"""Codes for what each image token of a scene should say, to train the tower on.

Every image token is a sum of codes, each of which has its own orthogonal direction in the decoder's
space. Codes say what the background is and where the token is. A token that holds the middle of a
shape or of the print has codes for what that is and for its box. A token that holds the middle of a
character has codes for the character, its line and its place in the line.

The tower learns to produce these vectors from pictures (`teach_tower.py`). Independently, the
decoder learns to answer from the true vectors (`teach_decoder.py`). Then the two are joined and
trained together on pictures and questions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Box, Scene, character_boxes
from words import CHARACTERS

HIDDEN = 192  # of the decoder
OCTAVES = (1, 4, 16)  # frequencies of the waves that encode a coordinate, in half turns
HEIGHT = 0.5  # amplitude of the waves; a code that names one of several words is 1
COORDINATE = 2 * len(OCTAVES) - 1  # number of codes for one coordinate
PLACES, LINES, SLOTS = 6, 3, 3  # most characters in a line, lines, characters in an image token

FIELDS = {  # name -> number of codes
    "background": len(BACKGROUNDS),
    "token": 2 * COORDINATE,
    "is": 2,  # a shape or the print
    "color": len(COLORS),
    "shape": len(SHAPES),
    "size": len(SIZES),
    "box": 6 * COORDINATE,  # x1, y1, x2, y2, and x, y of the center
    "place": PLACES,
    "line": LINES,
    "character": SLOTS * len(CHARACTERS),
}
STARTS = dict(zip(FIELDS, np.cumsum([0, *FIELDS.values()]).tolist(), strict=False))
COUNT = sum(FIELDS.values())


def dictionary() -> np.ndarray:
    """The vector of every code: (COUNT, HIDDEN), with orthonormal rows."""
    random = np.random.default_rng(0)
    return np.linalg.qr(random.normal(size=(HIDDEN, HIDDEN)))[0][:COUNT].astype(np.float32)


def token_codes(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """The codes of every image token; the token at a thing's or character's middle describes it.

    Args:
        scene: a scene of one view.
        grid: (rows, columns) of image tokens.

    Returns:
        (rows * columns, COUNT) float32.
    """
    rows, columns = grid
    codes = _blank(scene, grid)
    for row in range(rows):
        for column in range(columns):
            _put(codes[row, column], "token", waves([(column + 0.5) / columns, (row + 0.5) / rows]))
    for box, code in _told(scene, SLOTS):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        _write(codes[min(rows - 1, int(y * rows)), min(columns - 1, int(x * columns))], code)
    return codes.reshape(-1, COUNT)


def patch_codes(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """The codes of every patch, for an auxiliary loss: (rows * columns, COUNT) float32."""
    rows, columns = grid
    codes = _blank(scene, grid)
    for box, code in _told(scene, 1):
        top, bottom = (max(0, round(y * rows)) for y in (box[1], box[3]))
        left, right = (max(0, round(x * columns)) for x in (box[0], box[2]))
        _write(codes[top : max(bottom, top + 1), left : max(right, left + 1)], code)
    return codes.reshape(-1, COUNT)


def field(codes: Any, name: str) -> Any:
    """The codes of one field in an array of (..., COUNT)."""
    return codes[..., STARTS[name] : STARTS[name] + FIELDS[name]]


def tells(tokens: Any) -> Any:
    """Whether image tokens, (..., COUNT), describe a thing or a character: (...) bool."""
    return (field(tokens, "is").sum(-1) > 0) | (field(tokens, "place").sum(-1) > 0)


def waves(values: Sequence[float]) -> np.ndarray:
    """Encode coordinates from 0 to 1 as waves of several lengths: (len(values) * COORDINATE,)."""
    turns = np.pi * np.asarray(values, np.float32)[:, None] * np.asarray(OCTAVES, np.float32)
    # Half a turn of a cosine has no value twice; more of a wave also needs its sine.
    return HEIGHT * np.concatenate([np.cos(turns), np.sin(turns[:, 1:])], axis=1).flatten()


def _blank(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """(rows, columns, COUNT) with only the codes of the background."""
    codes = np.zeros((*grid, COUNT), np.float32)
    codes[:, :, STARTS["background"] + list(BACKGROUNDS).index(scene.background)] = 1
    return codes


def _told(scene: Scene, slots: int) -> Iterator[tuple[Box, np.ndarray]]:
    """The boxes and codes of the shapes, the print and its characters.

    Args:
        scene: what to describe.
        slots: number of successive characters in a line that have separate codes, so that one
            image token can describe them all.
    """
    for item in scene.objects:
        code = _thing(0, item.color, item.box)
        code[STARTS["shape"] + SHAPES.index(item.shape)] = 1
        code[STARTS["size"] + list(SIZES).index(item.size)] = 1
        yield item.box, code
    if not scene.text:
        return
    yield scene.text.box, _thing(1, scene.text.color, scene.text.box)
    places = [(i, j) for i, line in enumerate(scene.text.lines) for j in range(len(line))]
    for (line, place), (character, box) in zip(places, character_boxes(scene), strict=True):
        code = np.zeros(COUNT, np.float32)
        code[STARTS["line"] + line] = 1
        code[STARTS["place"] + place] = 1
        slot = place % slots * len(CHARACTERS)
        code[STARTS["character"] + slot + CHARACTERS.index(character)] = 1
        yield box, code


def _thing(kind: int, color: str, box: Box) -> np.ndarray:
    code = np.zeros(COUNT, np.float32)
    code[STARTS["is"] + kind] = 1
    code[STARTS["color"] + list(COLORS).index(color)] = 1
    _put(code, "box", waves([*box, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2]))
    return code


def _put(code: np.ndarray, name: str, values: np.ndarray) -> None:
    code[STARTS[name] : STARTS[name] + len(values)] = values


def _write(codes: np.ndarray, code: np.ndarray) -> None:
    """Copy the codes that are not 0 into (..., COUNT) codes, in place."""
    codes[..., code != 0] = code[code != 0]
