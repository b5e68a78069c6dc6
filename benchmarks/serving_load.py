"""Load the server with many clients, some of which leave or send damaged requests.

usage: python benchmarks/serving_load.py [--model demo] [--clients 64] [--minutes 10] [--seed 0]

- The answers that are expected are made first, each by a run of its own.
- One client in ten leaves at a random moment, one request in twenty is damaged. One more client
  reads a byte at a time.
- Memory and file descriptors of the server are those that /proc says, so this needs Linux.

Exit code 1 if an answer differs or is lost, a damaged request is not refused, memory grows, or a
descriptor is left open. On a CPU, preload OpenBLAS.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageDraw

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.served import served_model

LEAVES, DAMAGED = 0.10, 0.05
SIZES = [(64, 48), (96, 96), (200, 120), (320, 240)]
COLORS = ["red", "green", "blue", "yellow", "purple", "orange"]
QUESTIONS = ["What shapes are there?", "Describe the image.", "What does the text say?"]
SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "square"]}, "count": {"enum": [1, 2, 3]}},
    "required": ["shape", "count"],
    "additionalProperties": False,
}
PATIENCE = 120.0  # seconds without a byte after which an answer is lost
GROWTH = 32 * 2**20  # bytes of memory between the first third and the last


@dataclass
class Tally:
    """What the clients have met."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)  # seconds to the first text of a stream
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)  # second, bytes

    def fault(self, text: str) -> None:
        """Count a fault; the first ones are shown."""
        self.counts["faults"] += 1
        if len(self.faults) < 10:
            self.faults.append(text)


def picture(generator: random.Random) -> str:
    """Draw an image, as a data URI."""
    image = Image.new("RGB", generator.choice(SIZES), "white")
    canvas = ImageDraw.Draw(image)
    for _ in range(generator.randrange(1, 4)):
        x, y, size = generator.randrange(40), generator.randrange(30), generator.randrange(8, 40)
        shape = generator.choice([canvas.ellipse, canvas.rectangle])
        shape((x, y, x + size, y + size), fill=generator.choice(COLORS))
    data = io.BytesIO()
    image.save(data, generator.choice(["PNG", "JPEG"]))
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def body(generator: random.Random, model: str) -> dict[str, Any]:
    """Draw a chat request: text, images, two turns, a schema, a temperature."""
    kind = generator.randrange(5)
    text = {"type": "text", "text": generator.choice(QUESTIONS)}
    image = {"type": "image_url", "image_url": {"url": picture(generator)}}
    content: Any = "Hello, who are you?" if kind == 0 else [image, text]
    messages = [{"role": "user", "content": content}]
    asked: dict[str, Any] = {"model": model, "messages": messages}
    asked["max_tokens"] = generator.choice([5, 12, 30])
    asked["seed"] = generator.randrange(1000)
    asked["temperature"] = 0.7 if kind == 3 else 0
    if kind == 2:
        messages += [{"role": "assistant", "content": "A shape."}, {"role": "user", "content": "?"}]
    if kind == 4:
        format = {"name": "shape", "schema": SCHEMA, "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": format}
        asked["max_tokens"] = 40
    return asked


def damaged(generator: random.Random, data: bytes) -> bytes:
    """Damage a request, so that no server can answer it."""
    kind = generator.randrange(4)
    if kind == 0:
        return data[: generator.randrange(1, len(data))]
    if kind == 1:
        return data.replace(b'"messages"', b'"mesages"')
    if kind == 2:
        return re.sub(rb"base64,[^\"]{40}", b"base64,", data).replace(b'"Hello', b'3, "Hello')
    return bytes(generator.randrange(256) for _ in range(200))


async def post(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a chat request; return what the answer is read from."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def status_of(reader: asyncio.StreamReader) -> int:
    """Read the head of an answer; return its status."""
    line = await asyncio.wait_for(reader.readline(), PATIENCE)
    while (await asyncio.wait_for(reader.readline(), PATIENCE)).strip():
        pass
    return int(line.split()[1])


async def streamed(reader: asyncio.StreamReader, begun: float, tally: Tally) -> str | None:
    """Read server-sent events; return the text, None if the stream does not end as it should."""
    text, done = "", False
    while line := await asyncio.wait_for(reader.readline(), PATIENCE):
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            done = True
            continue
        chunk = json.loads(line[6:])
        for choice in chunk.get("choices", ()):
            piece = choice["delta"].get("content") or ""
            if piece and not text:
                tally.first.append(time.monotonic() - begun)
            text += piece
    return text if done else None


async def client(
    number: int, port: int, asked: list[tuple[dict[str, Any], str]], until: float, tally: Tally
) -> None:
    """Ask one request after the other until time is up."""
    generator = random.Random(number)
    while time.monotonic() < until:
        asks, expected = generator.choice(asked)
        streams, fate = generator.random() < 0.7, generator.random()
        data = json.dumps({**asks, "stream": streams}).encode()
        if fate < DAMAGED:
            data = damaged(generator, data)
        begun = time.monotonic()
        try:
            reader, writer = await post(port, data)
            if DAMAGED <= fate < DAMAGED + LEAVES:
                await asyncio.sleep(generator.expovariate(1.0))
                tally.counts["left"] += 1
            else:
                await answer(reader, begun, fate < DAMAGED, streams, expected, tally)
            writer.close()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            tally.fault(f"lost: {type(error).__name__}: {error}")


async def answer(
    reader: asyncio.StreamReader,
    begun: float,
    is_damaged: bool,
    streams: bool,
    expected: str,
    tally: Tally,
) -> None:
    """Read one answer and compare it."""
    status = await status_of(reader)
    if is_damaged:
        # A stream that had to wait has begun with 200, and says the error in an event.
        rest = await asyncio.wait_for(reader.read(), PATIENCE)
        refused = status == 400 or (status == 200 and streams and b'data: {"error"' in rest)
        tally.counts["damaged, refused"] += refused
        if not refused:
            tally.fault(f"a damaged request was answered with {status}: {rest[:200]!r}")
        return
    if status == 503:
        tally.counts["told to come back"] += 1
        await asyncio.sleep(1)
        return
    if status != 200:
        tally.fault(f"status {status}")
        return
    if streams:
        text = await streamed(reader, begun, tally)
    else:
        data = json.loads(await asyncio.wait_for(reader.read(), PATIENCE))
        text = data["choices"][0]["message"]["content"]
    tally.counts["answered"] += 1
    if text != expected:
        tally.fault(f"{text!r} instead of {expected!r}")


async def dawdler(port: int, asks: dict[str, Any], until: float) -> None:
    """Read a long answer a byte at a time."""
    data = json.dumps({**asks, "stream": True, "max_tokens": 200}).encode()
    while time.monotonic() < until:
        reader, writer = await post(port, data)
        while time.monotonic() < until and await reader.read(1):
            await asyncio.sleep(0.05)
        writer.close()


async def watch(process: int, until: float, tally: Tally) -> None:
    """Note the server's memory."""
    begun = time.monotonic()
    while time.monotonic() < until:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tally.memory.append((time.monotonic() - begun, pages * os.sysconf("SC_PAGE_SIZE")))
        await asyncio.sleep(2)


def descriptors(process: int) -> int:
    """Count the open file descriptors of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


async def run(
    port: int, process: int, asked: list[tuple[dict[str, Any], str]], options: argparse.Namespace
) -> Tally:
    """Let all clients ask."""
    tally, until = Tally(), time.monotonic() + 60 * options.minutes
    clients = [client(number, port, asked, until, tally) for number in range(options.clients)]
    await asyncio.gather(*clients, watch(process, until, tally), dawdler(port, asked[0][0], until))
    return tally


def report(tally: Tally, opened: tuple[int, int]) -> bool:
    """Print what happened; return whether all is well."""
    for name, count in sorted(tally.counts.items()):
        print(f"- {name}: {count}")
    if tally.first:
        ordered = sorted(tally.first)
        p50, p95 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.95))
        print(f"- first token: p50 {p50:.2f} s, p95 {p95:.2f} s")
    third = len(tally.memory) // 3
    sizes = [size for _, size in tally.memory]
    growth = statistics.median(sizes[-third:]) - statistics.median(sizes[third : 2 * third])
    print(f"- memory: {max(sizes) / 1e6:.0f} MB at most, growth {growth / 1e6:+.1f} MB")
    print(f"- file descriptors: {opened[0]} before, {opened[1]} after")
    for fault in tally.faults:
        print(f"  fault: {fault}")
    return not tally.faults and growth < GROWTH and opened[1] <= opened[0]


def port_of(log: IO[str]) -> int:
    """Wait until the server says where it listens."""
    for _ in range(600):
        log.seek(0)
        if found := re.search(r"http://127.0.0.1:(\d+)", log.read()):
            return int(found[1])
        time.sleep(0.1)
    raise SystemExit("the server does not start")


def main() -> int:
    """Start a server, load it, and print what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--requests", type=int, default=60, help="different ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    bodies = [body(generator, options.model) for _ in range(options.requests)]
    engine, core = Engine(*load(options.model)), Core([served_model(options.model)])
    terms, asked = Terms(core.model), list[tuple[dict[str, Any], str]]()
    for each in bodies:
        (request,) = read_chat(each, terms).requests
        asked.append((each, engine.generate(request.messages, request.options).text))
    core.stop()
    command = [sys.executable, "-m", "mlx_lfm2vl", "serve", "--model", options.model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        port = next(
            int(m[1]) for m in (re.search(r":(\d+)$", x.strip()) for x in server.stderr) if m
        )
        asyncio.run(run(port, server.pid, asked[:1], argparse.Namespace(clients=1, minutes=0.05)))
        before = descriptors(server.pid)
        tally = asyncio.run(run(port, server.pid, asked, options))
        time.sleep(3)
        well = report(tally, (before, descriptors(server.pid)))
        server.terminate()
    print(f"- exit code of the server: {server.returncode}")
    return 0 if well and server.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
