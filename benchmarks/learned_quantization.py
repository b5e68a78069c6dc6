"""Measure what learned rounding gains over rounding to nearest at the same size.

usage: python benchmarks/learned_quantization.py MODEL LEARN.jsonl TEST.jsonl [--samples 64]

The files hold conversations as `train` reads them. All linear layers of a model are quantized to 4,
3 and 2 bits, learning on the first file, and the model is compared with its source on the second.
Single layers of published sizes follow, with random weights and correlated inputs.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.packing import Scheme
from mlx_lfm2vl.prompt.rows import read_rows
from mlx_lfm2vl.prompt.samples import Sample, SampleMaker
from mlx_lfm2vl.quantize.choice import QuantizeOptions
from mlx_lfm2vl.quantize.learned_rounding import learn_rounding, learnable_paths
from mlx_lfm2vl.quantize.loss_report import Observation, compare, observe
from mlx_lfm2vl.quantize.rounding import learn_packed

LAYERS = ((2048, 2048), (8192, 2048), (2048, 8192))  # rows, columns: LFM2-VL-1.6B's
INPUTS = 2048  # positions that a single layer learns from
RANK = 256  # directions that the inputs of a single layer have in common


def schemes_for(model, bits: int) -> dict[str, Scheme]:
    """Path -> scheme for every linear layer of decoder, connector and tower."""
    options = QuantizeOptions(bits=bits, vision_bits=bits, connector_bits=bits)
    found = {
        name.removesuffix(".weight"): options.scheme(name.removesuffix(".weight"), *shape[1:], 5)
        for name, shape in ((n, v.shape) for n, v in named_arrays(model.parameters()).items())
        if name.endswith(".weight") and len(shape) == 2
    }
    wanted = {path: scheme for path, scheme in found.items() if scheme}
    return {path: wanted[path] for path in learnable_paths(model, wanted)}


def with_weights(folder: str, packed: dict, schemes: dict[str, Scheme]):
    """Load the model and replace weights by the values of quantized ones."""
    model, _ = load(folder, dtype="float32")
    weights = []
    for path, arrays in packed.items():
        scheme = schemes[path]
        weight = mx.dequantize(*arrays, scheme.group_size, scheme.bits, scheme.mode)
        weights.append((f"{path}.weight", weight))
    model.load_weights(weights, strict=False)
    return model


def measure_model(folder: str, learn: Path, test: Path, count: int) -> None:
    model, processor = load(folder, dtype="float32")
    make = SampleMaker(processor, set(model.config.eos_token_ids))
    seen = [make(row) for row in read_rows(learn)[:count]]
    unseen = [make(row) for row in read_rows(test)[:count]]
    source = [observe(model, sample) for sample in unseen]
    print(f"{folder}: {count} conversations to learn from, {count} others to compare on\n")
    print("| bits | rounding | KL, image | KL, text | same best token | perplexity | seconds |")
    print("|---|---|---|---|---|---|---|")
    for bits in (4, 3, 2):
        schemes = schemes_for(model, bits)
        weights = named_arrays(model.parameters())
        plain = {
            path: mx.quantize(weights[f"{path}.weight"], s.group_size, s.bits)
            for path, s in schemes.items()
        }
        started = time.perf_counter()
        learned = learn_rounding(model, schemes, seen, dtype=mx.float32)
        seconds = time.perf_counter() - started
        for name, packed, spent in (("nearest", plain, 0.0), ("learned", learned, seconds)):
            quality = _compared(source, unseen, with_weights(folder, packed, schemes))
            text, image = quality["text"], quality["image"]
            print(
                f"| {bits} | {name} | {image['kl']:.4f} | {text['kl']:.4f} | "
                f"{text['agreement']:.1%} | {quality['perplexity']['change']:+.1%} | {spent:.0f} |",
                flush=True,
            )


def _compared(source: Sequence[Observation], samples: Sequence[Sample], model) -> dict:
    return compare(source, lambda number: observe(model, samples[number]))


def measure_layers() -> None:
    print("\n| layer | bits | output error, nearest | learned | seconds |\n|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for rows, columns in LAYERS:
        weight = mx.array(random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))
        common = random.normal(0, 1, (RANK, columns)) * np.geomspace(4, 0.1, RANK)[:, None]
        mixed = random.normal(0, 1, (2 * INPUTS, RANK)) @ common / RANK**0.5
        inputs = (mixed + random.normal(0, 0.5, mixed.shape)).astype(np.float32)
        seen, unseen = mx.array(inputs[:INPUTS]), mx.array(inputs[INPUTS:])
        for bits in (4, 3):
            scheme = Scheme(bits, 128)
            started = time.perf_counter()
            hessian = np.array(seen.T @ seen)
            gap = np.zeros((columns, rows), np.float32)
            learned = learn_packed(weight, hessian, gap, scheme, mx.float32)
            seconds = time.perf_counter() - started
            errors = []
            for packed in (mx.quantize(weight, 128, bits), learned):
                change = weight - mx.dequantize(*packed, 128, bits)
                error = mx.linalg.norm(unseen @ change.T) / mx.linalg.norm(unseen @ weight.T)
                errors.append(f"{float(error.item()):.4f}")
            print(
                f"| {rows} x {columns} | {bits} | {' | '.join(errors)} | {seconds:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint folder, or demo")
    parser.add_argument("learn", type=Path, help="JSONL of conversations to learn from")
    parser.add_argument("test", type=Path, help="JSONL of other conversations to compare on")
    parser.add_argument(
        "--samples", type=int, default=64, help="conversations used from each; default: 64"
    )
    options = parser.parse_args()
    measure_model(options.model, options.learn, options.test, options.samples)
    measure_layers()


if __name__ == "__main__":
    main()
