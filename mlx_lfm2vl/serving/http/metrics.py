"""What a server has done, in the text format of Prometheus."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

from ..meter import CLASSES, FirstTokens
from ..schedule import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Requests = Mapping[tuple[str, int], int]  # number, by the path of a route and the status


def metrics_text(requests: Requests, status: Status) -> str:
    """Return the counts of a server.

    Args:
        requests: over HTTP that were answered.
        status: of its core.
    """
    meter = status.meter
    tokens = {
        "prompt": meter.prompt_tokens,
        "cached": meter.cached_tokens,
        "generated": meter.answer_tokens,
    }
    ends = Counter(meter.errors) + Counter(cancelled=meter.cancelled, refused=meter.refused)
    lines = [
        *_described("requests_total", "counter", "requests by route and status"),
        *(
            f'mlx_lfm2vl_requests_total{{path="{path}",status="{code}"}} {count}'
            for (path, code), count in sorted(requests.items())
        ),
        *_family("tokens_total", "tokens of complete answers; cached ones are of prompts", tokens),
        *_single("answers_total", "counter", "complete answers", meter.answers),
        *_family("unanswered_total", "questions without a complete answer, by reason", ends),
        *_first_tokens(meter.first_tokens),
        *_single("running", "gauge", "answers under way", status.running),
        *_single("waiting", "gauge", "questions that wait for their turn", status.waiting),
        *_single("model_loaded", "gauge", "1 with a model in memory", int(bool(status.model))),
        *_single("memory_bytes", "gauge", "weights, caches and work in memory", _memory()),
        *_single("peak_memory_bytes", "gauge", "most memory of any answer", meter.peak_bytes),
    ]
    return "".join(f"{line}\n" for line in lines)


def _first_tokens(first: FirstTokens) -> list[str]:
    """Return the histogram of times to the first token; its classes add up."""
    name = "first_token_seconds"
    lines = _described(name, "histogram", "seconds from a question to its first token")
    below = 0
    for bound, count in zip(CLASSES, first.counts, strict=True):
        below += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f'mlx_lfm2vl_{name}_bucket{{le="{edge}"}} {below}')
    total = f"mlx_lfm2vl_{name}_sum {first.seconds:.6f}"
    return [*lines, total, f"mlx_lfm2vl_{name}_count {below}"]


def _described(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP mlx_lfm2vl_{name} {text}", f"# TYPE mlx_lfm2vl_{name} {kind}"]


def _single(name: str, kind: str, text: str, value: int) -> list[str]:
    return [*_described(name, kind, text), f"mlx_lfm2vl_{name} {value}"]


def _family(name: str, text: str, values: Mapping[str, int]) -> list[str]:
    counts = [f'mlx_lfm2vl_{name}{{kind="{kind}"}} {values[kind]}' for kind in sorted(values)]
    return [*_described(name, "counter", text), *counts]


def _memory() -> int:
    """Return the bytes of MLX's arrays; 0 before anything is loaded."""
    if "mlx.core" not in sys.modules:
        return 0
    import mlx.core as mx

    return mx.get_active_memory()
