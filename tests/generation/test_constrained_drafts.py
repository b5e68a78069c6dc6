"""Drafts inside a constraint: the tokens are those of the loop without drafts."""

from itertools import cycle

import numpy as np
import pytest
from drafters import DRAFTERS, make_target

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, choice, json_schema, load, regex
from mlx_lfm2vl.drafter_loading import load_drafter

BOX = {"type": "object", "properties": {"label": {"type": "string"}, "n": {"type": "integer"}}}
BOXES = {"type": "array", "items": {**BOX, "required": ["label", "n"]}}
CONSTRAINTS = {
    "schema": json_schema(BOXES),
    "regex": regex(r"[a-z ]{3,40}\."),
    "choice": choice(["a small dog", "a small door", "nothing"]),
}
GREEDY = Sampling()
DRAWN = Sampling(temperature=1.2, top_k=40, min_p=0.02, repetition_penalty=1.1)
QUESTION = "Detect all objects."


@pytest.fixture(scope="module")
def demo():
    return load("demo", dtype="float32")


class Script:
    """A drafter that knows the answer, and spoils what it drafts as it is told."""

    taps = ()

    def __init__(self, said, kinds, rests):
        self.said, self.count = said, 0
        self.kinds, self._rests = cycle(kinds), cycle(rests)

    @property
    def rests(self):
        return next(self._rests)

    def add(self, _token):
        self.count += 1

    def skip(self, tokens):
        self.count += len(tokens)

    def cut(self, length):
        pass

    def read(self, outputs):
        pass

    def queue(self, _anchor, _outputs, _verified):
        return None

    def draft(self, most):
        right, wrong = next(self.kinds)
        said = self.said[self.count : self.count + right]
        return [*said, *[token % 90 + 1 for token in range(wrong)]][:most]


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize(
    ("sampling", "logprobs", "max_tokens"), [(GREEDY, False, 30), (DRAWN, True, 14)]
)
def test_no_draft_changes_a_token_inside_a_constraint(
    demo, monkeypatch, name, sampling, logprobs, max_tokens
):
    engine = Engine(*demo)
    options = AnswerOptions(
        max_tokens=max_tokens,
        sampling=sampling,
        seed=2,
        logprobs=logprobs,
        constraint=CONSTRAINTS[name],
    )
    expected = engine.generate(QUESTION, options)
    for kinds, rests in (
        ([(5, 0)], [False]),
        ([(0, 3), (2, 1), (1, 0), (9, 0), (0, 0)], [False]),
        ([(3, 1)], [False, False, True]),
    ):
        script = Script(expected.token_ids, kinds, rests)
        monkeypatch.setattr("mlx_lfm2vl.generation.assisted.make_drafter", lambda *_, s=script: s)
        found = engine.generate(QUESTION, options, lookup=1)
        assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
        assert found.finish_reason == expected.finish_reason
        if logprobs:
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert found.accepted_tokens <= found.drafted_tokens


def test_right_drafts_are_accepted_inside_a_constraint(demo, monkeypatch):
    engine = Engine(*demo)
    options = AnswerOptions(max_tokens=30, sampling=GREEDY, constraint=CONSTRAINTS["regex"])
    expected = engine.generate(QUESTION, options)
    script = Script(expected.token_ids, [(4, 0)], [False])
    monkeypatch.setattr("mlx_lfm2vl.generation.assisted.make_drafter", lambda *_: script)
    found = engine.generate(QUESTION, options, lookup=1)
    assert found.token_ids == expected.token_ids
    assert found.drafted_tokens == found.accepted_tokens >= len(expected.token_ids) // 2


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_a_draft_model_leaves_a_constrained_answer_as_it_is(tmp_path, sampling):
    model, processor = load(make_target(tmp_path, "tied"))
    drafter = load_drafter(DRAFTERS / "tied", model)
    for constraint in (CONSTRAINTS["schema"], CONSTRAINTS["choice"]):
        options = AnswerOptions(max_tokens=40, sampling=sampling, seed=1, constraint=constraint)
        expected = Engine(model, processor).generate("Hello", options)
        engine = Engine(model, processor, drafter=drafter)
        for changes in ({"draft_tokens": 4}, {"draft_tokens": 3, "lookup": 3}, {}):
            assert engine.generate("Hello", options, **changes).token_ids == expected.token_ids
