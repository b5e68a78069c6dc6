"""Measure mlx-vlm; `peer` sends this script to a Python that has mlx-vlm installed.

It must not import mlx_lfm2vl, which that Python may lack. Its argument is a task as JSON. The last
line on stdout is the result as JSON: the stages that `stages` measures in our package, as far as
mlx-vlm exposes them.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import sys
import time

import mlx.core as mx
import mlx_vlm
from mlx.utils import tree_flatten
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load_config, prepare_inputs


def main(checkpoint, images, prompt, tokens, repeats):
    start = time.perf_counter()
    model, processor = mlx_vlm.load(checkpoint)
    mx.eval(model.parameters())
    load_seconds = time.perf_counter() - start
    processor.tokenizer.stopping_criteria = lambda _: False  # decode past the end of the answer
    prompt = apply_chat_template(processor, load_config(checkpoint), prompt, num_images=1)
    arrays = [value for _, value in tree_flatten(model.parameters())]
    floats = [a.dtype for a in arrays if mx.issubdtype(a.dtype, mx.floating)]
    measured = {
        "version": mlx_vlm.__version__,
        "dtype": str(floats[-1]).removeprefix("mlx.core."),
        "load_seconds": load_seconds,
        "images": [measure(model, processor, prompt, i, tokens, repeats) for i in images],
    }
    print(json.dumps(measured))


def measure(model, processor, prompt, image, tokens, repeats):
    mx.reset_peak_memory()
    answers = [answer(model, processor, prompt, image, tokens) for _ in range(repeats + 1)][1:]
    peak = mx.get_peak_memory()
    stages = [encode(model, processor, prompt, image) for _ in answers]
    return {
        "views": stages[0][2],
        "prompt_tokens": answers[0][2],
        "prepare_seconds": min(stage[0] for stage in stages),
        "encode_seconds": min(stage[1] for stage in stages),
        "first_token_seconds": min(first for first, _, _ in answers),
        "tokens_per_second": tokens / min(decode for _, decode, _ in answers),
        "peak_memory_bytes": peak,
    }


def answer(model, processor, prompt, image, tokens):
    """Seconds to the first token, seconds for `tokens` more, and the number of prompt tokens."""
    options = {"image": [image], "max_tokens": tokens + 1, "temperature": 0.0}
    start = time.perf_counter()
    pieces = mlx_vlm.stream_generate(model, processor, prompt, **options)
    prompt_tokens = next(pieces).prompt_tokens
    first = time.perf_counter()
    for _ in pieces:
        pass
    return first - start, time.perf_counter() - first, prompt_tokens


def encode(model, processor, prompt, image):
    """Seconds to prepare an image, seconds to encode it, and the number of its views."""
    start = time.perf_counter()
    inputs = prepare_inputs(processor, images=[image], prompts=prompt)
    prepared = time.perf_counter()
    features = model.encode_images(
        inputs["pixel_values"],
        spatial_shapes=inputs["spatial_shapes"],
        pixel_attention_mask=inputs["pixel_attention_mask"],
    )
    mx.eval(features)
    return prepared - start, time.perf_counter() - prepared, inputs["pixel_values"].shape[0]


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
