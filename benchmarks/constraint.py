"""Measure what a constraint costs and saves, as ratios within one run.

usage: python benchmarks/constraint.py CHECKPOINT PHOTO [--repeats 3]

The bars were set in advance. Seconds are the processor's, so that other programs on the machine
count little: set OPENBLAS_NUM_THREADS=1, and preload OpenBLAS. Things that are compared run in
turn, and the best of the repeats counts. Both loops write the same given answer, because random
weights would not write JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mlx_lfm2vl import AnswerOptions, Constraint, Engine, Sampling, json_schema, load
from mlx_lfm2vl.generation import vocabulary
from mlx_lfm2vl.generation.constrained import constrained_step
from mlx_lfm2vl.generation.guide import Guide, make_guide
from mlx_lfm2vl.generation.loop import generate_step
from mlx_lfm2vl.generation.prepare import embed_prompt, read_prompt
from mlx_lfm2vl.generation.sampling import Drawn, Sampler
from mlx_lfm2vl.model.decode_step import Passes, prefill
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.skills.schemas import box_schema

BOXES = box_schema("450m")  # of the skill `detect`
FOUND = [
    {"label": "red car", "bbox": [0.12, 0.34, 0.56, 0.78]},
    {"label": "person with a dog", "bbox": [0.05, 0.41, 0.17, 0.93]},
]
TEXT = "A red car waits at a crossing while a person with a small dog walks past the shop windows."

Row = tuple[str, float, str, str]  # what, ratio, bar, how the ratio came about


class Scripted(Sampler):
    """Draws the tokens of a given answer, each only once its logits are computed."""

    def __init__(self, answer: list[int]) -> None:
        super().__init__(Sampling(), [[]], [0])
        self._rest = iter(answer)

    def __call__(self, logits: mx.array, allowed: object = None) -> Drawn:
        drawn = super().__call__(logits, allowed)  # pyright: ignore[reportArgumentType]
        token = mx.array([next(self._rest)], mx.uint32)
        return Drawn(mx.where(drawn.tokens < 0, drawn.tokens, token), None)

    def skip(self, tokens: object) -> None:
        for token in tokens:  # pyright: ignore[reportGeneralTypeIssues]
            assert next(self._rest) == token


def seconds(loop: Iterator[object]) -> tuple[float, int]:
    """Processor seconds from the first token of a loop to the last, and how many tokens came."""
    next(loop)
    start, count = time.process_time(), 1
    for _ in loop:
        count += 1
    return time.process_time() - start, count


def against_free(engine: Engine, answer: str, constraint: Constraint, repeats: int) -> list[float]:
    """Seconds of an answer without and with a constraint, until it is known to have ended.

    Without a constraint that takes an end token.
    """
    model, tokenizer = engine.model, engine.processor.tokenizer
    ids = tokenizer.encode_plain(answer)
    embeds = model.embed(tokenizer.encode_plain("What is in this picture?"))
    config = model.config
    known = vocabulary.vocabulary_of(tokenizer, config.text.vocab_size, config.eos_token_ids)

    def free() -> tuple[float, int]:
        sampler = Scripted([*ids, 0, 0])
        return seconds(generate_step(model, embeds, model.make_cache(), sampler, len(ids) + 1))

    def held() -> tuple[float, int]:
        guide = partial(Guide, known, constraint, 2 * len(ids))
        sampler = Scripted([*ids, 0, 0])
        return seconds(constrained_step(model, embeds, model.make_cache(), sampler, guide))

    rounds = [(free(), held()) for _ in range(repeats)]
    assert all(pair[0][1] - 1 == pair[1][1] == len(ids) for pair in rounds)
    return [min(pair[i][0] for pair in rounds) for i in (0, 1)]


def text(engine: Engine, repeats: int) -> Iterator[Row]:
    """One string, in which no token comes without choice."""
    answer = json.dumps(TEXT)
    free, held = against_free(engine, answer, json_schema({"type": "string"}), repeats)
    yield "a string, tokens/s against free", free / held, ">= 0.95", f"{free:.2f}, {held:.2f}"


def boxes(engine: Engine, repeats: int) -> Iterator[Row]:
    """A list of boxes, in which many tokens come without choice."""
    free, held = against_free(engine, json.dumps(FOUND), json_schema(BOXES), repeats)
    yield "boxes, tokens/s against free", free / held, ">= 1.3", f"{free:.2f}, {held:.2f}"


def start(engine: Engine, photo: Image.Image, repeats: int) -> Iterator[Row]:
    """The vocabulary and the guide, against the reading of a photo's prompt meanwhile."""
    model, processor = engine.model, engine.processor
    options = AnswerOptions(constraint=json_schema(BOXES))
    made, again, read = [], [], []
    for _ in range(repeats):
        prompt = read_prompt(model, processor, user_message("What?", [photo]), options)
        vocabulary._kept.clear()  # pyright: ignore[reportPrivateUsage]
        begin = time.process_time()
        make_guide(model, processor, options, "")
        made.append(time.process_time() - begin)
        begin = time.process_time()
        make_guide(model, processor, options, "")
        again.append(time.process_time() - begin)
        begin = time.process_time()
        ready = embed_prompt(model, prompt)
        mx.eval(prefill(model, ready.taken(), ready.branch.cache, Passes(ends=ready.ends)))
        read.append(time.process_time() - begin)
    for name, took in (("first", min(made)), ("later", min(again))):
        detail = f"{took:.3f}, {min(read):.2f}"
        yield f"start of a {name} schema, against prefill", took / min(read), "<= 1", detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("photo", type=Path, help="image, which is resized to 512x512")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--only", nargs="+", help="names of measurements, such as boxes")
    options = parser.parse_args()
    engine = Engine(*load(options.checkpoint, dtype="float32"))
    photo = Image.open(options.photo).convert("RGB").resize((512, 512))
    measurements: dict[str, Callable[[], Iterator[Row]]] = {
        "text": lambda: text(engine, options.repeats),
        "boxes": lambda: boxes(engine, options.repeats),
        "start": lambda: start(engine, photo, options.repeats),
    }
    print("| measure | ratio | bar | processor seconds |\n|---|---|---|---|")
    for name in options.only or measurements:
        for what, ratio, bar, detail in measurements[name]():
            print(f"| {what} | {ratio:.3g} | {bar} | {detail} |", flush=True)


if __name__ == "__main__":
    main()
