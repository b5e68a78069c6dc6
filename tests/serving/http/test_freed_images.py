"""The server holds the images of a question until they are read, not until it is answered."""

import asyncio
import gc

import pytest
from asgi_client import request
from client_shapes import DOT
from exchanges import MODEL, TERMS

from mlx_lfm2vl.images.read import NamedBytes
from mlx_lfm2vl.images.ready import ReadyImage
from mlx_lfm2vl.prompt.processor import Views
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App, Call
from mlx_lfm2vl.serving.http.fronts import all_fronts

IMAGE = {"type": "image_url", "image_url": {"url": DOT}}
CHAT = {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]}]}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/skills/ask": {"images": [DOT], "question": "What is it?"},
}


@pytest.fixture
def core(turns):
    core = Core([MODEL])
    yield core
    turns.free()
    core.stop(0)


def held() -> tuple[int, int, int]:
    """How many images are in memory: in bodies, encoded, and decoded."""
    found = gc.get_objects()
    return (
        sum(bool(each.body) for each in found if type(each) is Call),
        sum(type(each) in (NamedBytes, ReadyImage) for each in found),
        sum(len(each._decoders) for each in found if type(each) is Views),
    )


@pytest.mark.parametrize("path", BODIES)
def test_images_are_freed_when_they_are_read(core, turns, path):
    async def run() -> None:
        app = App(core, TERMS, Access(), all_fronts())
        client = request(app, path, BODIES[path])
        async with asyncio.timeout(20):
            while not (core._schedule._work and core._schedule._work._readings):
                await asyncio.sleep(0.001)
            assert held()[2] > 0
            while core._schedule._work._readings:
                turns.allowed.release()
                await asyncio.sleep(0.001)
            assert held() == (0, 0, 0)
        client.leave()
        await client.task

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
