"""Answer greedily with a draft model, with one of the two packages; run by `drafts.py`.

usage: PYTHON drafts_peer.py PACKAGE TARGET DRAFTER TOKENS REPEATS COUNT

PACKAGE is mlx_lfm2vl or mlx-vlm, whose Python this is. Prints JSON: seconds and CPU seconds of each
run, the tokens, and how many rounds there were. COUNT 1 counts instead the waits of the host, and
the kernels of all graphs that are evaluated.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_lfm2vl.speed.host_syncs import HostSyncs
from mlx_lfm2vl.speed.launches import graph

Answer = Callable[[int, bool], tuple[list[int], int]]  # (tokens, drafted) -> tokens, rounds


def prompt() -> list[int]:
    """The ids of the golden prompt of 40 tokens."""
    return [(37 * i * i + 11 * i + 106) % 200 + 40 for i in range(40)]


def ours(target: str, drafter: str) -> Answer:
    from mlx_lfm2vl import Sampling, load, load_drafter
    from mlx_lfm2vl.generation.drafted import drafted_step
    from mlx_lfm2vl.generation.drafting import ModelDrafter
    from mlx_lfm2vl.generation.loop import Drafts, generate_step
    from mlx_lfm2vl.generation.sampling import Sampler
    from mlx_lfm2vl.generation.verifying import VerifyingSampler

    model, _ = load(target)
    draft_model = load_drafter(drafter, model)
    ids, block = prompt(), draft_model.config.block_size

    def answer(tokens: int, drafted: bool) -> tuple[list[int], int]:
        cache, drafts = model.make_cache(), Drafts()
        if not drafted:
            sampler = Sampler(Sampling(), [ids], [0])
            steps = generate_step(model, model.embed(ids), cache, sampler, tokens)
            return [token.id for token in steps], 0
        sampler = VerifyingSampler(Sampling(), [ids], [0])
        context = draft_model.make_cache()
        own = ModelDrafter(draft_model, model, sampler, context, None, block)
        steps = drafted_step(model, model.embed(ids), cache, sampler, tokens, own, drafts)
        said = [token.id for token in steps]
        return said, sum(drafts.rounds.values())

    return answer


def theirs(target: str, drafter: str) -> Answer:
    from mlx_vlm.generate.ar import generate_step
    from mlx_vlm.speculative.drafters import load_drafter
    from mlx_vlm.utils import load_model

    model = load_model(Path(target))
    draft_model, kind = load_drafter(drafter)
    draft_model.bind(model)
    draft_model.prefer_requested_block_size = True  # a whole block every round
    block = json.loads((Path(drafter) / "config.json").read_text())["block_size"]
    ids = mx.array([prompt()], mx.int32)

    def answer(tokens: int, drafted: bool) -> tuple[list[int], int]:
        options: dict[str, Any] = {}
        if drafted:
            options = {
                "draft_model": draft_model,
                "draft_kind": kind,
                "draft_block_size": block + 1,
            }
            draft_model.accept_lens = []
        steps = generate_step(
            ids,
            model,
            None,
            None,
            max_tokens=tokens,
            temperature=0,
            prefill_step_size=None,
            **options,
        )
        said = [int(t.item()) if isinstance(t, mx.array) else int(t) for t, _ in steps]
        return said, len(draft_model.accept_lens) if drafted else 0

    return answer


def counted(answer: Answer, tokens: int, drafted: bool) -> tuple[int, int, int]:
    """Return waits of the host, kernels, and rounds of an answer."""
    kernels = 0

    def watching(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arrays: Any, **options: Any) -> Any:
            nonlocal kernels
            flat = [each for _, each in tree_flatten(arrays) if isinstance(each, mx.array)]
            kernels += sum(node.kernels for node in graph(*flat)) if flat else 0
            return function(*arrays, **options)

        return watched

    with (
        HostSyncs() as syncs,
        patch.object(mx, "async_eval", watching(mx.async_eval)),
        patch.object(mx, "eval", watching(mx.eval)),
    ):
        for name in ("item", "tolist"):  # the counter of waits puts the originals back
            setattr(mx.array, name, watching(getattr(mx.array, name)))
        said, rounds = answer(tokens, drafted)
    assert len(said) == tokens
    return syncs.total, kernels, rounds


def main() -> None:
    package, target, drafter, tokens, repeats, count = sys.argv[1:]
    answer = (ours if package == "mlx_lfm2vl" else theirs)(target, drafter)
    length = int(tokens)
    report: dict[str, Any] = {}
    if int(count):
        for kind in ("plain", "drafted"):
            short, long = (counted(answer, n, kind == "drafted") for n in (8, length))
            report[kind] = [b - a for a, b in zip(short, long, strict=True)]
        print(json.dumps(report | {"tokens": length - 8}))
        return
    for kind in ("plain", "drafted"):
        answer(length, kind == "drafted")  # warms up
        times: list[tuple[float, float]] = []
        for _ in range(int(repeats)):
            start = time.perf_counter(), time.process_time()
            said, rounds = answer(length, kind == "drafted")
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        report[kind] = {
            "seconds": min(t[0] for t in times),
            "cpu_seconds": min(t[1] for t in times),
            "tokens": said,
            "rounds": rounds,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
