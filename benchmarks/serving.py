"""Measure answering side by side: through the core, and against mlx-vlm's server.

usage: python benchmarks/serving.py CHECKPOINT PHOTO [--peer-python PEER/bin/python] [--tokens 64]

Every question has its own image, a 320 x 240 crop of the photo. Each number is of the second run of
two in a process, with other images than the first, so that nothing is in a cache. "CPU" is seconds
of the processor, which other programs on the machine hardly change. On a CPU, preload OpenBLAS.

- Core: eight captions at the same time against one after the other.
- Gap: the longest time between two tokens of an answer while another question's 1920 x 1080 image
  is read, in decode steps of that answer alone.
- Servers, with `--peer-python`: the same requests to both, eight at the same time: one question
  about each image, and three. Tokens are counted as the servers report them.
"""

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from PIL import Image

from mlx_lfm2vl import AnswerOptions, Sampling, regex
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.request import Request
from mlx_lfm2vl.serving.served import served_model

ROWS = 8
SIZE = (320, 240)
QUESTIONS = ("Describe this image.", "Which colors are in it?", "What is in the background?")
START_SECONDS = 120

Row = tuple[str, float, str, str]  # what, ratio, bar, how the ratio came about


def crops(photo: Image.Image, count: int, run: int) -> list[Image.Image]:
    """Different parts of a photo, other ones in every run."""
    width, height = photo.size
    room = width - SIZE[0], height - SIZE[1]
    places = [
        (i * room[0] // count, (i * room[1] // count + 3 * run) % room[1]) for i in range(count)
    ]
    return [photo.crop((x, y, x + SIZE[0], y + SIZE[1])) for x, y in places]


class Clock:
    """Seconds, and the processor's seconds of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begin = self._now()

    def _now(self) -> tuple[float, float]:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return time.perf_counter(), sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def lap(self) -> tuple[float, float]:
        """Seconds and CPU seconds since the clock was made."""
        return tuple(b - a for a, b in zip(self._begin, self._now(), strict=True))


def through_core(core: Core, photo: Image.Image, tokens: int) -> Iterator[Row]:
    """Eight captions side by side and one by one."""
    options = AnswerOptions(max_tokens=tokens, sampling=Sampling())

    def ask(image: Image.Image) -> int:
        *_, last = core.stream(Request(user_message(QUESTIONS[0], [image]), options))
        assert isinstance(last, Piece), last
        assert last.result is not None
        return len(last.result.token_ids)

    def took(threads: int, run: int) -> tuple[float, float]:
        with ThreadPoolExecutor(threads) as pool:
            clock = Clock(os.getpid())
            count = sum(pool.map(ask, crops(photo, ROWS, run)))
        return tuple(seconds / count for seconds in clock.lap())

    alone, together = [(took(1, run), took(ROWS, run + 2)) for run in (0, 1)][1]
    for number, name in enumerate(("seconds", "CPU")):
        how = f"{1000 * alone[number]:.1f} and {1000 * together[number]:.1f} ms per token"
        yield f"captions, {name}", alone[number] / together[number], ">= 2.5", how


def longest_gap(core: Core, photo: Image.Image, tokens: int) -> Iterator[Row]:
    """The longest time between two texts of an answer while a large image is read."""
    letters = 16 * tokens  # a form that does not end before the image is read
    form = regex(f"[a-z]{{{letters}}}")
    options = AnswerOptions(max_tokens=letters, sampling=Sampling(), constraint=form)
    times: list[float] = []
    has_begun, is_read = threading.Event(), threading.Event()

    def write() -> None:
        for event in core.stream(Request("Write a story.", options)):
            times.append(time.perf_counter())
            if isinstance(event, Piece) and len(times) > 16:
                has_begun.set()
            if is_read.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    has_begun.wait()
    begun = time.perf_counter()
    large = user_message(QUESTIONS[0], [photo.resize((1920, 1080))])
    events = core.stream(Request(large, AnswerOptions(max_tokens=1)))
    parts = sum(not isinstance(event, Piece) for event in events)
    ended = time.perf_counter()
    is_read.set()
    writer.join()
    steps = sorted(b - a for a, b in zip(times, times[1:], strict=False) if b < begun)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False) if begun <= b <= ended]
    step, gap = steps[len(steps) // 2], max([*gaps, 0.0])
    how = f"{1000 * gap:.0f} against {1000 * step:.1f} ms; {parts} parts in {ended - begun:.1f} s"
    yield "longest gap beside a large image, in steps", gap / step, "", how


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[int]:
    """Run a server until it answers; gives its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                connection = HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/v1/models")
                connection.getresponse().read()
                break
            except OSError:
                assert process.poll() is None, f"{command} ended"
                assert time.monotonic() < end, f"{command} does not answer"
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def post(port: int, body: dict[str, Any]) -> int:
    """Ask for a completion; returns its number of tokens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 200, answer
    usage = answer["usage"]
    return usage.get("completion_tokens") or usage["output_tokens"]


def question(model: str, image: Image.Image, text: str, tokens: int) -> dict[str, Any]:
    data = io.BytesIO()
    image.save(data, "png")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}


def of_server(
    command: Callable[[int], list[str]], model: str, photo: Image.Image, tokens: int
) -> list[tuple[float, float]]:
    """Seconds and CPU seconds per token, of one question about each image and of three."""
    port, found = free_port(), list[tuple[float, float]]()
    with server(command(port), port) as pid, ThreadPoolExecutor(ROWS) as pool:
        for number, texts in enumerate((QUESTIONS[:1], QUESTIONS)):
            for run in (0, 1):  # the first one warms up
                images = crops(photo, ROWS, 2 * number + run)
                bodies = [question(model, i, text, tokens) for i in images for text in texts]
                clock = Clock(pid)
                count = sum(pool.map(lambda body: post(port, body), bodies))
                took = clock.lap()
                told = f"{len(bodies)} questions, {count} tokens, {took[0]:.1f} s"
                print(f"{command(port)[2]}: {told}", file=sys.stderr)
            found.append((took[0] / count, took[1] / count))
    return found


def against_peer(
    checkpoint: str, peer_python: str, photo: Image.Image, tokens: int
) -> Iterator[Row]:
    """The same requests to both servers."""

    def ours(port: int) -> list[str]:
        options = ["--model", f"m={checkpoint}", "--port", str(port)]
        return [sys.executable, "-m", "mlx_lfm2vl", "serve", *options]

    def theirs(port: int) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [peer_python, "-m", "mlx_vlm.server", "--model", checkpoint, *address]

    own = of_server(ours, "m", photo, tokens)
    peer = of_server(theirs, checkpoint, photo, tokens)
    whats = ("one question about each image", "three questions about each image")
    for what, bar, mine, its in zip(whats, (">= 1.5", ">= 3"), own, peer, strict=True):
        for number, name in enumerate(("seconds", "CPU")):
            how = f"{1000 * mine[number]:.1f} against {1000 * its[number]:.1f} ms per token"
            yield f"{what}, {name}", its[number] / mine[number], bar, how


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint folder, or demo")
    parser.add_argument("photo", type=Path, help="image to crop")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer; default: 64")
    parser.add_argument("--peer-python", help="Python that has mlx-vlm")
    options = parser.parse_args()
    photo = Image.open(options.photo).convert("RGB")
    print("| what | ratio | bar | how |\n|---|---|---|---|", flush=True)
    if options.peer_python:
        tell(against_peer(options.checkpoint, options.peer_python, photo, options.tokens))
        return
    core = Core([served_model(options.checkpoint)])
    tell(through_core(core, photo, options.tokens))
    tell(longest_gap(core, photo, options.tokens))
    core.stop()


def tell(rows: Iterator[Row]) -> None:
    """Print rows of a table as they come."""
    for what, ratio, bar, how in rows:
        print(f"| {what} | {ratio:.2f} | {bar} | {how} |", flush=True)


if __name__ == "__main__":
    main()
