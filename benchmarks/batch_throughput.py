"""Caption several images as a batch and one by one, and compare speed and tokens.

usage: python benchmarks/batch_throughput.py CHECKPOINT PHOTO [--rows 8] [--tokens 64]

Every row has its own image (a 320 x 240 crop of the photo) to encode and its own prompt to read, so
that a batch only speeds up decoding. On a CPU, preload OpenBLAS.
"""

import argparse
import time
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mlx_lfm2vl import Sampling, batch_generate, generate, load
from mlx_lfm2vl.prompt.messages import user_message

SIZE = (320, 240)
PROMPT = "Describe this image."


def crops(photo: Image.Image, count: int) -> list[Image.Image]:
    """Different parts of a photo."""
    width, height = photo.size
    room = width - SIZE[0], height - SIZE[1]
    steps = [(i * room[0] // count, i * room[1] // count) for i in range(count)]
    return [photo.crop((x, y, x + SIZE[0], y + SIZE[1])) for x, y in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("photo", type=Path, help="image to crop")
    parser.add_argument("--rows", type=int, default=8, help="images in the batch; default: 8")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per caption; default: 64")
    options = parser.parse_args()
    model, processor = load(options.checkpoint)
    photo = Image.open(options.photo).convert("RGB")
    conversations = [user_message(PROMPT, [image]) for image in crops(photo, options.rows)]

    def one_by_one() -> list[list[int]]:
        results = [
            generate(model, processor, c, max_tokens=options.tokens, sampling=Sampling())
            for c in conversations
        ]
        return [result.token_ids for result in results]

    def together() -> list[list[int]]:
        results = batch_generate(
            model,
            processor,
            conversations,
            batch_size=options.rows,
            max_tokens=options.tokens,
            sampling=Sampling(),
        )
        return [result.token_ids for result in results]

    generate(model, processor, conversations[0], max_tokens=2, sampling=Sampling())  # warms up
    seconds, peaks, answers = [], [], []
    for way in (one_by_one, together):
        mx.reset_peak_memory()
        start = time.perf_counter()
        answers.append(way())
        seconds.append(time.perf_counter() - start)
        peaks.append(mx.get_peak_memory() / 1e9)
    same = sum(a == b for a, b in zip(*answers, strict=True))
    print("| way | seconds | captions per minute | peak memory, GB |\n|---|---|---|---|")
    for name, took, peak in zip(("one by one", "together"), seconds, peaks, strict=True):
        print(f"| {name} | {took:.1f} | {60 * options.rows / took:.1f} | {peak:.2f} |")
    print(f"| ratio | {seconds[0] / seconds[1]:.2f} | | {peaks[1] / peaks[0]:.2f} |")
    print(f"\n{same} of {options.rows} rows have the same tokens")


if __name__ == "__main__":
    main()
