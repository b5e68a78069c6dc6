"""How an answer is printed: the plan of an image, the JSON object, the lines of --verbose."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import printable
from .common import SCHEMA

if TYPE_CHECKING:
    from ..device import Limits
    from ..generation.result import Result
    from ..images.geometry import ImagePlan
    from ..model.lfm2vl import Lfm2VL
    from ..options import Sampling

T = TypeVar("T")


def say(text: str) -> None:
    """Print a line on stderr."""
    print(printable(text), file=sys.stderr)


def say_failure(name: str, error: Exception) -> None:
    """Print on stderr why there is no answer about something; its name stands there once."""
    text, line = str(error), name.replace("\n", "\\n")
    say(f"error: {text if text.startswith((name, repr(name))) else f'{line}: {text}'}")


def in_order(outcomes: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yield the answers of a batch in the order of the questions, each as soon as it can be."""
    waiting = dict[int, T]()
    given = 0
    for number, outcome in outcomes:
        waiting[number] = outcome
        while given in waiting:
            yield waiting.pop(given)
            given += 1


def print_object(values: Mapping[str, Any]) -> None:
    """Print an object of --json as one line; docs/json.md describes it."""
    print(json.dumps({"schema": SCHEMA, **values}, ensure_ascii=False), flush=True)


def print_objects(objects: Sequence[Mapping[str, Any]]) -> None:
    """Print objects of --json as a list in one line."""
    whole = [{"schema": SCHEMA, **values} for values in objects]
    print(json.dumps(whole, ensure_ascii=False), flush=True)


def print_rest(result: Result) -> None:
    """End the line of an answer's text; print its tool calls, each as an object on a line."""
    if result.text or not result.tool_calls:
        print(flush=True)
    for call in result.tool_calls:
        print(json.dumps(call, ensure_ascii=False), flush=True)


def plan_object(file: str, plan: ImagePlan) -> dict[str, Any]:
    """Describe an image for --json."""
    values = plan.to_dict()
    height, width = values.pop("size")
    values["views"] = [
        {"width": view["size"][1], "height": view["size"][0], "tokens": view["tokens"]}
        for view in values["views"]
    ]
    rows, columns = values.pop("grid")
    return {
        "file": file,
        "width": width,
        "height": height,
        "columns": columns,
        "rows": rows,
        **values,
    }


def result_object(
    result: Result, files: Sequence[str], model: str, *, token_ids: bool
) -> dict[str, Any]:
    """Describe an answer for --json.

    Args:
        result: the answer.
        files: its images, as the user named them.
        model: as the user named it.
        token_ids: also give the ids of the answer.
    """
    values = result.to_dict()
    if not token_ids:
        del values["token_ids"]
    pairs = zip(files, result.images, strict=True)
    return {**values, "images": [plan_object(*pair) for pair in pairs], "model": model}


def views_of(plan: ImagePlan) -> str:
    """Describe the views of an image: "4 x 2 tiles of 512 x 512 + thumbnail of 672 x 384"."""
    rows, columns = plan.grid
    height, width = plan.canvas
    if rows * columns == 1:
        return f"1 view of {width} x {height}"
    text = f"{columns} x {rows} tiles of {width // columns} x {height // rows}"
    if plan.thumbnail:
        text += f" + thumbnail of {plan.thumbnail[1]} x {plan.thumbnail[0]}"
    return text


def describe_plan(name: str, plan: ImagePlan) -> str:
    """Describe an image and what it costs in one line."""
    height, width = plan.size
    parts = [f"{width} x {height} pixels", plan.scaling, views_of(plan)]
    parts.append(f"{plan.image_tokens} tokens")
    return f"{name}: {', '.join(part for part in parts if part)}"


def describe_device(model: Lfm2VL, limits: Limits) -> str:
    """Name the number types and memory limits in use."""
    import mlx.core as mx

    from ..arrays import dtype_name, named_arrays

    arrays = named_arrays(model.parameters()).values()
    floats = {dtype_name(x.dtype) for x in arrays if mx.issubdtype(x.dtype, mx.floating)}
    sizes = [
        f"{name} limit {'MLX default' if size is None else f'{size / 1e9:.1f} GB'}"
        for name, size in asdict(limits).items()
    ]
    ops = os.environ.get("MLX_MAX_OPS_PER_BUFFER", "MLX default")
    return ", ".join([" and ".join(sorted(floats)), *sizes, f"operations per buffer {ops}"])


def describe_sampling(sampling: Sampling) -> str:
    """Name the settings: "temperature 0.1, top p 1.0, ..."."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in asdict(sampling).items()
    )


def describe_drafts(result: Result) -> str:
    """Tell in one line what an answer's drafts brought."""
    share = result.accepted_tokens / max(result.drafted_tokens, 1)
    lengths = ", ".join(f"{length}: {count}" for length, count in sorted(result.rounds.items()))
    return (
        f"drafts: {result.accepted_tokens} of {result.drafted_tokens} tokens accepted "
        f"({share:.0%}), {result.tokens_per_round:.2f} tokens per round; rounds by tokens "
        f"accepted: {lengths}"
    )


def say_costs(result: Result) -> None:
    """Print on stderr what an answer cost."""
    for plan in result.images:
        say(describe_plan("image", plan))
    timings = result.timings
    say(
        f"prompt: {result.prompt_tokens} tokens ({result.image_tokens} of images, "
        f"{result.cached_tokens} cached), "
        f"prepared in {timings.prepare:.2f} s, first token after {timings.first_token:.2f} s"
    )
    say(
        f"answer: {len(result.token_ids)} tokens, {result.tokens_per_second:.1f} tokens/s, "
        f"ended by {result.finish_reason}, seed {result.seed}"
    )
    if result.rounds:
        say(describe_drafts(result))
    say(f"peak memory: {result.peak_memory_bytes / 1e9:.2f} GB")
