"""Measure what quantized keys and values save and cost.

usage: python benchmarks/kv_bits.py CHECKPOINT [--length 600] [--steps 8]

Logits are those of a random text in float32, with as many steps of one token at its end. Seconds
are the processor's.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
from op_counts import make_model

from mlx_lfm2vl import Sampling, load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.options import KV_BITS
from mlx_lfm2vl.speed import launches

PUBLISHED = {"450M": (6, 8), "1.6B": (6, 8), "3B": (8, 8)}  # attentions, heads of keys; of size 64


def bytes_per_token(layers: int, heads: int, bits: int) -> float:
    """Bytes of the keys and values of one token; without bits in half precision."""
    each = bits + 2 * 32 / 64 if bits else 16
    return 2 * layers * heads * 64 * each / 8


def kernels(bits: int) -> tuple[int, int]:
    """Metal kernels of a decode step of a network of 450M's depth, and their longest chain."""
    model = make_model()
    model = Lfm2VL(
        replace(model.config, text=replace(model.config.text, head_dim=64)), model.image_config
    )
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())

    def quantize(x: mx.array, group_size: int, bits: int) -> list[mx.array]:
        """Stand for the one kernel that writes all three on Metal."""
        codes = mx.contiguous(x)[..., : x.shape[-1] * bits // 32].view(mx.uint32)
        return [codes, *[x[..., : x.shape[-1] // group_size]] * 2]

    make = type(model).make_cache
    with (
        mock.patch.object(type(model), "make_cache", lambda model: make(model, bits)),
        mock.patch.object(mx, "quantize", quantize),
    ):
        cost = launches.decode_step(model, Sampling())
    return cost.kernels.total(), cost.chain


def logits(model: Lfm2VL, ids: list[int], steps: int, bits: int) -> tuple[np.ndarray, float]:
    """Logits of all positions, and processor seconds per step of one token."""
    cache, decoder = model.make_cache(bits), model.language_model
    embeds = model.embed(ids)
    read = [decoder(embeds[:, :-steps], cache)]
    mx.eval(read, cache.arrays)
    taken = []
    for i in range(len(ids) - steps, len(ids)):
        start = time.process_time()
        read.append(decoder(embeds[:, i : i + 1], cache))
        mx.eval(read[-1], cache.arrays)
        taken.append(time.process_time() - start)
    return np.array(model.head(mx.concatenate(read, axis=1))[0]), min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--length", type=int, default=600, help="tokens of the text; default: 600")
    parser.add_argument("--steps", type=int, default=8, help="single steps; default: 8")
    options = parser.parse_args()
    print(f"| bits | {' | '.join(f'KB per token, {name}' for name in PUBLISHED)} |")
    print(f"|---|{'---|' * len(PUBLISHED)}")
    for bits in KV_BITS:
        sizes = (f"{bytes_per_token(*shape, bits) / 1024:.2f}" for shape in PUBLISHED.values())
        print(f"| {bits or 16} | {' | '.join(sizes)} |")
    print("\n| bits | kernels of a decode step | longest chain |\n|---|---|---|")
    for bits in KV_BITS:
        print("| {} | {} | {} |".format(bits or 16, *kernels(bits)))
    model, _ = load(options.checkpoint, dtype="float32")
    ids = np.random.default_rng(0).integers(100, 60_000, options.length).tolist()
    print(
        "\n| bits | logits: largest error | same best token | seconds per step |\n|---|---|---|---|"
    )
    expected, taken = logits(model, ids, options.steps, 0)
    print(f"| off | | | {taken:.3f} |")
    for bits in KV_BITS[1:]:
        found, taken = logits(model, ids, options.steps, bits)
        error = np.abs(found - expected).max() / np.abs(expected).max()
        same = (found.argmax(-1) == expected.argmax(-1)).mean()
        print(f"| {bits} | {error:.1e} | {same:.1%} | {taken:.3f} |")


if __name__ == "__main__":
    main()
