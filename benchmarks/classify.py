"""Measure what classifying costs, against writing one short answer about the same image.

usage: python benchmarks/classify.py CHECKPOINT PHOTO [--repeats 3]

A short answer has `SHORT` tokens and is greedy. Both read the prompt and the image. Seconds are the
processor's, so that other programs on the machine count little: set OPENBLAS_NUM_THREADS=1, and
preload OpenBLAS. The two run in turn, and the best of the repeats counts. The bar was set in
advance.
"""

import argparse
import time
from collections.abc import Callable

from PIL import Image

from mlx_lfm2vl import AnswerOptions, ImageOptions, Sampling, load
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.skills.classify import PROMPT, classify

SHORT = 8  # tokens
BAR = 1.3
LABELS = [
    *("cat", "dog", "bird", "horse", "a herd of sheep", "living room", "kitchen", "street"),
    *("beach", "mountains", "forest", "portrait", "group of people", "food", "document"),
    *("receipt", "screenshot", "drawing", "sports event", "none of these"),
]
SIZES = [(320, 240), (640, 480)]


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(engine: Engine, image: Image.Image, repeats: int) -> tuple[float, float]:
    """The least seconds of a short answer, and of a classification."""
    options = AnswerOptions(
        max_tokens=SHORT,
        sampling=Sampling(),
        image_options=ImageOptions(do_image_splitting=False),
    )
    question = PROMPT.replace("{labels}", ", ".join(LABELS))

    def answer() -> None:
        result = engine.generate(question, options, image=image)
        assert len(result.token_ids) == SHORT, "random weights seldom end an answer; try another"

    rounds = [
        (seconds(answer), seconds(lambda: classify(engine, image, LABELS, options=options)))
        for _ in range(repeats)
    ]
    first, second = zip(*rounds, strict=True)
    return min(first), min(second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("photo")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model, processor = load(arguments.checkpoint)
    photo = Image.open(arguments.photo).convert("RGB")
    print(f"classify over {len(LABELS)} labels, against an answer of {SHORT} tokens")
    for size in SIZES:
        image = photo.resize(size)
        for store in (None, PrefixStore()):
            short, many = compare(Engine(model, processor, store=store), image, arguments.repeats)
            what = "image new" if store is None else "image read before"
            reached = "reached" if many <= BAR * short else "missed"
            print(
                f"{size[0]}x{size[1]}, {what}: {many / short:.2f} (bar {BAR}: {reached}), "
                f"{short:.2f} and {many:.2f} s"
            )


if __name__ == "__main__":
    main()
