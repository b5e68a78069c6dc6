"""The demo model's lessons are reproducible, and its test set is never trained on."""

import json
import random
import re

import make_data
import pytest
from drawn_scenes import EVAL_WORLDS, WORLD
from make_data import LESSONS, conversation, corpus_line, make_sample, sample_random
from make_eval import make_row
from questions import Question
from words import is_held_out, make_text


def test_the_same_arguments_give_the_same_sample():
    runs = [make_sample(sample_random("train", 3, 8), WORLD, LESSONS["scenes"]) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert [image.tobytes() for image in runs[0][0]] == [image.tobytes() for image in runs[1][0]]
    other = make_sample(sample_random("test", 3, 8), WORLD, LESSONS["scenes"])
    assert other[1] != runs[0][1]


def test_words_of_the_test_split_are_never_trained_on():
    generator = random.Random(0)
    trained = {make_text(generator, repeats=True) for _ in range(2000)}
    tested = {make_text(generator, held_out=True) for _ in range(500)}
    assert not trained & tested
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, tested))
    assert all(re.fullmatch(r"[A-Z]{1,6}|\d{1,4}", text) for text in trained | tested)


def test_the_test_set_has_its_own_random_states_and_words():
    sets = {name: [] for name in ("eval", "choice")}
    for name, rows in sets.items():
        for number in range(20):
            row = make_row("text", number, EVAL_WORLDS, name)[1]
            assert all(map(is_held_out, re.search('"(.*)"', row["answer"])[1].split()))
            rows.append(row)
    assert sets["eval"] == [make_row("text", n, EVAL_WORLDS)[1] for n in range(20)]
    assert not {row["answer"] for row in sets["eval"]} & {row["answer"] for row in sets["choice"]}


def test_every_lesson_can_be_made():
    for name, shares in LESSONS.items():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01), name
        rows = [make_sample(sample_random("train", 2, n), WORLD, shares) for n in range(20)]
        for images, turns in rows:
            names = [f"{i}.png" for i in range(len(images))]
            assert len(conversation(names, turns)["messages"]) == 2 * len(turns) > 0


def test_readings_tell_all_that_is_asked_for():
    for number in range(40):
        images, turns = make_sample(sample_random("train", 1, number), WORLD, LESSONS["reading"])
        assert not images
        told = turns[0].question
        for turn in turns[1:]:
            if turn.category == "text":
                (said,) = re.findall(r'"(.*)"', turn.answer)
                assert all(word in told for word in said.split())


def test_what_is_to_be_read_or_counted_has_no_other_turns_to_copy_from():
    for kind, category, turns in (("read", "text", {1}), ("count", "count", {1, 2, 3})):
        for number in range(12):
            asked = make_sample(sample_random("train", 4, number), WORLD, {kind: 1.0})[1]
            assert {turn.category for turn in asked} == {category}
            assert len(asked) in turns


def test_pairs_of_which_nothing_can_be_asked_are_drawn_again(monkeypatch):
    answers = iter([None] * 100 + [Question("compare", "Q?", "A.")] * 100)
    monkeypatch.setattr(make_data, "ask_both", lambda *_: next(answers))
    images, turns = make_sample(random.Random(0), WORLD, {"compare": 1.0})
    assert len(images) == 2
    assert [turn.answer for turn in turns] == ["A."]


def test_alike_pairs_are_asked_what_differs():
    for number in range(30):
        images, (turn,) = make_sample(sample_random("train", 4, number), WORLD, {"alike": 1.0})
        assert len(images) == 2
        assert re.search("the same|only in the|in the first image and", turn.answer)


def test_a_conversation_shows_its_images_once_and_first():
    images, turns = make_sample(sample_random("train", 0, 1), WORLD, {"shapes": 1})
    names = [f"images/{number}.png" for number, _ in enumerate(images)]
    messages = conversation(names, turns)["messages"]
    assert [part["type"] for part in messages[0]["content"]] == ["image"] * len(images) + ["text"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * len(turns)
    assert len({turn.answer for turn in turns}) == len(turns)
    assert json.loads(json.dumps(messages)) == messages


def test_the_corpus_leaves_out_what_is_printed():
    assert corpus_line('The text says "HELLO 42".') == 'The text says "".'
    assert corpus_line('A red ring and the text "A" on') == 'A red ring and the text "" on'
    boxes = '[{"label": "text", "bbox": [0.10, 0.20, 0.30, 0.40]}]'
    assert corpus_line(boxes) == boxes
