"""Measure what the cache saves and costs, as ratios within one run.

usage: python benchmarks/cache.py CHECKPOINT PHOTO [--before CLONE] [--repeats 3]

The bars were set in advance. Seconds are the processor's, so that other programs on the machine
count little: set OPENBLAS_NUM_THREADS=1, and preload OpenBLAS. Things that are compared run in
turn, and the best of the repeats counts.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_lfm2vl import AnswerOptions, Sampling, load
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix import Prefix, image_key
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.prepare import embed_prompt, read_prompt
from mlx_lfm2vl.model.decode_step import Passes, prefill
from mlx_lfm2vl.model.rewind import reach, rewind
from mlx_lfm2vl.prompt.messages import user_message

ONE = {"max_tokens": 1, "sampling": Sampling()}
QUESTIONS = [
    "What is in this picture?",
    "Which colors do you see?",
    "How many people are there?",
    "Is it day or night?",
    "What is in the background?",
    "Is there any text?",
    "Where was this taken?",
    "What stands on the left?",
]
# Prints the processor seconds of a new process's second answer, because its first one warms up.
FIRST_TOKEN = """
import sys, time
from PIL import Image
from mlx_lfm2vl import Sampling, generate, load
model, processor = load(sys.argv[1])
photo = Image.open(sys.argv[2]).convert("RGB").resize((1920, 1080))
def ask(image):
    start = time.process_time()
    generate(model, processor, "What is it?", image=image, max_tokens=1, sampling=Sampling())
    return time.process_time() - start
ask(photo.resize((64, 64)))
print(ask(photo))
"""

Row = tuple[str, float, str, str]  # what, ratio, bar, how the ratio came about


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds until the arrays that some work returns are computed."""
    start = time.process_time()
    mx.eval(work())
    return time.process_time() - start


def best(repeats: int, *works: Callable[[], object]) -> list[float]:
    """The least seconds of each of several things, which are done in turn."""
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [min(column) for column in zip(*rounds, strict=True)]


def questions(engine: Engine, photo: Image.Image, repeats: int) -> Iterator[Row]:
    """Time to the first token of later questions, against the first question's."""
    engine.store = PrefixStore()
    first = seconds(lambda: engine.generate(QUESTIONS[0], image=photo, **ONE) and [])
    later = iter(QUESTIONS[1:])
    second = min(
        seconds(lambda: engine.generate(next(later), image=photo, **ONE) and [])
        for _ in range(repeats)
    )
    seen, later = engine.see(photo, **ONE), iter(QUESTIONS[1:])
    asked = min(seconds(lambda: seen.ask(next(later)) and []) for _ in range(repeats))
    yield (
        "second question, `Engine.generate`",
        first / second,
        ">= 25",
        f"{first:.2f}, {second:.3f}",
    )
    yield "second question, `Seen.ask`", first / asked, ">= 25", f"{first:.2f}, {asked:.3f}"


def batch(engine: Engine, photo: Image.Image, repeats: int) -> Iterator[Row]:
    """Eight questions at a time, against one after the other; about a smaller image."""
    seen = engine.see(photo.resize((640, 480)), max_tokens=32, sampling=Sampling())
    alone, together = best(
        repeats,
        lambda: [seen.ask(question) for question in QUESTIONS] and [],
        lambda: seen.ask_all(QUESTIONS) and [],
    )
    detail = f"{alone:.2f}, {together:.2f}"
    yield "eight questions at a time", alone / together, ">= 2.5", detail


def trims(engine: Engine, repeats: int, length: int = 2000, positions: int = 12) -> Iterator[Row]:
    """Going back to random positions, against a step over as many tokens."""
    model = engine.model
    decoder, steps = model.language_model, reach(model.language_model)
    random = np.random.default_rng(0)
    ids = random.integers(10, 10_000, length).tolist()
    full = model.make_cache()
    mx.eval(prefill(model, model.embed(ids), full), full.arrays)
    back = step = 0.0
    for to in random.integers(2 * steps, length, positions).tolist():
        before, embeds = (
            model.embed(ids[to - 2 * steps : to - steps]),
            model.embed(ids[to - steps : to]),
        )
        start = full.fork()
        rewind(decoder, start, to - steps, before)
        windows = start.windows
        mx.eval(windows, embeds, decoder(embeds, start))  # its keys and values are its own now

        def going_back(to: int = to, embeds: mx.array = embeds) -> object:
            cache = full.fork()
            rewind(decoder, cache, to, embeds)
            return cache.windows

        def stepping(
            to: int = to, embeds: mx.array = embeds, cache=start, windows=windows
        ) -> object:
            cache.back(to - steps, windows)
            return decoder(embeds, cache)

        took = best(repeats, going_back, stepping)
        back, step = back + took[0], step + took[1]
    detail = f"{back / positions:.3f}, {step / positions:.3f}"
    yield f"a trim, against a step over {steps} tokens", back / step, "<= 1.5", detail


def hashing(engine: Engine, photo: Image.Image, repeats: int) -> Iterator[Row]:
    """Hash and look-up of a photo of 12 megapixels, against its encoding."""
    model, processor = engine.model, engine.processor
    messages = user_message(QUESTIONS[0], [photo.resize((4032, 3024))])
    store = PrefixStore()
    prompt = read_prompt(model, processor, messages, AnswerOptions(**ONE))
    (views,) = prompt.views
    shapes = prompt.images[0].spatial_shapes
    ready = embed_prompt(
        model, read_prompt(model, processor, messages, AnswerOptions(**ONE)), store
    )
    prefill(model, ready.taken(), ready.branch.cache, ready.passes())
    store.keep(ready.read([]))

    def look_up() -> object:
        store.serve(model)
        prefix = Prefix(prompt.input_ids, prompt.spans, [image_key(views, shapes)])
        assert store.common(prefix) == len(prefix)
        return []

    found, encoded = best(repeats, look_up, lambda: model.encode_images(views, shapes))
    yield (
        "hash and look-up of 12 megapixels",
        found / encoded,
        "< 0.03",
        f"{found:.4f}, {encoded:.2f}",
    )


def cuts(engine: Engine, photo: Image.Image, repeats: int) -> Iterator[Row]:
    """Reading a prompt of nine views with cuts, against without; then all up to the first token."""
    model = engine.model
    messages = user_message(QUESTIONS[0], [photo])
    prompt = read_prompt(model, engine.processor, messages, AnswerOptions(**ONE))
    ready = embed_prompt(model, prompt)
    embeds = ready.taken()
    mx.eval(embeds)
    cut, whole = best(
        repeats,
        lambda: prefill(model, embeds, model.make_cache(), Passes(ends=ready.ends)),
        lambda: prefill(model, embeds, model.make_cache()),
    )
    detail = f"{cut:.2f}, {whole:.2f}"
    yield "reading 9 views with cuts, against without", cut / whole, "<= 1.03", detail


def first_token(options: argparse.Namespace) -> Iterator[Row]:
    """Time to the first token without a cache, against an earlier version of the package."""
    rounds = [
        [_first_token(options, clone) for clone in (Path(__file__).parent.parent, options.before)]
        for _ in range(options.repeats)
    ]
    now, before = (min(column) for column in zip(*rounds, strict=True))
    detail = f"{now:.2f}, {before:.2f}"
    yield "first token without a cache, against before", now / before, "<= 1.03", detail


def _first_token(options: argparse.Namespace, clone: Path) -> float:
    command = [sys.executable, "-c", FIRST_TOKEN, options.checkpoint, options.photo]
    env = {**os.environ, "PYTHONPATH": str(clone)}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("photo", type=Path, help="image, which is resized to 1920x1080")
    parser.add_argument("--before", type=Path, help="clone of an earlier version to compare with")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--only", nargs="+", help="names of measurements, such as trims")
    options = parser.parse_args()
    engine = Engine(*load(options.checkpoint, dtype="float32"))
    photo = Image.open(options.photo).convert("RGB").resize((1920, 1080))
    engine.generate(QUESTIONS[0], image=photo.resize((64, 64)), **ONE)  # warms up
    measurements: dict[str, Callable[[], Iterator[Row]]] = {
        "questions": lambda: questions(engine, photo, options.repeats),
        "trims": lambda: trims(engine, options.repeats),
        "batch": lambda: batch(engine, photo, options.repeats),
        "hashing": lambda: hashing(engine, photo, options.repeats),
        "cuts": lambda: cuts(engine, photo, options.repeats),
    }
    if options.before:
        measurements["first_token"] = lambda: first_token(options)
    print("| measure | ratio | bar | processor seconds |\n|---|---|---|---|")
    for name in options.only or measurements:
        for what, ratio, bar, detail in measurements[name]():
            print(f"| {what} | {ratio:.3g} | {bar} | {detail} |", flush=True)


if __name__ == "__main__":
    main()
