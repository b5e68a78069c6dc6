"""Measure memory over many questions about one image, and over a long conversation.

usage: python benchmarks/cache_memory.py [--asks 1000] [--tokens 10000]

The demo model answers. "Beside" is what MLX holds beside weights and store: it must not grow. The
store's branches share memory until they are written, so it may count more bytes than there are.
"""

import argparse
import gc
from collections.abc import Iterator

import mlx.core as mx
from PIL import Image

from mlx_lfm2vl import Sampling, load
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.prompt.messages import user_message

OPTIONS = {"max_tokens": 24, "sampling": Sampling()}
LIMIT = 16 * 2**20  # bytes of keys and values
TURNS = 12  # of a conversation; the oldest but the first, which has the image, is dropped


def asks(engine: Engine, image: Image.Image, count: int) -> Iterator[int]:
    """Ask different questions about an image; yield their number."""
    seen = engine.see(image, **OPTIONS)
    for number in range(1, count + 1):
        seen.ask(f"How many shapes are there? ({number})", max_tokens=4)
        yield number


def conversation(engine: Engine, image: Image.Image, tokens: int) -> Iterator[int]:
    """Talk about an image; yield the tokens of questions and answers so far."""
    messages, said, number = [], 0, 0
    while said < tokens:
        number += 1
        new = user_message(f"Describe it, please. ({number})", [] if messages else [image])
        messages = [*messages, *new]
        result = engine.generate(messages, **OPTIONS)
        messages.append({"role": "assistant", "content": result.text})
        said += result.prompt_tokens - result.cached_tokens + len(result.token_ids)
        if len(messages) > 2 * TURNS:
            messages = messages[:2] + messages[4:]
        yield said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--asks", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=10_000)
    options = parser.parse_args()
    engine = Engine(*load("demo"))
    image = Image.effect_mandelbrot((320, 240), (-2, -1, 1, 1), 50).convert("RGB")
    print("| after | store, bytes | beside, bytes | MLX's free buffers | Python objects |")
    print("|---|---|---|---|---|")
    for name, work, total in (
        ("asks", asks, options.asks),
        ("tokens", conversation, options.tokens),
    ):
        engine.store = PrefixStore(LIMIT)
        mx.clear_cache()
        weights, printed = mx.get_active_memory(), 0
        for done in work(engine, image, total):
            if done < printed + total // 5:
                continue
            printed = done
            gc.collect()
            beside = mx.get_active_memory() - weights - engine.store.nbytes
            print(
                f"| {done:,} {name} | {engine.store.nbytes:,} | {beside:,} "
                f"| {mx.get_cache_memory():,} | {len(gc.get_objects()):,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
