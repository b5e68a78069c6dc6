"""Measure the Python time of one decode step, and compare it with mlx-lm's.

usage: python benchmarks/host_time.py

Both packages build the graph of a greedy step that they would build on Metal, for the same 16
layers, in turn and in the same process. Nothing is evaluated. If a model is small, a Mac's GPU
waits for this work.
"""

import time
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.models import lfm2
from mlx_lm.models.cache import make_prompt_cache
from op_counts import ATTENTION_LAYERS, make_model

from mlx_lfm2vl import Sampling
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.model.decode_step import DecodeStep
from mlx_lfm2vl.speed.launches import PROMPT, compiling, metal_view

STEPS = 40  # in one answer, whose graph grows with each step
ROUNDS = 15

Step = Callable[[mx.array], mx.array]


def our_step() -> Step:
    model = make_model()
    cache = model.make_cache()
    mx.eval(model.language_model(model.embed(range(PROMPT)), cache), cache.arrays)
    with compiling():
        step, sampler = DecodeStep(model), Sampler(Sampling(), [range(PROMPT)], [0])
    return lambda token: sampler(step(token, cache)).tokens


def peers_step() -> Step:
    """What mlx-lm's `generate_step` does to decode a token greedily."""
    config = make_model().config.text
    model = lfm2.Model(
        lfm2.ModelArgs(
            model_type="lfm2",
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=len(config.layer_types),
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            norm_eps=config.norm_eps,
            conv_bias=False,
            conv_L_cache=config.conv_L_cache,
            block_dim=config.hidden_size,
            block_ff_dim=config.feed_forward_size,
            block_multiple_of=1,
            block_ffn_dim_multiplier=1.0,
            block_auto_adjust_ff_dim=False,
            full_attn_idxs=list(ATTENTION_LAYERS),
            rope_theta=config.rope_theta,
        )
    )
    model.set_dtype(mx.bfloat16)
    cache = make_prompt_cache(model)
    mx.eval(model(mx.arange(PROMPT)[None], cache=cache), model.parameters())

    def step(token: mx.array) -> mx.array:
        logits = model(token[None], cache=cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return mx.argmax(logprobs, axis=-1)

    return step


def seconds_per_step(make_step: Callable[[], Step]) -> float:
    step = make_step()
    with metal_view():
        token = step(mx.array([1]))
        start = time.thread_time()
        for _ in range(STEPS):
            token = step(token)
        return (time.thread_time() - start) / STEPS


def main() -> None:
    sides = {"mlx_lfm2vl": our_step, "mlx-lm": peers_step}
    rounds = [[seconds_per_step(side) for side in sides.values()] for _ in range(ROUNDS)]
    ours, peers = (min(times) for times in zip(*rounds, strict=True))
    print("| Python per decode step | us |\n|---|---|")
    for name, seconds in zip(sides, (ours, peers), strict=True):
        print(f"| {name} | {seconds * 1e6:.0f} |")
    print(f"| ratio | {ours / peers:.2f} |")


if __name__ == "__main__":
    main()
