"""Measure mlx_lfm2vl on one checkpoint and one image, and print JSON.

usage: python benchmarks/stages_ours.py CHECKPOINT IMAGE TOKENS

`stages_peer.py` makes the same measurements of mlx-vlm, in the peer's environment.
"""

import json
import sys
import time

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_lfm2vl import Sampling, load, stream_generate
from mlx_lfm2vl.prompt.messages import user_message

PROMPT = "What is in this image?"
ENCODE_REPEATS = 3
ENCODE_SECONDS = 15  # stop repeating after this time


def main(checkpoint: str, image: str, tokens: int) -> None:
    model, processor = load(checkpoint)
    messages = user_message(PROMPT, [image])

    def answer(max_tokens: int):
        *_, last = stream_generate(
            model, processor, messages, max_tokens=max_tokens, sampling=Sampling()
        )
        return last.result

    weights = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    mx.reset_peak_memory()
    answer(1)  # also warms up
    peak = mx.get_peak_memory()
    result = answer(tokens)

    inputs = processor(messages)
    times: list[float] = []
    while len(times) < ENCODE_REPEATS and sum(times) < ENCODE_SECONDS:
        start = time.perf_counter()
        mx.eval(model.encode_images(inputs.pixel_values, inputs.spatial_shapes))
        times.append(time.perf_counter() - start)
    measured = {
        "encode_seconds": min(times),
        "first_token_seconds": result.timings.prepare + result.timings.first_token,
        "tokens_per_second": (tokens - 1) / result.timings.decode,
        "peak_bytes": peak,
        "weight_bytes": weights,
        "prompt_tokens": result.prompt_tokens,
        "views": len(inputs.pixel_values),
        "complete": len(result.token_ids) == tokens,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
