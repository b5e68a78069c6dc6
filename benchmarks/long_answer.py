"""Measure memory over a long answer: only the keys and values may grow.

usage: python benchmarks/long_answer.py [TOKENS]
"""

import gc
import sys

import mlx.core as mx
from host_syncs import LIQUIDS, TINY

from mlx_lfm2vl import Sampling, load
from mlx_lfm2vl.generation.loop import generate_step
from mlx_lfm2vl.generation.sampling import Sampler


def main() -> None:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    model, _ = load(TINY)
    print("| tokens | greedy: bytes beside the cache, Python objects | Liquid's sampling |")
    print("|---|---|---|")
    columns = []
    for settings in (Sampling(), LIQUIDS):
        cache = model.make_cache()
        sampler = Sampler(settings, [[1, 2, 3]], [0])
        steps = generate_step(model, model.embed([1, 2, 3]), cache, sampler, tokens)
        column = []
        for count, _ in enumerate(steps, 1):
            if count % (tokens // 10) == 0:
                gc.collect()
                objects = len(gc.get_objects())
                column.append((count, mx.get_active_memory() - cache.nbytes, objects))
        columns.append(column)
    for greedy, liquids in zip(*columns, strict=True):
        print(f"| {greedy[0]:,} | {greedy[1]:,}, {greedy[2]:,} | {liquids[1]:,}, {liquids[2]:,} |")


if __name__ == "__main__":
    main()
