"""What a caller may set: checked once, and the same as fields and as keywords."""

from dataclasses import fields

import pytest

from mlx_lfm2vl import AnswerOptions, ImageOptions, InputError, Sampling
from mlx_lfm2vl.options import SAMPLING_KEYS, AnswerChanges


def test_the_keywords_are_the_fields():
    names = [field.name for field in fields(AnswerOptions)]
    assert list(AnswerChanges.__annotations__) == names
    assert set(SAMPLING_KEYS) < set(names)


def test_a_wrong_name_is_refused_with_the_nearest_right_one():
    with pytest.raises(TypeError, match="'temperatur'; did you mean 'temperature'"):
        AnswerOptions().changed({"temperatur": 0.5})
    with pytest.raises(TypeError, match="'images'; did you mean 'image'"):
        AnswerOptions().changed({"images": ["a.png"]})
    with pytest.raises(TypeError, match="'xyz'; expected max_tokens, stop, .*, on_prefill$"):
        AnswerOptions().changed({"xyz": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, expected at least 1"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5, expected int"),
        ({"max_tokens": True}, "max_tokens is True, expected int"),
        ({"stop": ["a", ""]}, "stop holds an empty string"),
        ({"stop": [3]}, "stop holds"),
        ({"special_tokens": [""]}, "special_tokens holds an empty string"),
        ({"special_tokens": [3]}, r"special_tokens holds \(3,\), expected strings"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"seed": 2**63}, "expected 0 to"),
        ({"lookup": 32}, "lookup is 32, expected 0 to 31"),
        ({"lookup": -1}, "lookup is -1, expected 0 to 31"),
        ({"kv_bits": 6}, "kv_bits is 6, expected 8, 4 or 0"),
        ({"kv_bits": True}, "kv_bits is True, expected int"),
        ({"draft_tokens": 32}, "draft_tokens is 32, expected 0 to 31"),
        ({"constraint": {"type": "string"}}, "constraint is .*, expected .*Constraint"),
        ({"temperature": -1}, "temperature -1 is out of range"),
        ({"temperature": 100.5}, "temperature 100.5 is out of range"),
        ({"temperature": float("nan")}, "temperature nan is out of range"),
        ({"min_p": -0.1}, "min_p -0.1 is out of range"),
        ({"repetition_penalty": 100.5}, "repetition_penalty 100.5 is out of range"),
        ({"temperature": "hot"}, "temperature is 'hot', expected float"),
        ({"top_k": 1.5}, "top_k is 1.5, expected int"),
        ({"sampling": 0.5}, "sampling is 0.5, expected"),
        ({"image_options": ["a.png"]}, "image_options is .*, expected ImageOptions"),
    ],
)
def test_impossible_values_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        AnswerOptions(**changes)


def test_the_limits_themselves_are_allowed():
    AnswerOptions(max_tokens=1, seed=0, lookup=31, temperature=0, top_p=1, min_p=1)
    AnswerOptions(seed=2**63 - 1, temperature=100, repetition_penalty=100)


def test_single_values_replace_those_of_the_sampling():
    recommended = Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)
    assert AnswerOptions().sampling_over(recommended) == recommended
    assert AnswerOptions(temperature=0.5).sampling_over(recommended) == Sampling(
        temperature=0.5, min_p=0.15, repetition_penalty=1.05
    )
    greedy = AnswerOptions(temperature=0, min_p=0, repetition_penalty=1)
    assert greedy.sampling_over(recommended) == Sampling()
    chosen = AnswerOptions(sampling=Sampling(), top_k=3)
    assert chosen.sampling_over(recommended) == Sampling(top_k=3)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_seed_that_is_given_counts(seed):
    assert AnswerOptions(seed=seed).drawn_seed() == seed


def test_seeds_that_are_not_given_differ():
    assert len({AnswerOptions().drawn_seed() for _ in range(8)}) > 1


def test_a_single_stop_string_is_a_list_of_one():
    assert AnswerOptions(stop="END").stop == ("END",)
    assert AnswerOptions(special_tokens="<|leaf|>").special_tokens == ("<|leaf|>",)


def test_changes_leave_the_rest():
    options = AnswerOptions(max_tokens=3, image_options=ImageOptions(max_tiles=4))
    assert options.changed({"seed": 1}) == AnswerOptions(
        max_tokens=3, image_options=ImageOptions(max_tiles=4), seed=1
    )
