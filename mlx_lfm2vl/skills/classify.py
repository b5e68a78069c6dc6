"""Classifying images: which of given labels the model would answer, without writing an answer.

- Each label is scored as a whole answer, with its end: see `generation.score`.
- A label's probability is that of the answer, given that the model answers with one of the labels.
  It is not divided by the number of tokens: that would be no probability, and the later tokens of a
  long label cost little, because its first ones leave hardly a choice.
- The probabilities are not calibrated. They depend on the wording of the prompt, and a label that
  the model would never write has a low one even if it is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..options import AnswerOptions
from ..prompt.messages import user_message
from ..prompt.sources import as_images

if TYPE_CHECKING:  # an engine of another process does without MLX here
    from ..generation.engine import Engine
    from ..generation.scores import Scores
    from ..images.source import ImageSources

PROMPT = "Which of these fits the image best: {labels}? Answer with one of them and nothing else."
PLACE = "{}"  # of a label in the form of an answer
MAX_LABELS = 1000


@dataclass(frozen=True)
class Classification:
    """The label that fits best, and how likely each is.

    Attributes:
        name: of the question.
        choice: the most likely label.
        probabilities: of each label, in the order in which they were given; together 1.
        coverage: probability that the model answers with any of the labels at all. If it is near 0,
            labels or `form` are not what the model would write.
        model: name of the checkpoint.
        prompt_tokens: all tokens of the prompt, image tokens included.
        cached_tokens: tokens of the prompt that an earlier answer had read.
    """

    name: str
    choice: str
    probabilities: dict[str, float]
    coverage: float
    model: str
    prompt_tokens: int
    cached_tokens: int = 0

    @property
    def confidence(self) -> float:
        """The probability of the choice. It is not calibrated."""
        return self.probabilities[self.choice]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer in the form of Liquid AI's decision models, such as d1-3B.

        In addition it says that the probabilities are not calibrated, and has the coverage.
        """
        answer = {
            "type": "choice",
            "choice": self.choice,
            "probabilities": {label: _rounded(p) for label, p in self.probabilities.items()},
            "confidence": _rounded(self.confidence),
            "coverage": _rounded(self.coverage),
            "calibrated": False,
        }
        return {
            "model": self.model,
            "answers": {self.name: answer},
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 0},
        }


def classify(
    engine: Engine,
    images: ImageSources,
    labels: Sequence[str],
    prompt: str = PROMPT,
    *,
    form: str = PLACE,
    name: str = "label",
    system: str | None = None,
    options: AnswerOptions | None = None,
) -> Classification:
    """Choose the label that the model would most likely answer about images.

    >>> classify(engine, "photo.jpg", ["cat", "dog", "no animal"]).choice

    Args:
        engine: with the model. If it has a store, later questions do not read the image again.
        images: one image or several.
        labels: at least two different ones, of any length.
        prompt: the question; `{labels}` in it stands for all labels.
        form: the answer in which a label stands, such as "The circle is {}."
        name: of the question in `to_dict`.
        system: a system message; None has none.
        options: of the prompt; sampling does not matter.

    Raises:
        InputError: labels, `form` or images are bad, or the prompt is too long.
        NetworkError: an image URL cannot be fetched.
    """
    labels = check_labels(labels)
    if form.count(PLACE) != 1:
        raise InputError(f"form is {form!r:.60}, expected an answer with one {{}} for the label")
    asked = prompt.replace("{labels}", ", ".join(labels))
    messages = user_message(asked, as_images(images), system)
    answers = [form.replace(PLACE, label) for label in labels]
    scores = engine.score(messages, answers, options)
    return read_scores(scores, labels, name, engine.model.name)


def read_scores(scores: Scores, labels: Sequence[str], name: str, model: str) -> Classification:
    """Return which label is most likely.

    Args:
        scores: of the answer with each label.
        labels: in the same order.
        name: of the question.
        model: name of the checkpoint.
    """
    totals = [answer.total for answer in scores.answers]
    most = max(totals)
    shares = [math.exp(total - most) for total in totals]
    return Classification(
        name,
        labels[totals.index(most)],
        {label: share / sum(shares) for label, share in zip(labels, shares, strict=True)},
        min(1.0, math.exp(most) * sum(shares)),
        model,
        scores.prompt_tokens,
        scores.cached_tokens,
    )


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return labels without spaces around them.

    Raises:
        InputError: they are no choice: fewer than two, too many, empty or equal ones.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"labels are {labels!r:.60}, expected a list of strings")
    stripped = [label.strip() for label in labels]
    if not 2 <= len(stripped) <= MAX_LABELS:
        one = f"is one label, {stripped[0]!r:.60}" if len(stripped) == 1 else ""
        many = f"are {len(stripped)} labels"
        raise InputError(f"there {one or many}, expected 2 to {MAX_LABELS}")
    if not all(stripped):
        raise InputError("a label is empty")
    twice = next((label for label in stripped if stripped.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"the label {twice!r:.60} is there twice")
    return stripped


def _rounded(probability: float) -> float:
    return float(f"{probability:.6g}")
