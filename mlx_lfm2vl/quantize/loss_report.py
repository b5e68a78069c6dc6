"""Compare a new checkpoint with its source, in size and on samples.

`observe` runs one model over one sample, and `compare` measures the difference between two models.
`quantization_report` holds what is known without running the new checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .. import __version__
from ..checkpoint.names import part_of
from ..checkpoint.packing import Scheme
from ..errors import InputError
from ..generation.loop import generate_step
from ..generation.sampling import Drawn, draw_greedily
from ..loading import load
from ..model.lfm2vl import Lfm2VL
from ..prompt.processor import Inputs
from ..prompt.samples import Sample
from .conversion import Plan
from .model_card import PART_NAMES

ANSWER_TOKENS = 48  # length limit of the source's own answer, where a sample has none
POSITIONS = 48  # of each kind compared per sample; a row of logits takes 0.26 MB or more
# Losses beyond these cause a warning. For scale: an 8-bit conversion of the 3B published by others
# has a KL of 0.00075 and 98.2 % agreement.
WARN_KL, WARN_AGREEMENT, WARN_FEATURES = 0.1, 0.9, 0.1
CHIPS = {"M1": 68, "M2, M3": 100, "M4": 120, "M4 Pro": 273, "M4 Max": 546, "M3 Ultra": 819}  # GB/s


@dataclass(frozen=True)
class Observation:
    """What one model computes for one sample.

    Attributes:
        logprobs: kind -> (P, vocab_size) float32 at the compared positions. The kinds are "image"
            and "text" (the token at the position) and "answer" (it predicts an answer's token).
        answer: (A,) float32, the log-probability of each id of the answer.
        tower: (N, C) patch features of all views, or None without images.
        connector: (F, C) image features, or None without images.
    """

    logprobs: Mapping[str, np.ndarray]
    answer: np.ndarray
    tower: np.ndarray | None
    connector: np.ndarray | None


def with_answer(model: Lfm2VL, inputs: Inputs, end_ids: set[int]) -> Sample:
    """Append the model's own greedy answer to a prompt.

    An image token in the answer would ask for a feature that no image has, so there is none.
    """
    features = (
        model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
        if inputs.pixel_values
        else None
    )
    embeds = model.embed(inputs.input_ids, features)
    barred = mx.arange(model.config.text.vocab_size) == model.config.image_token_id

    def draw_words(logits: mx.array) -> Drawn:
        return draw_greedily(mx.where(barred, -mx.inf, logits))

    answer = []
    for token in generate_step(model, embeds, model.make_cache(), draw_words, ANSWER_TOKENS):
        answer.append(token.id)
        if token.id in end_ids:
            break
    ids = [*inputs.input_ids, *answer]
    is_answer = np.arange(len(ids)) >= len(inputs.input_ids)
    return Sample(ids, is_answer, inputs.pixel_values, inputs.spatial_shapes)


def observe(model: Lfm2VL, sample: Sample) -> Observation:
    """Run a model over a sample."""
    tower = connector = features = None
    if sample.pixel_values:
        features = model.encode_images(sample.pixel_values, sample.spatial_shapes)
        views = [
            model.encode_patches(mx.array(patches[None]), grid)[0]
            for patches, grid in zip(sample.pixel_values, sample.spatial_shapes, strict=True)
        ]
        tower = np.array(mx.concatenate(views).astype(mx.float32))
        connector = np.array(features.astype(mx.float32))
    hidden = model.language_model(model.embed(sample.input_ids, features))[0]
    ids = np.array(sample.input_ids)
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
    """At most POSITIONS of the positions, evenly spaced."""
    return where[np.linspace(0, len(where) - 1, min(POSITIONS, len(where))).astype(int)]


def compare(
    source: Sequence[Observation], converted: Callable[[int], Observation]
) -> dict[str, Any]:
    """Measure how far a new model is from its source.

    Args:
        source: what the source model computes for every sample.
        converted: returns what the new model computes for the sample of that index.

    Returns:
        For each of "image", "text" and "answer": the number of "positions", the mean KL divergence
        of the next-token distributions in nats ("kl"), and the share of positions with the same
        best token ("agreement"). "perplexity" holds the answers' perplexity under both models and
        its relative change. "features" holds the relative error of tower and connector features,
        for those that differ.

    Raises:
        InputError: there are no samples.
    """
    if not source:
        raise InputError("there are no samples to compare on")
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


def compare_converted(
    folder: Path,
    samples: Sequence[Sample],
    observed: Sequence[Observation],
    report: Callable[[int, int], object] = lambda *_: None,
) -> dict[str, Any]:
    """Run a new checkpoint over samples and compare it with its source.

    Args:
        folder: the new checkpoint.
        samples: at least one for each observation.
        observed: what the source computes for the first samples.
        report: called with the number of samples compared so far and the total.

    Returns:
        "quality" from `compare` and "warnings" about it, for the report.
    """
    model, _ = load(folder)

    def converted(number: int) -> Observation:
        result = observe(model, samples[number])
        report(number + 1, len(observed))
        return result

    quality = compare(observed, converted)
    return {"quality": quality, "warnings": warnings(quality)}


def warnings(quality: Mapping[str, Any]) -> list[str]:
    """Sentences that name unusually large losses in `compare`'s result and what to try."""
    found = []
    answer = quality["answer"]
    if answer["kl"] > WARN_KL or answer["agreement"] < WARN_AGREEMENT:
        found.append(
            f"the answers differ a lot from the source's (KL {answer['kl']:.3f}, same best token "
            f"{answer['agreement']:.1%}): try more --bits, --group-size 32, --embed-bits 8, or "
            "--learned with your own images in --calibration"
        )
    # An error of the tower also shows in the connector's features: name the first part with one.
    for name, option in (("tower", "--vision-bits"), ("connector", "--connector-bits")):
        error = quality.get("features", {}).get(name, 0)
        if error > WARN_FEATURES:
            found.append(f"the {name}'s features are off by {error:.1%}: try a larger {option}")
        if error:
            break
    return found


def decode_ceiling(bytes_per_token: int) -> dict[str, float]:
    """Chip -> most tokens per second that its memory bandwidth allows: computed, not measured."""
    return {chip: round(speed * 1e9 / bytes_per_token, 1) for chip, speed in CHIPS.items()}


def quantization_report(
    plan: Plan,
    *,
    source: str,
    output: Path,
    upload: str | None,
    text_only: bool,
    learned: bool,
    samples: str,
    layout: str = "mlx",
) -> dict[str, Any]:
    """What is known about a conversion without running the new checkpoint.

    Args:
        plan: what the conversion does.
        source: name of the source, without a path.
        output: folder of the new checkpoint.
        upload: Hub repo that it will be published in.
        text_only: whether it holds only the decoder.
        learned: whether rounding was learned.
        samples: the samples for learning and comparing, described in words.
        layout: one of `LAYOUTS`.
    """
    sizes = plan.parts()
    per_token = sum(sizes[part]["bytes"] for part in ("language", "embed") if part in sizes)
    return {
        "version": __version__,
        "source": source,
        "output": Path(output).resolve().name,  # it is published, and a path is private
        "upload": upload,
        "settings": describe(plan.schemes, learned=learned),
        "text_only": text_only,
        "layout": layout,
        "sizes": sizes,
        "kept": plan.kept,
        "decode_ceiling": decode_ceiling(int(per_token)),
        "samples": samples,
        "warnings": [],
    }


def describe(schemes: Mapping[str, Scheme], *, learned: bool) -> str:
    """Describe schemes as in "decoder layers 4 bits in groups of 128, vision tower 8 bits ..."."""
    parts: dict[str, list[str]] = {}
    for path, scheme in schemes.items():
        text = f"{scheme.bits} bits in groups of {scheme.group_size}"
        text += f" ({scheme.mode})" if scheme.mode != "affine" else ""
        known = parts.setdefault(PART_NAMES[part_of(path)], [])
        if text not in known:
            known.append(text)
    if not parts:
        return "not quantized"
    texts = ", ".join(f"{part} {' and '.join(known)}" for part, known in parts.items())
    return f"{texts}; rounding learned on sample images" if learned else texts
