"""The demo model's scores judge the facts in an answer."""

import json
import random

import comparisons
import pytest
import questions
import scenes
import score
from drawn_scenes import EVAL_WORLDS, WORLD
from make_eval import as_row, make_row


@pytest.mark.parametrize("category", questions.CATEGORIES)
def test_the_right_answer_scores_one_and_another_rows_answer_does_not(category):
    rows = [make_row(category, number, EVAL_WORLDS)[1] for number in range(8)]
    assert [row["shift"] for row in rows] == [False, True] * 4
    for row in rows:
        assert score.score(row, row["answer"]) == pytest.approx(1)
        for other in rows:
            if other["answer"] != row["answer"]:
                assert score.score(row, other["answer"]) < 0.5
        assert score.score(row, "") == 0
    if category == "yesno":
        assert sum(row["answer"].startswith("Yes") for row in rows) == 4


def test_score_judges_facts_not_order_or_case():
    row = {
        "category": "describe",
        "answer": 'Two small red crosses, a blue ring and the text "AND" on a pink background.',
        "boxes": [],
    }
    same = 'A blue ring, the text "AND" and two small red crosses on a pink background.'
    assert score.score(row, same) == 1
    assert score.score(row, same.replace("two small red crosses", "a small red cross")) == 0
    assert score.score(row, same.replace("AND", "and")) == 0
    assert score.score(row, same.replace("pink", "white")) == 0
    count = {"category": "count", "answer": "There are 3 stars.", "also": (), "boxes": []}
    assert score.score(count, " there are  3 stars") == 1
    assert score.score(count, "There are 2 stars.") == 0
    text = {"category": "text", "answer": 'The text says "HELLO".', "boxes": []}
    assert score.score(text, 'It says "HELLO"') == 1
    assert score.score(text, 'The text says "hello".') == 0


def test_another_name_for_what_differs_is_as_right():
    generator = random.Random(6)
    for _ in range(200):
        pair = scenes.make_pair(generator, WORLD)
        asked = comparisons.ask_both(generator, *pair)
        if asked and asked.also:
            break
    row = as_row(0, asked, pair)
    assert asked.answer not in asked.also
    assert [score.score(row, answer) for answer in (asked.answer, *asked.also)] == [1] * (
        1 + len(asked.also)
    )
    assert score.score(row, "The two images are the same.") == 0


def test_boxes_are_matched_within_their_label():
    truth = [
        {"label": "red star", "bbox": [0.0, 0.0, 0.5, 0.5]},
        {"label": "blue ring", "bbox": [0.5, 0.5, 1.0, 1.0]},
    ]
    assert score.box_score(truth, json.dumps(truth[::-1])) == 1
    assert score.box_score(truth, json.dumps(truth[:1])) == 0.5
    assert score.box_score(truth[:1], json.dumps(truth)) == 0.5
    half = [{"label": "red star", "bbox": [0.0, 0.0, 0.5, 0.25]}, truth[1]]
    assert score.box_score(truth, json.dumps(half)) == 0.75
    for broken in ("", "[", "{}", "[]", '[{"label": "red star"}]', '[{"label": 1, "bbox": ["a"]}]'):
        assert score.box_score(truth, broken) == 0


def test_summarise_splits_by_category_and_shift():
    row = {
        "category": "count",
        "answer": "There is 1 star.",
        "also": (),
        "boxes": [],
        "shift": False,
    }
    rows = [{**row, "large": False}, {**row, "shift": True, "large": True}]
    rows += [{**rows[0], "category": "text", "answer": f'It says "{say}".'} for say in ("A", "B 1")]
    answers = ["There is 1 star.", "There are 2 stars.", 'It says "A".', ""]
    summary = score.summarise(rows, answers)
    assert list(summary) == ["count", "text", "word", "tiled", "overall"]
    assert summary["count"] == {"all": 0.5, "plain": 1, "shift": 0, "rows": 2}
    assert summary["text"] == {"all": 0.5, "plain": 0.5, "rows": 2}
    assert summary["word"] == {"all": 1, "plain": 1, "rows": 1}
    assert summary["tiled"] == {"all": 0, "shift": 0, "rows": 1}
    assert summary["overall"]["all"] == 0.5
