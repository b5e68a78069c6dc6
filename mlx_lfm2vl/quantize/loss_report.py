"""What a conversion costs: the new checkpoint against its source, on pictures and on text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..generation.loop import generate_step
from ..generation.sampling import draw_greedily
from ..model.lfm2vl import Lfm2VL
from ..prompt.processor import Inputs

ANSWER_TOKENS = 48  # of the source's own answer, where a sample has none
POSITIONS = 48  # compared per sample of each kind: a row of logits takes 0.26 MB or more
# Above these a user should know; from 8-bit conversions of the family, published by others:
# KL 0.00075 and 0.982 agreement for the 3B.
WARN_KL, WARN_AGREEMENT, WARN_FEATURES = 0.1, 0.9, 0.1
CHIPS = {"M1": 68, "M2, M3": 100, "M4": 120, "M4 Pro": 273, "M4 Max": 546, "M3 Ultra": 819}  # GB/s


@dataclass(frozen=True)
class Sample:
    """A prompt with its answer, as the source model sees it.

    Attributes:
        inputs: ids of prompt and answer, patches and grids.
        is_answer: for every id whether the assistant says it, (L,) bool; not the first.
    """

    inputs: Inputs
    is_answer: np.ndarray


@dataclass(frozen=True)
class Observation:
    """What one model computes for one sample.

    Attributes:
        logprobs: kind -> (P, vocab_size) float32 at the positions compared: of "image" tokens, of
            "text", and those that predict an "answer".
        answer: log-probability of every id of the answer, (A,) float32.
        tower: (N, C) patch features of all views, or None without images.
        connector: (F, C) image features, or None without images.
    """

    logprobs: Mapping[str, np.ndarray]
    answer: np.ndarray
    tower: np.ndarray | None
    connector: np.ndarray | None


def with_answer(model: Lfm2VL, inputs: Inputs, end_ids: set[int]) -> Sample:
    """A prompt followed by the model's own greedy answer."""
    features = (
        model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
        if inputs.pixel_values
        else None
    )
    embeds = model.embed(inputs.input_ids, features)
    answer = []
    for token in generate_step(model, embeds, model.make_cache(), draw_greedily, ANSWER_TOKENS):
        answer.append(token.id)
        if token.id in end_ids:
            break
    ids = [*inputs.input_ids, *answer]
    return Sample(replace(inputs, input_ids=ids), np.arange(len(ids)) >= len(inputs.input_ids))


def observe(model: Lfm2VL, sample: Sample) -> Observation:
    """Run a model over a sample."""
    inputs = sample.inputs
    tower = connector = features = None
    if inputs.pixel_values:
        features = model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
        views = [
            model.encode_patches(mx.array(patches[None]), grid)[0]
            for patches, grid in zip(inputs.pixel_values, inputs.spatial_shapes, strict=True)
        ]
        tower = np.array(mx.concatenate(views).astype(mx.float32))
        connector = np.array(features.astype(mx.float32))
    hidden = model.language_model(model.embed(inputs.input_ids, features))[0]
    ids = np.array(inputs.input_ids)
    is_image = ids == model.config.image_token_id
    asked = np.flatnonzero(sample.is_answer) - 1
    places = {
        "image": np.flatnonzero(is_image),
        "text": np.flatnonzero(~is_image[:-1]),
        "answer": asked,
    }
    logprobs = {
        kind: np.array(_logprobs(model, hidden, _spread(where)))
        for kind, where in places.items()
        if len(where)
    }
    answer = ids[sample.is_answer]
    rows = _logprobs(model, hidden, asked)
    chosen = mx.take_along_axis(rows, mx.array(answer.astype(np.int32))[:, None], axis=-1)
    return Observation(logprobs, np.array(chosen[:, 0]), tower, connector)


def _logprobs(model: Lfm2VL, hidden: mx.array, where: np.ndarray) -> mx.array:
    logits = model.head(hidden[mx.array(where.astype(np.int32))]).astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _spread(where: np.ndarray) -> np.ndarray:
    """At most POSITIONS of them, evenly."""
    return where[np.linspace(0, len(where) - 1, min(POSITIONS, len(where))).astype(int)]


def compare(
    source: Sequence[Observation], converted: Callable[[int], Observation]
) -> dict[str, Any]:
    """Measure the difference.

    Args:
        source: what the source model computes for every sample.
        converted: the same of the new model, by number of the sample.

    Returns:
        For "image", "text" and "answer" positions their number, the mean KL divergence of the
        next-token distributions in nats and the share with the same best token; the perplexity of
        the answers under both models; the relative error of tower and connector features where they
        differ.
    """
    if not source:
        raise InputError("there is nothing to compare on: no samples")
    divergence: dict[str, list[np.ndarray]] = {}
    agreement: dict[str, list[np.ndarray]] = {}
    answers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    errors: dict[str, list[np.ndarray]] = {"tower": [], "connector": []}
    for number, old in enumerate(source):
        new = converted(number)
        for kind, logp in old.logprobs.items():
            logq = new.logprobs[kind]
            divergence.setdefault(kind, []).append((np.exp(logp) * (logp - logq)).sum(-1))
            agreement.setdefault(kind, []).append(logp.argmax(-1) == logq.argmax(-1))
        answers[0].append(old.answer)
        answers[1].append(new.answer)
        for name, parts in errors.items():
            before, after = getattr(old, name), getattr(new, name)
            if before is not None:
                parts.append(np.array([((after - before) ** 2).sum(), (before**2).sum()]))
    result: dict[str, Any] = {
        kind: {
            "positions": int(sum(map(len, parts))),
            "kl": float(np.concatenate(parts).mean()),
            "agreement": float(np.concatenate(agreement[kind]).mean()),
        }
        for kind, parts in divergence.items()
    }
    before, after = (float(np.exp(-np.concatenate(part).mean())) for part in answers)
    result["perplexity"] = {"source": before, "converted": after, "change": after / before - 1}
    for name, parts in errors.items():
        difference, size = np.sum(parts, axis=0) if parts else (0.0, 1.0)
        if difference > 0:
            result.setdefault("features", {})[name] = float(np.sqrt(difference / size))
    return result


def warnings(quality: Mapping[str, Any]) -> list[str]:
    """Sentences about what was lost beyond the usual, and what to change."""
    found = []
    answer = quality["answer"]
    if answer["kl"] > WARN_KL or answer["agreement"] < WARN_AGREEMENT:
        found.append(
            f"the answers differ much from the source's (KL {answer['kl']:.3f}, same best token "
            f"{answer['agreement']:.1%}): use more --bits, --group-size 32, --embed-bits 8, or "
            "--learned with your own images in --calibration"
        )
    # An error of the tower goes on into the connector's features.
    for name, option in (("tower", "--vision-bits"), ("connector", "--connector-bits")):
        error = quality.get("features", {}).get(name, 0)
        if error > WARN_FEATURES:
            found.append(f"the {name}'s features are off by {error:.1%}: use more {option}")
        if error:
            break
    return found


def decode_ceiling(bytes_per_token: int) -> dict[str, float]:
    """Tokens per second that memory bandwidth allows at most, by chip; no measurement."""
    return {chip: round(speed * 1e9 / bytes_per_token, 1) for chip, speed in CHIPS.items()}
