"""Answers inside a constraint: always valid, always complete, and otherwise what they would be."""

import json
from dataclasses import dataclass
from typing import Literal

import jsonschema
import mlx.core as mx
import pytest
from schemas import drawn_schema

from mlx_lfm2vl import (
    Constraint,
    Engine,
    InputError,
    Sampling,
    batch_generate,
    choice,
    generate,
    grammar,
    json_schema,
    load,
    regex,
)
from mlx_lfm2vl.generation.prefix_store import PrefixStore

BOXES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "label": {"type": "string"},
            "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        },
        "required": ["label", "bbox"],
    },
}
DRAWN = Sampling(temperature=1.5, min_p=0.02, repetition_penalty=1.1)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def demo():
    return load("demo", dtype="float32")


def valid_answers(engine, seeds, *, max_tokens) -> tuple[int, int]:
    """Ask under drawn schemas; return how many answers are valid, and how many cannot fit."""
    seen = engine.see(demo_picture(), max_tokens=max_tokens, sampling=DRAWN)
    valid = unfit = 0
    for seed in seeds:
        schema = drawn_schema(seed)
        try:
            found = seen.ask("Detect all objects.", constraint=json_schema(schema), seed=seed)
        except InputError as error:
            assert "too few for the JSON schema: it needs" in str(error), schema  # noqa: PT017
            unfit += 1
            continue
        jsonschema.validate(json.loads(found.text), schema)
        assert len(found.token_ids) <= max_tokens
        valid += 1
    return valid, unfit


def test_a_constraint_that_is_made_directly_is_checked_when_it_is_used(demo):
    with pytest.raises(InputError, match="the regular expression cannot be used"):
        Engine(*demo).generate("Hi", constraint=Constraint("regex", "("))


@pytest.mark.parametrize("max_tokens", [20, 100])
def test_an_answer_is_valid_json_within_its_budget(demo, max_tokens):
    valid, _ = valid_answers(Engine(*demo), range(5), max_tokens=max_tokens)
    assert valid >= 4


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("max_tokens", [20, 100])
def test_a_thousand_drawn_schemas_are_followed(demo, max_tokens):
    valid, unfit = valid_answers(Engine(*demo), range(1000), max_tokens=max_tokens)
    assert valid + unfit == 1000
    assert valid > 800


def test_a_budget_that_is_too_small_is_refused_with_what_is_needed(tiny):
    constraint = json_schema(PERSON)
    with pytest.raises(InputError, match="too few for the JSON schema: it needs 22") as error:
        generate(*tiny, "Hi", constraint=constraint, max_tokens=20)
    assert error.value.exit_code == 2
    found = generate(*tiny, "Hi", constraint=constraint, max_tokens=22)
    assert json.loads(found.text) == {"name": "", "age": 0}
    assert found.finish_reason in ("stop", "length")


def test_a_constraint_that_grows_too_large_is_refused_without_the_answer_in_the_message(demo):
    with pytest.raises(InputError, match="cannot be followed, make it simpler: lexer") as error:
        generate(*demo, "Hi", constraint=regex("((a{1,100}){1,100}){1,100}"), max_tokens=300)
    assert "a‧a" not in str(error.value)


def test_an_answer_that_the_budget_closes_says_so(tiny):
    settings = {"constraint": json_schema(PERSON), "sampling": DRAWN, "seed": 4}
    found = generate(*tiny, "Hi", max_tokens=40, **settings)
    jsonschema.validate(json.loads(found.text), PERSON)
    assert found.finish_reason == "length"
    complete = generate(*tiny, "Hi", max_tokens=30, constraint=choice(["red", "blue"]))
    assert (complete.text in ("red", "blue"), complete.finish_reason) == (True, "stop")


def test_an_answer_that_is_valid_anyway_is_the_same_token_for_token(demo):
    question = "Detect all objects."
    settings = {"image": demo_picture(), "sampling": Sampling(), "max_tokens": 200}
    free = generate(*demo, question, **settings)
    jsonschema.validate(json.loads(free.text), BOXES)
    held = generate(*demo, question, constraint=json_schema(BOXES), **settings)
    assert held.token_ids == free.token_ids
    assert held.finish_reason == free.finish_reason == "stop"


CONSTRAINTS = [
    json_schema(BOXES),
    json_schema(PERSON),
    regex(r"\d{3}-[a-z]{2,40}(\.[A-Z])?"),
    choice(["one", "only two", "three"]),
    grammar('start: item ("; " item)*\nitem: /[a-z]{1,5}/ " = " /[0-9]+/'),
]


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
def test_tokens_do_not_depend_on_how_many_a_step_reads(tiny, sampling):
    settings = {"sampling": sampling, "max_tokens": 26, "seed": 4}
    for constraint in CONSTRAINTS:
        together = generate(*tiny, "Hi", constraint=constraint, **settings)
        one_by_one = generate(*tiny, "Hi", constraint=constraint, logprobs=True, **settings)
        assert one_by_one.token_ids == together.token_ids
        assert one_by_one.finish_reason == together.finish_reason
        assert len(one_by_one.logprobs or ()) == len(one_by_one.token_ids)
        rows = batch_generate(
            *tiny, ["A longer question?", "Hi"], constraint=constraint, **settings
        )
        assert rows[1].token_ids == together.token_ids
        assert rows[1].finish_reason == together.finish_reason


def test_log_probabilities_are_those_of_the_model_alone(tiny):
    settings = {"max_tokens": 40, "logprobs": True, "seed": 2, "sampling": DRAWN}
    found = generate(*tiny, "Hi", constraint=json_schema(BOXES), **settings)
    model, processor = tiny
    prompt = processor([{"role": "user", "content": "Hi"}]).input_ids
    logits = model([*prompt, *found.token_ids])[0, len(prompt) - 1 : -1]
    expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(expected, mx.array(found.token_ids)[:, None], axis=-1)[:, 0]
    assert mx.allclose(chosen, mx.array(found.logprobs), atol=1e-3)
    # In a budget that closes the answer with tokens in the place of others, too.
    small = {**settings, "seed": 4, "constraint": json_schema(PERSON)}
    for given in ({**settings, "constraint": json_schema(BOXES)}, small):
        found = generate(*tiny, "Hi", **given)
        (row,) = batch_generate(*tiny, ["Hi"], **given)
        assert row.logprobs == pytest.approx(found.logprobs, abs=1e-3)
    assert found.finish_reason == "length"


def test_the_constraint_covers_the_start_of_the_answer(tiny):
    found = generate(
        *tiny, "Hi", constraint=json_schema(PERSON), answer_start='{"name": "Al', max_tokens=40
    )
    assert found.text.startswith('{"name": "Al')
    jsonschema.validate(json.loads(found.text), PERSON)
    with pytest.raises(InputError, match="no answer that begins with '\\['"):
        generate(*tiny, "Hi", constraint=json_schema(PERSON), answer_start="[", max_tokens=40)
    with pytest.raises(InputError, match="leaves nothing to answer"):
        generate(*tiny, "Hi", constraint=choice(["yes", "no"]), answer_start="yes")


def test_answers_from_a_cache_are_the_same(tiny):
    settings = {"constraint": json_schema(BOXES), "max_tokens": 70, "seed": 3, "sampling": DRAWN}
    question = "Which objects are there, and where is each of them?"
    alone = generate(*tiny, question, **settings)
    engine = Engine(*tiny, store=PrefixStore())
    first = engine.generate(question, **settings)
    again = engine.generate(question, **settings)
    assert again.cached_tokens > 0
    assert first.token_ids == again.token_ids == alone.token_ids
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": alone.text}]
    after = [*said, {"role": "user", "content": "And?"}]
    expected = generate(*tiny, after, max_tokens=5, sampling=Sampling()).token_ids
    assert engine.generate(after, max_tokens=5, sampling=Sampling()).token_ids == expected


def test_stop_strings_and_processors_keep_working(tiny):
    settings = {"constraint": json_schema(PERSON), "max_tokens": 60, "sampling": Sampling()}
    found = generate(*tiny, "Hi", stop='"age"', **settings)
    assert found.text.startswith('{"name": "')
    assert found.text.endswith('", ')
    assert found.finish_reason == "stop"

    def nothing(_tokens, logits):
        return mx.full(logits.shape, -mx.inf)

    held = generate(*tiny, "Hi", logits_processors=[nothing], **settings)
    jsonschema.validate(json.loads(held.text), PERSON)
    assert held.finish_reason == "length"


def test_types_of_python_are_schemas():
    @dataclass
    class Item:
        name: str
        kind: Literal["food", "drink"]
        price: float | None = None

    @dataclass
    class Receipt:
        shop: str
        items: list[Item]
        more: dict[str, int]

    schema = json.loads(json_schema(Receipt).text)
    good = {
        "shop": "A",
        "items": [{"name": "tea", "kind": "drink", "price": 2.5}],
        "more": {"a": 1},
    }
    jsonschema.validate(good, schema)
    for bad in (
        {**good, "x": 1},
        {**good, "items": [{"name": "tea"}]},
        {**good, "more": {"a": "b"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)

    class Model:  # a pydantic model has this method
        @classmethod
        def model_json_schema(cls):
            return PERSON

    assert json.loads(json_schema(Model).text) == PERSON


def demo_picture():
    from pathlib import Path

    import mlx_lfm2vl

    return Path(mlx_lfm2vl.__file__).parent / "demo" / "example.png"
