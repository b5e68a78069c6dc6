"""Everything that is an image works with everything that answers."""

import asyncio
import base64
import io
from array import array
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import Engine, batch_generate, generate, stream_batch, stream_generate
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message

PICTURE = make_picture(13, 21, 1)
PIXELS = np.asarray(PICTURE)
FILE = io.BytesIO()
PICTURE.save(FILE, "png")
DATA = FILE.getvalue()
URI = f"data:image/png;base64,{base64.b64encode(DATA).decode()}"
OPTIONS = AnswerOptions(max_tokens=1, temperature=0)

SOURCES = {
    "name": lambda path: str(path),
    "file URI": lambda path: path.as_uri(),
    "path": lambda path: path,
    "open file": lambda path: path.open("rb"),
    "BytesIO": lambda _: io.BytesIO(DATA),
    "bytes": lambda _: DATA,
    "bytearray": lambda _: bytearray(DATA),
    "memoryview": lambda _: memoryview(DATA),
    "array.array": lambda _: array("B", DATA),
    "data URI": lambda _: URI,
    "base64": lambda _: {"base64": base64.b64encode(DATA).decode()},
    "PIL image": lambda _: PICTURE,
    "NumPy array": lambda _: PIXELS,
    "MLX array": lambda _: mx.array(PIXELS),
    "memoryview of pixels": lambda _: memoryview(PIXELS),
}


def streamed(pieces) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids]


async def collected(pieces) -> list[int]:
    return [token async for piece in pieces for token in piece.token_ids]


# `generate` and `stream_generate` are the methods of an `Engine` that is used once.
ENTRIES = {
    "generate": lambda m, p, s: generate(m, p, "What?", OPTIONS, image=s).token_ids,
    "stream": lambda m, p, s: streamed(stream_generate(m, p, "What?", OPTIONS, image=[s])),
    "agenerate": lambda m, p, s: (
        asyncio.run(Engine(m, p).agenerate(user_message("What?", [s]), OPTIONS)).token_ids
    ),
    "astream": lambda m, p, s: asyncio.run(
        collected(Engine(m, p).astream("What?", OPTIONS, image=s))
    ),
}


@pytest.fixture(scope="module")
def expected(tiny) -> list[int]:
    return generate(*tiny, "What?", OPTIONS, image=PICTURE).token_ids


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_source_is_an_image_for_every_function(entry, source, tiny, expected, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    image = SOURCES[source](path)
    assert ENTRIES[entry](*tiny, image) == expected
    if source == "open file":
        image.close()


def test_every_source_is_an_image_in_a_batch(tiny, expected, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    images = [make(path) for name, make in SOURCES.items() if name != "open file"]
    questions = [user_message("What?", [image]) for image in images]
    answers = [result.token_ids for result in batch_generate(*tiny, questions, OPTIONS)]
    assert answers == [expected] * len(images)


REFUSED = {
    "URL": ("http://127.0.0.1:9/a.png", "allow_url=True"),
    "number": (7, "an image is of type int, expected a path"),
    "closed file": (None, "cannot be read: I/O operation on closed file"),
    "missing": (Path("no") / "such.png", "does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_no_image_is_refused_by_every_function(entry, name, tiny):
    source, why = REFUSED[name]
    if source is None:
        source = io.BytesIO(DATA)
        source.close()
    with pytest.raises(InputError) as caught:
        ENTRIES[entry](*tiny, source)
    assert why in str(caught.value)
    question = user_message("What?", [source])
    ((_, error),) = stream_batch(*tiny, [question], OPTIONS)
    assert str(error) == str(caught.value)


def test_a_pil_image_whose_file_was_closed_is_an_error_for_its_number(tiny, tmp_path):
    PICTURE.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    questions = [user_message("What?", [image]) for image in (PICTURE, closed, PICTURE)]
    found = dict(stream_batch(*tiny, questions, OPTIONS))
    assert isinstance(found[1], InputError)
    assert "its file was closed" in str(found[1])
    assert found[0].token_ids == found[2].token_ids
