"""Compare a folder run with one process per file and with `generate` in a loop; watch its memory.

usage: python benchmarks/folder_run.py [--model demo] [--pictures 500] [--files 20] [--rounds 3]
       python benchmarks/folder_run.py --memory 5000 --max-tokens 3

The three ways take turns in blocks of pictures, so that other work on the machine slows all alike.
Rates of CPU time beside those of wall-clock time depend less on such work. Loading counts only
where every file pays for it: one process per file. On a CPU, preload OpenBLAS.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.desktop.folder_run import FolderRun, run_options, settings_of
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.skills.kinds import checkpoint_kind
from mlx_lfm2vl.skills.tasks import make_skill

SIZE = (96, 64)
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")


def draw(path: Path, number: int) -> None:
    """Draw a small picture that no other number has."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    left, top = number * 7 % 50, number * 5 % 30
    pen.ellipse((left, top, left + 24, top + 24), fill=COLORS[number % len(COLORS)])
    picture.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65536))
    picture.save(path)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, kinds))


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of some work."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def memory_bytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


class Ways:
    """The three ways to caption pictures."""

    def __init__(self, model: str, folder: Path, max_tokens: int | None = None) -> None:
        self.name, self.folder = model, folder
        self.engine = Engine(*load(model))
        skill = make_skill("caption", checkpoint_kind(self.engine.model.config))
        changes = {} if max_tokens is None else {"max_tokens": max_tokens}
        self.skill = replace(skill, options=skill.options.changed(changes))
        self.settings = settings_of(self.engine, self.skill, model)
        self._journals = count()

    def run(self, pictures: list[Path] | Iterator[Path], each: Callable[[], object] = int) -> None:
        """Caption pictures in a folder run."""
        journal = Journal(self.folder / f"{next(self._journals)}.jsonl", self.settings)
        run = FolderRun(
            self.engine, self.skill, journal, self.settings, report=lambda _: each() and None
        )
        run.run(Input(path.name, path, path) for path in pictures)
        assert run.counts.done == run.counts.answered
        journal.finish()

    def loop(self, pictures: list[Path]) -> None:
        """Caption pictures one by one."""
        options = run_options(self.skill)
        for path in pictures:
            self.engine.generate(self.skill.messages([path], {}), options)

    def processes(self, pictures: list[Path]) -> None:
        """Caption pictures with one process each."""
        for path in pictures:
            command = [sys.executable, "-m", "mlx_lfm2vl", "caption", "-m", self.name, str(path)]
            subprocess.run(command, check=True, capture_output=True)


def compare(ways: Ways, pictures: list[Path], files: int, rounds: int) -> None:
    """Print the rates of the three ways, in pictures a second."""
    ways.run(pictures[:8])
    ways.loop(pictures[:2])
    share = len(pictures) // rounds
    found: dict[str, list[tuple[float, float]]] = {"run": [], "loop": [], "process": []}
    for number in range(rounds):
        part = pictures[number * share : (number + 1) * share]
        few = part[: max(1, files // rounds)]
        for name, work, some in (
            ("run", ways.run, part),
            ("loop", ways.loop, part),
            ("process", ways.processes, few),
        ):
            wall, cpu = measured(lambda work=work, some=some: work(some))
            found[name].append((len(some) / wall, len(some) / cpu))
    for clock, name in enumerate(("wall-clock", "CPU")):
        rates = {way: [pair[clock] for pair in pairs] for way, pairs in found.items()}
        text = ", ".join(f"{way} {statistics.median(rate):.2f}/s" for way, rate in rates.items())
        ratios = {
            way: statistics.median(a / b for a, b in zip(rates["run"], rates[way], strict=True))
            for way in ("loop", "process")
        }
        print(
            f"{name}: {text}; run is {ratios['loop']:.2f} times the loop, "
            f"{ratios['process']:.1f} times the processes"
        )


def watch_memory(ways: Ways, folder: Path, number: int) -> None:
    """Print by how many bytes the memory grows for each of so many different pictures."""
    points: list[tuple[int, int]] = []
    done = 0

    def pictures() -> Iterator[Path]:
        for each in range(number):
            path = folder / f"{each}.png"
            draw(path, each)
            yield path

    def look() -> None:
        nonlocal done
        done += 1
        if done % 200 == 0:
            points.append((done, memory_bytes()))

    ways.run(pictures(), look)
    x, y = np.array(points[len(points) // 5 :]).T  # after what is made once
    slope = np.polyfit(x, y, 1)[0]
    print(f"memory: {y[0] / 1e6:.1f} to {y[-1] / 1e6:.1f} MB, {slope:.0f} bytes a picture")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="checkpoint; default: demo")
    parser.add_argument("--pictures", type=int, default=500, help="default: 500")
    parser.add_argument("--files", type=int, default=21, help="of them by processes; default: 21")
    parser.add_argument("--rounds", type=int, default=3, help="blocks in turn; default: 3")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="shorter answers, not processes'"
    )
    parser.add_argument("--memory", type=int, metavar="N", help="only watch the memory over N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways = Ways(options.model, folder, options.max_tokens)
        if options.memory:
            watch_memory(ways, folder, options.memory)
            return
        pictures = [folder / f"{number}.png" for number in range(options.pictures)]
        for number, path in enumerate(pictures):
            draw(path, number)
        compare(ways, pictures, options.files, options.rounds)


if __name__ == "__main__":
    main()
