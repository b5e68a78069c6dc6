"""Measure what `generate --resident` saves, as ratios within one run.

usage: python benchmarks/resident.py CHECKPOINT [--tokens 20] [--repeats 3] [--preload LIBRARY]

- Cold is `generate` as a process of its own, which loads the model.
- "First question" is about an image that the resident process has not seen, "second question" about
  one that it has. The time is that from the start of the command to the first letter it prints.
- The commands run in turn, and the best of the repeats counts. The bars were set in advance.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 256  # pixels
PROGRAM = [sys.executable, "-m", "mlx_lfm2vl"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--preload", default="", help="library for LD_PRELOAD")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "LD_PRELOAD": options.preload}
        try:
            show(measure(options, Path(folder), environment))
        finally:
            subprocess.run([*PROGRAM, "resident", "stop"], env=environment, capture_output=True)


def measure(
    options: argparse.Namespace, folder: Path, environment: dict[str, str]
) -> dict[str, float]:
    """Return the best seconds of each measure."""
    tokens = ["--max-tokens", str(options.tokens), "--temperature", "0", "-m", options.checkpoint]
    generate, resident = [*PROGRAM, "generate", *tokens], ["--resident", "--keep-alive", "1h"]
    best: dict[str, float] = {}

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    def run(name: str, command: list[str]) -> None:
        first, whole = timed(command, environment)
        note(f"{name}, first token", first)
        note(name, whole)

    timed([*generate, *resident, "Hi"], environment)  # loads the model
    for number in range(options.repeats):
        picture = str(draw(folder / f"{number}.png", number))
        note("Python that does nothing", timed([sys.executable, "-c", "print()"], environment)[1])
        run("cold", [*generate, picture, "What is this?"])
        run("first question", [*generate, *resident, picture, "What is this?"])
        run("second question", [*generate, *resident, picture, "Which color is it?"])
    return best


def draw(path: Path, number: int) -> Path:
    """Draw a picture that no other number has."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    at = 20 + 10 * number
    ImageDraw.Draw(image).ellipse((at, at, at + 120, at + 120), fill=(200, 30 * number % 256, 0))
    image.save(path)
    return path


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; return the seconds to the first letter that it prints, and to its end."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        process.stdout.read(1)
        first = time.perf_counter() - begin
        process.stdout.read()
    assert process.returncode == 0
    return first, time.perf_counter() - begin


def show(best: dict[str, float]) -> None:
    """Print the seconds, and the ratios to a cold run, as a table in Markdown."""
    bars = {"first question, first token": 0.15, "second question, first token": 0.03}
    print("| measure | seconds | of a cold run | of its first token | bar |\n|---|---|---|---|---|")
    for name, seconds in best.items():
        ratio = seconds / best["cold"]
        bar = bars.get(name)
        met = "" if bar is None else f"<= {bar}: {'reached' if ratio <= bar else '**missed**'}"
        first = seconds / best["cold, first token"]
        print(f"| {name} | {seconds:.2f} | {ratio:.3f} | {first:.3f} | {met} |")


if __name__ == "__main__":
    main()
