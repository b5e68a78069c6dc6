"""Drawn messages and rows are read or refused; no other exception leaves the reader."""

import base64
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import golden
from mutations import Bounds, seeds
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.rows import ROW_BESIDE, ROW_KEYS, read_rows

PROCESSOR = Processor.from_folder(golden("new_names").folder)
PICTURE = make_picture(8, 8, 1)
FILE = io.BytesIO()
PICTURE.save(FILE, "png")
BASE64 = base64.b64encode(FILE.getvalue()).decode()
WORDS = [
    *("a.png", "gone.png", "", "x", "<image>", "<image>A <image>", "data:image/png;base64,", "~"),
    *(BASE64, f"data:image/png;base64,{BASE64}", "http://a.b/c", "file:///x", "\0", "[", "\ud800"),
]
KEYS = [
    *("role", "content", "type", "text", "image", "images", "image_url", "url", "path", "bytes"),
    *("base64", "data", "source", "index", "from", "value", "tool_calls", "weight", "name", "vid"),
]
NAMES = ["user", "assistant", "system", "tool", "human", "gpt"]
TYPES = ["text", "image", "image_url", "input_image", "video"]
OBJECTS = [PICTURE, FILE.getvalue(), bytearray(3), np.ones((2, 2, 3), np.uint8), np.ones(2), {1, 2}]


def drawn(random_: random.Random, depth: int, plain: bool) -> object:
    """A value of any kind, nested up to a depth; plain ones can be written as JSON."""
    kind = random_.randrange(10 if depth else 6)
    if kind < 2:
        return random_.choice(WORDS)
    if kind == 2:
        return random_.choice(NAMES)
    if kind < 5:
        values = [None, 0, 1, -1.5, True, 10**400, *([] if plain else [*OBJECTS, 1j])]
        return random_.choice(values)
    if kind == 5:
        return BASE64[: random_.randrange(len(BASE64))]
    if kind < 8:
        return [drawn(random_, depth - 1, plain) for _ in range(random_.randrange(3))]
    keys = KEYS if plain else [*KEYS, 7, None]
    return {
        random_.choice(keys): drawn(random_, depth - 1, plain) for _ in range(random_.randrange(4))
    }


def part(random_: random.Random) -> dict:
    return {"type": random_.choice(TYPES), random_.choice(KEYS[3:8]): random_.choice(WORDS)}


def messages(random_: random.Random, plain: bool) -> list[object]:
    """Messages that may be right, with some values of any kind."""
    made = []
    for role in random_.choices(NAMES[:4], k=random_.randrange(1, 4)):
        parts = [part(random_), random_.choice([part(random_), drawn(random_, 2, plain)])]
        content = random_.choice(
            [random_.choice(WORDS), parts[:1], parts, drawn(random_, 3, plain)]
        )
        message = {"role": role, "content": content}
        if random_.random() < 0.2:
            message = {"from": random_.choice(NAMES), "value": content}
        if random_.random() < 0.2:
            message[random_.choice(KEYS)] = drawn(random_, 2, plain)
        made.append(message)
    return made


def refusal(read: Callable[[], object]) -> str:
    """What an InputError says; empty if there is none."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def read_drawn_messages(numbers: range, bounds: Bounds) -> int:
    """How many of the drawn conversations were read."""
    refusals = []
    for seed in numbers:
        random_ = random.Random(seed)
        given = random_.choice([drawn(random_, 4, False), *[messages(random_, False)] * 3])
        with bounds.case(f"{seed}: messages"):
            refusals.append(refusal(lambda given=given: PROCESSOR(given).input_ids))
    assert max(map(len, refusals)) < 500
    return refusals.count("")


def read_drawn_rows(numbers: range, folder: Path, bounds: Bounds) -> int:
    """How many of the drawn rows were read."""
    PICTURE.save(folder / "a.png")
    refusals = []
    for seed in numbers:
        random_ = random.Random(seed)
        row = {random_.choice([*ROW_KEYS, *ROW_BESIDE]): drawn(random_, 3, True) for _ in range(2)}
        if random_.random() < 0.7:
            row = {"images": [random_.choice(WORDS)]} if random_.random() < 0.7 else row
            row["messages"] = [*messages(random_, True), {"role": "assistant", "content": "Yes."}]
        given = random_.choice([drawn(random_, 4, True), *[row] * 5])
        (folder / "d.jsonl").write_text(json.dumps(given))
        with bounds.case(f"{seed}: row"):
            refusals.append(refusal(lambda: read_rows(folder / "d.jsonl")))
    assert max(map(len, refusals)) < 500
    return refusals.count("")


@seeds(1000, 20_000)
def test_drawn_messages_are_read_or_refused(bounds, cases):
    assert read_drawn_messages(range(cases), bounds) > cases / 25


@seeds(1000, 20_000)
def test_drawn_rows_are_read_or_refused(tmp_path, bounds, cases):
    assert read_drawn_rows(range(cases), tmp_path, bounds) >= cases * 3 / 1000
