"""Measure mlx-vlm on one checkpoint and one image, and print JSON.

usage: python benchmarks/stages_peer.py CHECKPOINT IMAGE TOKENS

Runs in an environment with mlx-vlm. `stages_ours.py` makes the same measurements of mlx_lfm2vl.
"""

import json
import sys
import time

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load_config, prepare_inputs

PROMPT = "What is in this image?"
ENCODE_REPEATS = 3
ENCODE_SECONDS = 15  # stop repeating after this time


def main(checkpoint: str, image: str, tokens: int) -> None:
    model, processor = load(checkpoint)
    mx.eval(model.parameters())
    prompt = apply_chat_template(processor, load_config(checkpoint), PROMPT, num_images=1)

    def answer(max_tokens: int):
        """Seconds until the first and the last token, and the last piece of the stream."""
        start = time.perf_counter()
        first = last = None
        for last in stream_generate(  # noqa: B007  the last one is used
            model, processor, prompt, image=[image], max_tokens=max_tokens, temperature=0.0
        ):
            first = first or time.perf_counter() - start
        return first, time.perf_counter() - start, last

    weights = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    mx.reset_peak_memory()
    answer(1)  # also warms up
    peak = mx.get_peak_memory()
    first, total, last = answer(tokens)

    inputs = prepare_inputs(processor, images=[image], prompts=prompt)
    times: list[float] = []
    while len(times) < ENCODE_REPEATS and sum(times) < ENCODE_SECONDS:
        start = time.perf_counter()
        features = model.encode_images(
            inputs["pixel_values"],
            spatial_shapes=inputs["spatial_shapes"],
            pixel_attention_mask=inputs["pixel_attention_mask"],
        )
        mx.eval(features)
        times.append(time.perf_counter() - start)
    measured = {
        "encode_seconds": min(times),
        "first_token_seconds": first,
        "tokens_per_second": (tokens - 1) / (total - first),
        "peak_bytes": peak,
        "weight_bytes": weights,
        "prompt_tokens": last.prompt_tokens,
        "views": inputs["pixel_values"].shape[0],
        "complete": last.generation_tokens == tokens,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
