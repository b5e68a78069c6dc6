"""What the image tokens of a scene are to tell, as vectors: how the tower is taught to see.

Every image token is a sum of codes, one orthogonal direction of the decoder's space each: the
background, and where the token is; where it holds the middle of a shape or of the print, what that
is and where it begins and ends; where it holds the middle of a character, which one that is, in
which line and at which place. The tower learns these vectors from pictures (`teach_tower.py`), and
the decoder, at the same time, to answer from the true ones (`teach_decoder.py`). Then they are put
together and learn from pictures and questions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from grids import CHARACTERS
from scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Box, Scene, character_boxes

HIDDEN = 192  # of the decoder
OCTAVES = (1, 4, 16)  # of the waves that tell a coordinate, in half turns
WAVE = 0.5  # their height; what is one of several has 1
LONGEST, LINES, SLOTS = 6, 3, 3  # characters of a line, lines, characters of one token

WAVES = 2 * len(OCTAVES) - 1
FIELDS = {  # name: how many codes
    "background": len(BACKGROUNDS),
    "token": 2 * WAVES,
    "is": 2,  # a shape, the print
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "size": len(SIZES),
    "box": 6 * WAVES,  # x1, y1, x2, y2, centre
    "place": LONGEST,
    "line": LINES,
    "character": SLOTS * len(CHARACTERS),
}
STARTS = dict(zip(FIELDS, np.cumsum([0, *FIELDS.values()]).tolist(), strict=False))
COUNT = sum(FIELDS.values())


def dictionary() -> np.ndarray:
    """(COUNT, HIDDEN) orthonormal rows: the vector of every code."""
    random = np.random.default_rng(0)
    return np.linalg.qr(random.normal(size=(HIDDEN, HIDDEN)))[0][:COUNT].astype(np.float32)


def token_codes(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """What each image token is to tell.

    Args:
        scene: seen in one view.
        grid: (rows, columns) of image tokens.

    Returns:
        (rows * columns, COUNT) float32.
    """
    rows, columns = grid
    codes = np.zeros((rows, columns, COUNT), np.float32)
    codes[:, :, STARTS["background"] + list(BACKGROUNDS).index(scene.background)] = 1
    for row in range(rows):
        for column in range(columns):
            centre = ((column + 0.5) / columns, (row + 0.5) / rows)
            _put(codes[row, column], "token", waves(centre))

    def at(box: Box) -> np.ndarray:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return codes[min(rows - 1, int(y * rows)), min(columns - 1, int(x * columns))]

    for box, code in _things(scene):
        at(box)[:] += code
    for line, place, character, box in printed(scene):
        code = at(box)
        code[STARTS["line"] + line] = 1
        code[STARTS["place"] + place] = 1
        slot = place % SLOTS * len(CHARACTERS)
        code[STARTS["character"] + slot + CHARACTERS.index(character)] = 1
    return codes.reshape(-1, COUNT)


def patch_codes(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """What lies under the middle of each patch, to help the tower along: (rows * columns, COUNT).

    Of characters only what they are, and their line and place.
    """
    rows, columns = grid
    codes = np.zeros((rows, columns, COUNT), np.float32)
    codes[:, :, STARTS["background"] + list(BACKGROUNDS).index(scene.background)] = 1

    def write(box: Box, code: np.ndarray) -> None:
        top, bottom = (max(0, round(y * rows)) for y in (box[1], box[3]))
        left, right = (max(0, round(x * columns)) for x in (box[0], box[2]))
        codes[top : max(bottom, top + 1), left : max(right, left + 1)] += code

    for box, code in _things(scene):
        write(box, code)
    for line, place, character, box in printed(scene):
        code = np.zeros(COUNT, np.float32)
        code[STARTS["line"] + line] = 1
        code[STARTS["place"] + place] = 1
        code[STARTS["character"] + CHARACTERS.index(character)] = 1
        write(box, code)
    return codes.reshape(-1, COUNT)


def field(codes: Any, name: str) -> Any:
    """The codes of one field, of an array of (..., COUNT)."""
    return codes[..., STARTS[name] : STARTS[name] + FIELDS[name]]


def tells(tokens: Any) -> Any:
    """Which image tokens, (..., COUNT), hold a thing or a character: (...) bool."""
    return (field(tokens, "is").sum(-1) > 0) | (field(tokens, "place").sum(-1) > 0)


def printed(scene: Scene) -> list[tuple[int, int, str, Box]]:
    """(line, place, character, box) of all print."""
    if not scene.text:
        return []
    places = [(i, j) for i, line in enumerate(scene.text.lines) for j in range(len(line))]
    return [
        (line, place, character, box)
        for (line, place), (character, box) in zip(places, character_boxes(scene), strict=True)
    ]


def waves(values: Sequence[float]) -> np.ndarray:
    """Coordinates from 0 to 1 as waves of several lengths, (len(values) * WAVES,)."""
    turns = np.pi * np.asarray(values, np.float32)[:, None] * np.asarray(OCTAVES, np.float32)
    # Half a turn of a cosine tells all of its places apart; more of a wave needs its sine as well.
    return WAVE * np.concatenate([np.cos(turns), np.sin(turns[:, 1:])], axis=1).flatten()


def _things(scene: Scene) -> list[tuple[Box, np.ndarray]]:
    """The shapes and the print: their boxes, and what is to be told of them."""
    things = []
    for item in scene.objects:
        code = _thing(0, item.colour, item.box)
        code[STARTS["shape"] + SHAPES.index(item.shape)] = 1
        code[STARTS["size"] + list(SIZES).index(item.size)] = 1
        things.append((item.box, code))
    if scene.text:
        things.append((scene.text.box, _thing(1, scene.text.colour, scene.text.box)))
    return things


def _thing(kind: int, colour: str, box: Box) -> np.ndarray:
    code = np.zeros(COUNT, np.float32)
    code[STARTS["is"] + kind] = 1
    code[STARTS["colour"] + list(COLOURS).index(colour)] = 1
    _put(code, "box", waves([*box, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2]))
    return code


def _put(code: np.ndarray, field: str, values: np.ndarray) -> None:
    code[STARTS[field] : STARTS[field] + len(values)] = values
