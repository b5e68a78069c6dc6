"""Drafts inside a constraint: the tokens are those of the loop without drafts."""

import numpy as np
import pytest
from drafters import DRAFTERS, Script, make_target

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
    script = Script(expected.token_ids, [(4, 0)])
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
