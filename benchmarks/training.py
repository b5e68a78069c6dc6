"""Train the same LoRA adapter with mlx_lfm2vl and mlx-vlm, and print the ratios as Markdown.

usage: python benchmarks/training.py CHECKPOINT --peer-python PYTHON
           [--updates 6] [--repeats 2] [--preload libopenblas.so.0]

Both train rank 8 on the decoder's linear layers, in float32, on batches of two conversations with
an image of 320 x 240 each. Before the first update both compute the loss of the same batch, which
must be equal. Every run is a new process, ours and the peer's in turn.

Ours keeps the image features of the frozen parts, so that updates after the first epoch encode
nothing. The table has both kinds of updates. The peer encodes the images at every update.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from compare_mlx_vlm import HERE, RSS_UNIT, Side, in_turn, run
from PIL import Image, ImageDraw

SIZE = (320, 240)
ROWS = 8
EPOCH = 4  # updates, of two conversations each
BAR = 3.0  # the peer's seconds per update over ours, at least
LOSS_TOLERANCE = 1e-3
# The first update also warms up.
WHEN = {"update of the first epoch": slice(1, EPOCH), "later update": slice(EPOCH, None)}


def draw(seed: int) -> tuple[Image.Image, str]:
    """An image of colored disks, and a sentence about each."""
    generator = random.Random(seed)
    image = Image.new("RGB", SIZE, _color(generator))
    canvas, sentences = ImageDraw.Draw(image), []
    for _ in range(4):
        x, y, size = (generator.randrange(limit) for limit in (260, 180, 60))
        canvas.ellipse((x, y, x + size, y + size), fill=_color(generator))
        sentences.append(f"A disk {size} wide is at {x}, {y}.")
    return image, " ".join(sentences)


def _color(generator: random.Random) -> tuple[int, int, int]:
    return generator.randrange(256), generator.randrange(256), generator.randrange(256)


def write_rows(folder: Path) -> Path:
    """Write drawn conversations in a form that both packages read; returns the file."""
    rows = []
    for number in range(ROWS):
        image, answer = draw(number)
        path = folder / f"{number}.png"
        image.save(path)
        question = {"role": "user", "content": "What is in this image?"}
        messages = [question, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "images": [str(path)]})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def check_equal_work(ours: dict, peer: dict) -> None:
    """Exit unless both train the same layers and have the same loss before the first update."""
    for key in ("tokens", "trained_layers", "trained_numbers"):
        if ours[key] != peer[key]:
            sys.exit(f"{key}: ours {ours[key]}, the peer's {peer[key]}")
    if abs(ours["loss"] - peer["loss"]) > LOSS_TOLERANCE * abs(peer["loss"]):
        sys.exit(f"loss before the first update: ours {ours['loss']}, the peer's {peer['loss']}")


def updates(results: Sequence[dict], key: str, when: slice) -> list[float]:
    """The measurements of some updates, of all runs."""
    return [value for result in results for value in result[key][when]]


def table(ours: Sequence[dict], peer: Sequence[dict]) -> str:
    """The measurements of both packages as Markdown."""
    lines = ["| measure | ratio | mlx_lfm2vl | mlx-vlm | unit |", "|---|---|---|---|---|"]

    def add(name: str, unit: str, value: Callable[[Sequence[dict]], float], *, less: bool) -> None:
        one, other = value(ours), value(peer)
        ratio = one / other if less else other / one
        lines.append(f"| {name} | {ratio:.2f} | {one:.3g} | {other:.3g} | {unit} |")

    for name, when in WHEN.items():
        add(f"{name}, best", "s", lambda rs, w=when: min(updates(rs, "seconds", w)), less=False)
        add(f"{name}, mean", "s", lambda rs, w=when: mean(updates(rs, "seconds", w)), less=False)
        add(
            "its CPU time, best",
            "s",
            lambda rs, w=when: min(updates(rs, "cpu_seconds", w)),
            less=False,
        )
    add("first update, best", "s", lambda rs: min(r["seconds"][0] for r in rs), less=False)
    add("peak of MLX", "GB", lambda rs: min(r["peak_bytes"] for r in rs) / 1e9, less=True)
    add(
        "peak of the process",
        "GB",
        lambda rs: min(r["max_rss"] for r in rs) * RSS_UNIT / 1e9,
        less=True,
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="float32 checkpoint with published shapes")
    parser.add_argument("--peer-python", required=True, help="a Python with mlx-vlm")
    parser.add_argument("--updates", type=int, default=6, help="in each run; default: 6")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each; default: 2")
    parser.add_argument("--preload", default="", help="library to preload into both")
    options = parser.parse_args()
    if options.updates <= EPOCH:
        parser.error(f"--updates is {options.updates}, expected more than an epoch, {EPOCH}")
    # Absolute, but not resolved: Python finds its virtual environment through the link.
    sides = [
        Side(sys.executable, "mlx_lfm2vl", HERE / "training_ours.py"),
        Side(os.path.abspath(options.peer_python), "mlx_vlm", HERE / "training_peer.py"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder))

        def measure(side: Side) -> dict:
            checkpoint = str(options.checkpoint.absolute())
            command = [side.python, str(side.stages), checkpoint, str(rows), str(options.updates)]
            return json.loads(run(command, side.environment(options.preload))[2].splitlines()[-1])

        ours, peer = in_turn(options.repeats, *(lambda s=side: measure(s) for side in sides))
    check_equal_work(ours[0], peer[0])
    print(f"loss before training: ours {ours[0]['loss']:.5f}, the peer's {peer[0]['loss']:.5f}")
    print(table(ours, peer))
    ratios = [
        min(updates(peer, "seconds", w)) / min(updates(ours, "seconds", w)) for w in WHEN.values()
    ]
    return 0 if min(ratios) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
