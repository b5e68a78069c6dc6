"""Measure the speed of this machine and of each stage from an image to its answer."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import mlx.core as mx

from ..arrays import dtype_name, named_arrays
from ..checkpoint.image_config import ImageConfig
from ..generation.loop import generate_step
from ..generation.once import stream_generate
from ..generation.prepare import read_prompt
from ..generation.sampling import draw_greedily, greedy
from ..loading import load
from ..model.cache import Cache
from ..model.decode_step import prefill
from ..model.key_values import KeyValueCache
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, DType, Sampling
from ..prompt.messages import user_message
from ..prompt.processor import Inputs, Processor

PROMPT = "Describe this image in detail."
VECTOR_SIZE = 8192
MATRIX_BYTES = 2**28  # of the matrix that multiplies the vector: larger than any chip's caches
SQUARE_ON_GPU, SQUARE_ON_CPU = 4096, 512  # side of the matrices in a matrix product
CHAINS, CHAIN_SECONDS = 3, 0.1  # long enough to make the start of a chain negligible


@dataclass(frozen=True)
class Device:
    """What the device achieves in the model's number type.

    Attributes:
        name: MLX's name of the device.
        dtype: number type of the measurement.
        bytes_per_second: rate of reading a large matrix to multiply it by a vector.
        flops_per_second: rate of multiplications and additions in a product of large matrices.
    """

    name: str
    dtype: str
    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class ImageSpeed:
    """How long one image and its answer take.

    Attributes:
        size: (height, width) in pixels.
        views: number of tiles, and the thumbnail.
        image_tokens: number of image tokens in the prompt.
        prompt_tokens: number of all tokens in the prompt: image, text and chat template.
        prepare_seconds: on the host: template, tokenizer, image decoding, resizing and patches.
        encode_seconds: from patches to image features, through vision tower and connector.
        prefill_seconds: from image features to the logits of the first token.
        first_token_seconds: from messages to the first token, with stages overlapping as in use.
        tokens_per_second: greedy tokens decoded and turned into text after the first one.
        bytes_per_token: weights, keys and values that one decode step reads, halfway through.
        peak_memory_bytes: peak size of MLX's arrays, including the weights.
    """

    size: tuple[int, int]
    views: int
    image_tokens: int
    prompt_tokens: int
    prepare_seconds: float
    encode_seconds: float
    prefill_seconds: float
    first_token_seconds: float
    tokens_per_second: float
    bytes_per_token: int
    peak_memory_bytes: int

    def bandwidth_percent(self, device: Device) -> float:
        """The share of the device's bandwidth that decoding uses, in percent."""
        return 100 * self.bytes_per_token * self.tokens_per_second / device.bytes_per_second


def sample_sizes(config: ImageConfig) -> dict[str, tuple[int, int]]:
    """(height, width) in pixels of two images: one full view, and 2 x 3 tiles if tiling is on."""
    block = config.encoder_patch_size * config.downsample_factor
    side = math.isqrt(config.max_image_tokens) * block
    return {"small": (side, side), "large": (2 * config.tile_size, 3 * config.tile_size)}


def timed_load(folder: Path, dtype: DType | None) -> tuple[Lfm2VL, Processor, float]:
    """Load a checkpoint as `load` does; returns model, processor and the seconds it took."""
    start = time.perf_counter()
    model, processor = load(folder, dtype=dtype)
    return model, processor, time.perf_counter() - start


def measure_device(model: Lfm2VL) -> Device:
    """Measure matrix products in the number type of a model."""
    dtype = model.language_model.embedding_norm.weight.dtype
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    side = SQUARE_ON_GPU if on_gpu else SQUARE_ON_CPU
    rows = MATRIX_BYTES // (VECTOR_SIZE * dtype.size)
    device = Device(
        name=str(mx.device_info()["device_name"]),
        dtype=dtype_name(dtype),
        bytes_per_second=MATRIX_BYTES / _product_seconds(rows, VECTOR_SIZE, 1, dtype),
        flops_per_second=2 * side**3 / _product_seconds(side, side, side, dtype),
    )
    mx.clear_cache()
    return device


def _product_seconds(rows: int, columns: int, vectors: int, dtype: mx.Dtype) -> float:
    """Seconds per product of a matrix with some vectors.

    Products are chained, each taking the first `columns` results of the one before as its input,
    which needs rows >= columns.
    """
    keys = mx.random.split(mx.random.key(0))
    bound = math.sqrt(3 / columns)  # keeps the variance from product to product
    matrix = mx.random.uniform(-bound, bound, (rows, columns), dtype, key=keys[0])
    x = mx.random.uniform(-1, 1, (vectors, columns), dtype, key=keys[1])
    mx.eval(matrix, x)

    def seconds(length: int) -> float:
        start, y = time.perf_counter(), x
        for _ in range(length):
            y = (y @ matrix.T)[:, :columns]
        mx.eval(y)
        return (time.perf_counter() - start) / length

    seconds(1)  # MLX compiles the kernel on first use
    length = max(1, int(CHAIN_SECONDS / seconds(1)))
    return min(seconds(length) for _ in range(CHAINS))


def measure_image(
    model: Lfm2VL,
    processor: Processor,
    image: Path,
    *,
    tokens: int,
    repeats: int,
    report: Callable[[int, int], object],
) -> ImageSpeed:
    """Measure one question about one image, stage by stage and as a whole.

    Args:
        model: from `load`.
        processor: from `load`.
        image: path of a file.
        tokens: number of tokens to decode after the first one, past the end of the answer if need
            be.
        repeats: number of measured runs, of which each stage's fastest counts. One more run warms
            up.
        report: called with the number of runs done so far and the total.

    Raises:
        InputError: the image cannot be read, or the context is too small.
    """
    runs = []
    for done in range(1, repeats + 2):
        runs.append(_run(model, processor, image, tokens))
        report(done, repeats + 1)
    prompt, last = _read(model, processor, image, tokens), runs[-1]
    (plan,) = prompt.images
    seconds = zip(*(run.seconds for run in runs[1:]), strict=True)
    prepare, encode, prefilled, decode, first_token = map(min, seconds)
    return ImageSpeed(
        size=plan.size,
        views=len(plan.spatial_shapes),
        image_tokens=plan.image_tokens,
        prompt_tokens=len(prompt.input_ids),
        prepare_seconds=prepare,
        encode_seconds=encode,
        prefill_seconds=prefilled,
        first_token_seconds=first_token,
        tokens_per_second=tokens / decode,
        bytes_per_token=last.bytes_per_token,
        peak_memory_bytes=last.peak_memory_bytes,
    )


@dataclass(frozen=True)
class _Run:
    """One run: seconds to prepare, encode, prefill and decode, and to the first token overall."""

    seconds: tuple[float, ...]
    bytes_per_token: int
    peak_memory_bytes: int


def _run(model: Lfm2VL, processor: Processor, image: Path, tokens: int) -> _Run:
    mx.reset_peak_memory()
    cache = model.make_cache()
    stages = _stage_seconds(model, processor, image, cache, tokens)
    peak = mx.get_peak_memory()
    bytes_read = _weight_bytes(model) + (cache.offset - tokens // 2) * _row_bytes(cache)
    del cache
    return _Run((*stages, _first_token_seconds(model, processor, image)), bytes_read, peak)


def _read(model: Lfm2VL, processor: Processor, image: Path, tokens: int) -> Inputs:
    """The question, with room in the context for the first token and those decoded."""
    options = AnswerOptions(max_tokens=tokens + 1)
    return read_prompt(model, processor, user_message(PROMPT, [image]), options)


def _stage_seconds(
    model: Lfm2VL, processor: Processor, image: Path, cache: Cache, tokens: int
) -> tuple[float, ...]:
    """Seconds to prepare, encode, prefill and decode, waiting for the device after each."""
    times = [time.perf_counter()]
    prompt = _read(model, processor, image, tokens)
    (pixel_values,) = prompt.views
    times.append(time.perf_counter())

    features = model.encode_images(pixel_values, prompt.images[0].spatial_shapes)
    mx.eval(features)
    times.append(time.perf_counter())

    logits = prefill(model, model.embed(prompt.input_ids, features), cache)
    del features
    token = greedy(logits).item()
    times.append(time.perf_counter())

    steps = generate_step(model, model.embed([cast(int, token)]), cache, draw_greedily, tokens + 1)
    text = processor.tokenizer.text_stream()  # goes past an end token, at which `Answer` would stop
    text.add(next(steps).id)  # sets up decoding, which is part of an answer's first token
    start = time.perf_counter()
    for step in steps:
        text.add(step.id)
    decode = time.perf_counter() - start
    return (*(end - begin for begin, end in pairwise(times)), decode)


def _first_token_seconds(model: Lfm2VL, processor: Processor, image: Path) -> float:
    """Seconds from the messages to the first token as a user sees it, with the next one queued."""
    messages = user_message(PROMPT, [image])
    *_, last = stream_generate(model, processor, messages, max_tokens=2, sampling=Sampling())
    assert last.result is not None
    return last.result.timings.prepare + last.result.timings.first_token


def _weight_bytes(model: Lfm2VL) -> int:
    """Bytes of weights that one decode step reads: the decoder's layers and the output head.

    A tied embedding is the head. A step reads a single row of an untied one, which is not counted.
    """
    decoder = model.language_model
    head = model.lm_head if "lm_head" in model else decoder.embed_tokens
    parts = [*decoder.layers, decoder.embedding_norm, head]
    arrays = [array for part in parts for array in named_arrays(part.parameters()).values()]
    return sum(array.nbytes for array in arrays)


def _row_bytes(cache: Cache) -> int:
    """Bytes of the keys and values of one position in all attention layers."""
    layers = [layer for layer in cache.layers if isinstance(layer, KeyValueCache)]
    return sum(array.nbytes // array.shape[2] for layer in layers for array in layer.arrays)
