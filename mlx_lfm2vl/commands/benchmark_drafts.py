"""The part of `benchmark` about a draft model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .common import progress_line
from .draft_options import load_draft_model

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..model.lfm2vl import Lfm2VL
    from ..prompt.processor import Processor
    from ..speed.drafts import DraftSpeed


def measure_drafts(
    options: argparse.Namespace, model: Lfm2VL, processor: Processor, images: Mapping[str, Path]
) -> dict[str, DraftSpeed]:
    """Measure what the draft model gains on each image, if one is chosen."""
    drafter = load_draft_model(options, model)
    if drafter is None:
        return {}
    from ..speed import drafts

    return {
        name: drafts.measure_drafts(
            model,
            processor,
            drafter,
            path,
            tokens=options.tokens,
            repeats=options.repeats,
            proposals=options.draft_tokens,
            report=progress_line(f"drafting {name}"),
        )
        for name, path in images.items()
    }


def describe(name: str, speed: DraftSpeed) -> str:
    """Tell in a paragraph what the draft model gains on an image."""
    same = "" if speed.same_tokens else "; the answers differ, as ties may in half precision"
    return (
        f"\n{name}: {speed.tokens_per_second:.1f} tokens/s with the draft model, "
        f"{speed.plain_tokens_per_second:.1f} without: {speed.gain:.2f}x{same}\n"
        f"{speed.tokens_per_round:.2f} tokens per round, {speed.accepted_share:.0%} of the drafted "
        "tokens accepted\n"
        f"{1000 * speed.draft_seconds:.1f} ms to draft {speed.proposals} tokens, "
        f"{1000 * speed.verify_seconds:.1f} ms to verify them, "
        f"{1000 * speed.plain_seconds:.1f} ms for a plain token, with a wait after each"
    )
