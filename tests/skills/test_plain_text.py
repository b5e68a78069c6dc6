"""Answers read as plain text: cut short, as lists of words, as objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lfm2vl.errors import AnswerError
from mlx_lfm2vl.skills.plain_text import read_keywords, read_object, shortened, unfenced


@pytest.mark.parametrize(
    ("text", "letters", "expected"),
    [
        ("A dog.", 125, "A dog."),
        ("A dog\n on  grass.", 125, "A dog on grass."),
        ("A dog runs. It is brown and wet.", 20, "A dog runs."),
        ("No. A dog runs over the grass.", 20, "No. A dog runs over…"),
        ("A dog, running over grass.", 8, "A dog…"),
        ("A photo at 3.5 metres away", 13, "A photo at…"),
        ("A brown dog", 11, "A brown dog"),
        ("Donaudampfschiff", 8, "Donauda…"),
        ('He said "Go!" and left us.', 14, 'He said "Go!"'),
    ],
)
def test_a_text_is_cut_after_a_sentence_or_a_word(text, letters, expected):
    assert shortened(text, letters) == expected


@given(st.text(max_size=300))
def test_a_cut_text_is_never_longer_than_asked(text):
    cut = shortened(text, 125)
    assert len(cut) <= 125
    assert cut.rstrip("…").rstrip() in " ".join(text.split()) or cut.endswith("…")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dog, beach, Dog, dog", ("dog", "beach")),
        ("1. Dog\n2. Beach\n3. Blue sky", ("dog", "beach", "blue sky")),
        ("- **Dog**\n* _Beach_", ("dog", "beach")),
        ("USB cable, iPhone, Paris, McDonald", ("USB cable", "iPhone", "paris", "McDonald")),
        ("DOG, BEACH, USB", ("dog", "beach", "usb")),
        ("Keywords: dog, #beach.", ("dog", "beach")),
        ("Here are the keywords:\ndog; beach", ("dog", "beach")),
        ('```json\n["Dog", "beach", 3]\n```', ("dog", "beach")),
        ('[{"label": "red star", "bbox": [0, 0, 1, 1]}]', ("red star",)),
        (f"dog, {'x' * 60}, {'y' * 61}", ("dog", "x" * 60)),
        ("", ()),
    ],
)
def test_keywords_are_read_from_any_list(text, expected):
    assert read_keywords(text, 10) == expected


def test_only_so_many_keywords_are_kept():
    assert read_keywords("a, b, a, c, d", 3) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": {"b": 2}}\n```', {"a": {"b": 2}}),
        ('Here it is:\n{"a": "line\nend"}\nGood luck.', {"a": "line\nend"}),
        ('A set {x}:\n{"a": 1}', {"a": 1}),
        ('[{"a": 1}, {"a": 2}]', {"a": 1}),
    ],
)
def test_an_object_is_found_in_other_text(text, expected):
    assert read_object(text) == expected


@pytest.mark.parametrize("text", ["", "none", '{"a": {"b": 1}, "c": ', '{"a": 1', "{" * 100_000])
def test_a_part_of_a_broken_object_is_not_taken_for_the_whole(text):
    with pytest.raises(AnswerError, match="expected a JSON object"):
        read_object(text)


def test_a_fence_around_a_text_is_taken_off_and_one_within_it_stays():
    assert unfenced("```markdown\n# A\n\ntext\n```\n") == "# A\n\ntext"
    assert unfenced("```\ncut off") == "cut off"
    for text in ("a\n```\nb\n```", "```\na\n```\nb\n```"):
        assert unfenced(text) == text
