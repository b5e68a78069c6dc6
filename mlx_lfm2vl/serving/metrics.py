"""What a server has done, in the text format of Prometheus.

It is counted in the event loop alone, so it needs no lock.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter

from ..generation.result import Result
from .core import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # bounds of the histogram


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter(prompt=0, cached=0, generated=0)
        self._first_tokens = [0] * (len(FIRST_TOKEN_SECONDS) + 1)
        self._first_token_seconds = 0.0

    def request(self, path: str, status: int) -> None:
        """Count a request by the path of its route and the status of its answer."""
        self._requests[path, status] += 1

    def first_token(self, seconds: float) -> None:
        """Count the time from a question to its first token, waiting included."""
        self._first_tokens[bisect_left(FIRST_TOKEN_SECONDS, seconds)] += 1
        self._first_token_seconds += seconds

    def answered(self, result: Result) -> None:
        """Count the tokens of an answer."""
        self._tokens["prompt"] += result.prompt_tokens
        self._tokens["cached"] += result.cached_tokens
        self._tokens["generated"] += len(result.token_ids)

    def text(self, status: Status) -> str:
        """Return all counts, and what the core is doing."""
        lines = [
            *_described("requests_total", "counter", "requests by route and status"),
            *(
                f'mlx_lfm2vl_requests_total{{path="{path}",status="{code}"}} {count}'
                for (path, code), count in sorted(self._requests.items())
            ),
            *_described("tokens_total", "counter", "tokens of finished answers"),
            *(
                f'mlx_lfm2vl_tokens_total{{kind="{kind}"}} {count}'
                for kind, count in self._tokens.items()
            ),
            *self._histogram(),
            *_gauge("running", "answers under way", status.running),
            *_gauge("waiting", "requests that wait for their turn", status.waiting),
            *_gauge("model_loaded", "1 with a model in memory", int(status.model is not None)),
            *_gauge("memory_bytes", "memory of arrays: weights, caches, work", _memory()),
        ]
        return "".join(f"{line}\n" for line in lines)

    def _histogram(self) -> list[str]:
        name = "first_token_seconds"
        lines = _described(name, "histogram", "seconds from a question to its first token")
        below = 0
        for bound, count in zip((*FIRST_TOKEN_SECONDS, "+Inf"), self._first_tokens, strict=True):
            below += count
            lines.append(f'mlx_lfm2vl_{name}_bucket{{le="{bound}"}} {below}')
        total = f"mlx_lfm2vl_{name}_sum {self._first_token_seconds:.6f}"
        return [*lines, total, f"mlx_lfm2vl_{name}_count {below}"]


def _described(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP mlx_lfm2vl_{name} {text}", f"# TYPE mlx_lfm2vl_{name} {kind}"]


def _gauge(name: str, text: str, value: int) -> list[str]:
    return [*_described(name, "gauge", text), f"mlx_lfm2vl_{name} {value}"]


def _memory() -> int:
    """Return the bytes of MLX's arrays; 0 before anything is loaded."""
    if "mlx.core" not in sys.modules:
        return 0
    import mlx.core as mx

    return mx.get_active_memory()
