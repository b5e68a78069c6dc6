"""Measure what is left of an adapter after it is merged into quantized layers.

usage: python benchmarks/fused_adapters.py MODEL ADAPTER LEARN TEST [--samples 8]

MODEL is a quantized checkpoint and ADAPTER was trained on it, or on the same weights unpacked.
LEARN and TEST are folders of conversations as `train` reads them: those the adapter was trained on,
and others. Every way of merging is compared with base and adapter on TEST. Layers are unpacked
before they are compared, which a CPU computes far faster and which changes no weight.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_lfm2vl import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.model.packed_layers import repack, unpack
from mlx_lfm2vl.prompt.samples import Sample
from mlx_lfm2vl.quantize.merging import Answers, learn_merged, measure_merge, observe_answers
from mlx_lfm2vl.quantize.rounding import pack
from mlx_lfm2vl.quantize.study import read_samples
from mlx_lfm2vl.training.adapters import fuse_adapter, load_adapter, quantized_bases


def with_adapter(folder: str, adapter: Path) -> Lfm2VL:
    model, _ = load(folder, dtype="float32")
    load_adapter(model, adapter)
    return model


def answers(model: Lfm2VL, samples: Sequence[Sample]) -> Answers:
    unpack(model, mx.float32)
    return observe_answers(model, samples)


def keep_scales(model: Lfm2VL) -> None:
    """Merge by rounding to nearest with the scales and biases of the base (affine mode only)."""
    schemes = quantized_bases(model)
    bases = {path: dict(model.named_modules())[path].linear for path in schemes}
    fuse_adapter(model, dequantize=True)
    modules, packed = dict(model.named_modules()), {}
    for path, scheme in schemes.items():
        scale, bias = (
            np.array(array.astype(mx.float32)).repeat(scheme.group_size, axis=1)
            for array in (bases[path].scales, bases[path].biases)
        )
        codes = np.rint((np.array(modules[path].weight) - bias) / scale)
        codes = np.clip(codes, 0, 2**scheme.bits - 1).astype(np.uint8)
        codes = mx.array(pack(codes, scheme.bits))
        packed[path] = codes, bases[path].scales, bases[path].biases
    repack(model, packed, schemes)


def learn_from(samples: Sequence[Sample]) -> Callable[[Lfm2VL], None]:
    def merge(model: Lfm2VL) -> None:
        schemes = quantized_bases(model)
        fuse_adapter(model, dequantize=True)
        learn_merged(model, schemes, samples)

    return merge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="quantized checkpoint folder")
    parser.add_argument("adapter", type=Path, help="folder of an adapter on it")
    parser.add_argument("learn", type=Path, help="folder of the rows it was trained on")
    parser.add_argument("test", type=Path, help="folder of other rows")
    parser.add_argument("--samples", type=int, default=8, help="used of each; default: 8")
    options = parser.parse_args()

    base, processor = load(options.model, dtype="float32")
    test = read_samples(options.test, base, processor)[: options.samples]
    learn = read_samples(options.learn, base, processor)[: options.samples]
    plain = answers(base, test)
    model = with_adapter(options.model, options.adapter)
    schemes = set(quantized_bases(model).values())
    drawn = read_samples(None, model, processor)
    fuse_adapter(model, dequantize=True)
    adapted = answers(model, test)
    ways = {
        "rounded to nearest": fuse_adapter,
        "rounded to nearest, scales kept": keep_scales,
        "learned from drawn pictures": learn_from(drawn),
        "learned from its own rows": learn_from(learn),
        "--dequantize": lambda model: fuse_adapter(model, dequantize=True),
    }
    if any(scheme.mode != "affine" for scheme in schemes):
        del ways["rounded to nearest, scales kept"]
    print(f"{options.model}, {sum(map(len, adapted))} positions of {len(test)} conversations\n")
    print("| merged | KL from base + adapter | KL to base | adapter's own KL | seconds |")
    print("|---|---|---|---|---|")
    for name, merge in ways.items():
        model, started = with_adapter(options.model, options.adapter), time.perf_counter()
        merge(model)
        mx.eval(model.parameters())
        seconds = time.perf_counter() - started
        loss = measure_merge(adapted, plain, answers(model, test))
        row = f"| {name} | {loss.lost:.4f} | {loss.kept:.3f} | {loss.learnt:.3f} | {seconds:.0f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
