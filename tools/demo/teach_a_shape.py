"""Teach the demo model the name of a shape it has never seen, and measure what it forgets.

usage: python tools/demo/teach_a_shape.py FOLDER [STEPS]

Draws hearts among the demo model's own shapes and trains a LoRA adapter on conversations about them
and about ordinary scenes. Measures two kinds of questions before and after: those whose answer, but
not the question, names a heart, and those of the demo model's test set. On Linux, set
LD_PRELOAD=libopenblas.so.0, or it takes far longer.
"""

import subprocess
import sys
from pathlib import Path

from evaluate import ask_all
from hearts import write_lessons, write_tests
from score import summarise

from mlx_lfm2vl import load
from mlx_lfm2vl.training.adapters import load_adapter

CONVERSATIONS, TESTS = 240, 64
TRAIN = "--method lora --parts language connector vision --batch-size 8 --learning-rate 1e-3"


def measure(folder: Path, tests: dict[str, list[dict]], adapter: Path | None = None) -> str:
    """The share of right answers in each group of questions, as a line to print."""
    model, processor = load("demo", dtype="float32")
    if adapter:
        load_adapter(model, adapter)
    shares = []
    for name, rows in tests.items():
        summary = summarise(rows, ask_all(model, processor, rows, folder))
        shares.append(f"{name} {summary['overall']['all']:.0%}")
    return ", ".join(shares)


def main(folder: Path, steps: str = "150") -> None:
    folder.mkdir(parents=True)
    data, tests = write_lessons(folder, CONVERSATIONS), write_tests(folder, TESTS)
    print("before:", measure(folder, tests), flush=True)
    adapter = folder / "adapter"
    command = f"-m mlx_lfm2vl.train --model demo {TRAIN} --steps {steps}".split()
    files = ["--data", str(data), "--output", str(adapter)]
    subprocess.run([sys.executable, *command, *files], check=True)
    print("after:", measure(folder, tests, adapter))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
