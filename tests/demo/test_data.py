"""The demo model's data says what its pictures show, and its test set is never trained on."""

import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "demo"))

import make_data
import questions
import scenes
import score
from make_data import LESSONS, conversation, corpus_line, make_sample, sample_random
from make_eval import as_row, make_row
from words import is_held_out, make_text

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.images.geometry import plan_image

FONTS = ("Aileron",)  # comes with Pillow; the others need matplotlib
WORLD = replace(scenes.TRAIN_WORLD, fonts=FONTS)
EVAL_WORLDS = (
    replace(scenes.TEST_WORLD, fonts=FONTS),
    replace(scenes.SHIFT_WORLD, fonts=FONTS),
)
DEMO = read_image_config(DEMO_FOLDER)


def many_scenes(count, world=WORLD, seed=0):
    generator = random.Random(seed)
    return [
        scenes.make_scene(generator, scenes.KINDS[number % 3], world) for number in range(count)
    ]


def matching(scene, phrase):
    """Objects of a scene that are everything a noun phrase says."""
    words = re.sub(r"\bshapes?\b", "", phrase).split()
    words = [re.sub(r"(?<=cross)es$|(?<!s)s$", "", word) for word in words]
    return [
        item
        for item in scene.objects
        if all(word in (item.size, item.colour, item.shape) for word in words)
    ]


def only(scene, phrase):
    (item,) = matching(scene, phrase)
    return item


def asked(category, count=150, seed=1):
    """(scene, question) of a category, asked of many scenes."""
    generator = random.Random(seed)
    pairs = [
        (scene, questions.ask(generator, scene, category))
        for scene in many_scenes(count)
        if (category != "text" or scene.text)
        and (category not in ("position", "count") or scene.objects)
    ]
    pairs = [pair for pair in pairs if pair[1]]
    assert len(pairs) > count / 5
    return pairs


@pytest.mark.parametrize("style", [scenes.Style(), scenes.Style(outline=0.1)])
def test_boxes_hold_the_drawn_pixels_and_little_more(style):
    for scene in many_scenes(24, replace(WORLD, tilt=5.0, fade=0.0)):
        width, height = scene.size
        empty = np.asarray(scenes.draw(replace(scene, objects=(), text=None), style)).astype(int)
        for item in (*scene.objects, scene.text):
            if item is None:
                continue
            if item is scene.text:
                alone = replace(scene, objects=())
            else:
                alone = replace(scene, objects=(item,), text=None)
            ink = abs(np.asarray(scenes.draw(alone, style)) - empty).max(axis=-1) > 12
            rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
            drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            box = [side * share for side, share in zip((width, height) * 2, item.box, strict=True)]
            slack = 4 if item is scene.text else 2  # pixels; a tilted text's box is not tight
            assert drawn[0] > box[0] - 1.5
            assert drawn[1] > box[1] - 1.5
            assert drawn[2] < box[2] + 1.5
            assert drawn[3] < box[3] + 1.5
            assert np.abs(np.subtract(drawn, box)).max() < slack


def test_half_of_the_print_in_lessons_is_faint_and_none_in_the_test_set():
    inks = [scene.text.ink for scene in many_scenes(90) if scene.text]
    assert 0.3 < sum(ink < 1 for ink in inks) / len(inks) < 0.7
    assert min(inks) >= 0.6
    for world in (scenes.TEST_WORLD, scenes.SHIFT_WORLD):
        shown = many_scenes(30, replace(world, fonts=FONTS))
        assert {scene.text.ink for scene in shown if scene.text} == {1.0}


def test_lessons_print_characters_that_come_again():
    def share(repeats):
        generator = random.Random(0)
        texts = [make_text(generator, repeats=repeats) for _ in range(600)]
        return sum(len(set(text)) < len(text) for text in texts) / len(texts)

    assert share(False) < 0.3 < 0.35 < share(True)


def test_faint_print_is_nearer_to_its_background():
    scene = next(scene for scene in many_scenes(9) if scene.text and not scene.objects)
    pictures = {
        ink: np.asarray(
            scenes.draw(replace(scene, text=replace(scene.text, ink=ink)), scenes.Style())
        ).astype(int)
        for ink in (0.0, 0.5, 1.0)
    }
    contrast = {ink: abs(picture - pictures[0.0]).max() for ink, picture in pictures.items()}
    assert contrast[0.5] == pytest.approx(contrast[1.0] / 2, abs=2)


def test_objects_and_text_keep_apart_and_inside():
    for scene in many_scenes(90):
        boxes = [item.box for item in scene.objects] + ([scene.text.box] if scene.text else [])
        assert all(0 <= edge <= 1 for box in boxes for edge in box)
        for index, box in enumerate(boxes):
            assert not any(score.intersection_over_union(box, other) for other in boxes[:index])


def test_colours_stand_out_from_every_background():
    for background in scenes.BACKGROUNDS:
        objects = [colour for colour in scenes.COLOURS if scenes.is_distinct(colour, background)]
        assert len(objects) >= 5
        assert any(scenes.is_legible(colour, background) for colour in scenes.COLOURS)
    assert not scenes.is_distinct("black", "black")
    assert not scenes.is_legible("yellow", "white")


def test_canvases_are_cut_into_the_tiles_they_were_made_for():
    for scene in many_scenes(400, replace(WORLD, large=0.5)):
        plan = plan_image(scene.size[1], scene.size[0], DEMO)
        assert plan.grid == scene.grid[::-1]


def test_counts_are_true():
    for scene, question in asked("count"):
        number, noun = re.fullmatch(r"There (?:is|are) (\w+) (.+)\.", question.answer).groups()
        assert len(matching(scene, noun)) == (0 if number == "no" else int(number))


def test_attributes_are_true_of_the_only_thing_named():
    for scene, question in asked("attribute"):
        name, value = re.fullmatch(r"The (.+) is (?:a )?(.+)\.", question.answer).groups()
        if name == "background":
            assert value == scene.background
        elif name == "text":
            assert value == scene.text.colour
        else:
            item = only(scene, name)
            assert value in (item.size, item.colour, item.shape)
            assert value not in name


def test_positions_are_true_beyond_doubt():
    for scene, question in asked("position", 240):
        sentence = re.sub(r"^(Yes|No), t", "T", question.answer)
        relation = re.fullmatch(
            r"(?:A|The) (.+) is (left of|right of|above|below) the (.+)\.", sentence
        )
        if relation:
            (x, y), (other_x, other_y) = (
                (0, 0) if len(matching(scene, name)) > 1 else only(scene, name).centre
                for name in relation.group(1, 3)
            )
            if len(matching(scene, relation[1])) == 1:
                steps = {
                    "left of": other_x - x,
                    "right of": x - other_x,
                    "above": other_y - y,
                    "below": y - other_y,
                }
                assert steps[relation[2]] >= 0.15
                assert (relation[2] in question.question) != question.answer.startswith("No")
            continue
        name, part = re.fullmatch(r"The (.+) is (?:in|at|on) the (.+)\.", sentence).groups()
        x1, y1, x2, y2 = scene.text.box if name == "text" else only(scene, name).box
        column, row = (int(3 * (x1 + x2) / 2), int(3 * (y1 + y2) / 2))
        words = set(part.split())
        assert ("left" in words, "right" in words) == (column == 0, column == 2)
        assert bool(words & {"upper", "top"}) == (row == 0)
        assert bool(words & {"lower", "bottom"}) == (row == 2)


def test_lessons_about_places_are_true():
    forms = set()
    for scene, question in asked("relation", 300):
        answer = question.answer
        if " to bottom" in question.question:
            forms.add("list")
            names = re.findall(r"\b[Aa]n? ([^,.]+?)(?=,| and |\.)", answer)
            downward = sorted(scene.objects, key=lambda item: item.centre[1])
            assert names == [f"{item.size} {item.colour} {item.shape}" for item in downward]
        elif answer.endswith(("higher.", "lower.")):
            forms.add("higher")
            name, word = re.fullmatch(r"The (.+) is (higher|lower)\.", answer).groups()
            both = re.search(
                r"the (.+) or the (.+)\?", question.question.replace("object", "shape")
            )
            (other,) = set(both.groups()) - {name}
            step = only(scene, other).centre[1] - only(scene, name).centre[1]
            assert step * (1 if word == "higher" else -1) >= questions.CLEAR
        elif " or " in question.question:
            forms.add("either")
            name, relation, other = re.fullmatch(
                r"The (.+) is (left of|right of|above|below) the (.+)\.", answer
            ).groups()
            axis, sign = questions.RELATIONS[relation]
            step = only(scene, name).centre[axis] - only(scene, other).centre[axis]
            assert step * sign >= questions.CLEAR
            assert f"{relation.removesuffix(' of')} " in question.question
    assert forms == {"list", "higher", "either"}


def test_yes_and_no_are_true_and_balanced():
    pairs = asked("yesno", 600)
    for scene, question in pairs:
        yes, noun = re.fullmatch(
            r"(Yes|No), there is (?:an? |no )?(.+)\.", question.answer
        ).groups()
        found = scene.text if noun == "text" else matching(scene, noun)
        assert bool(found) == (yes == "Yes")
    share = sum(question.answer.startswith("Yes") for _, question in pairs) / len(pairs)
    assert 0.4 < share < 0.6


def test_text_answers_are_what_is_printed():
    for scene, question in asked("text"):
        line = re.search("first|second|third", question.answer)
        expected = " ".join(scene.text.lines)
        if line:
            expected = scene.text.lines[questions.LINES.index(line[0])]
        assert re.search('"(.*)"', question.answer)[1] == expected


def test_box_answers_are_json_with_the_boxes_of_the_scene():
    for scene, question in asked("box"):
        known = [(f"{item.colour} {item.shape}", item.box) for item in scene.objects]
        known += [("text", scene.text.box)] if scene.text else []
        for row in json.loads(question.answer):
            assert any(
                row["label"] == label and row["bbox"] == pytest.approx(box, abs=0.0051)
                for label, box in known
            )
        assert re.search(r"\[\d\.\d\d, \d\.\d\d, \d\.\d\d, \d\.\d\d\]", question.answer)


def test_descriptions_name_every_object_once():
    for scene, question in asked("describe"):
        assert f"on a {scene.background} background." in question.answer
        listed = question.answer.split(" on a ")[0].replace("the text", "")
        numbers = {"a": 1, "A": 1, "two": 2, "three": 3, "four": 4, "five": 5}
        named = sum(numbers.get(word.lower(), 0) for word in re.sub('"[^"]*"', "", listed).split())
        assert named == len(scene.objects)
        for item in scene.objects:
            assert f"{item.size} {item.colour} {item.shape}" in question.answer.lower()


def test_comparisons_are_true():
    generator = random.Random(5)
    seen = set()
    for _ in range(200):
        first, second = scenes.make_pair(generator, WORLD)
        question = questions.ask_both(generator, first, second)
        if not question:
            continue
        answer = question.answer
        one, other = len(first.objects), len(second.objects)
        if "more shapes" in answer:
            seen.add("more")
            assert (one > other) == ("first" in answer)
        elif "same number" in answer:
            assert one == other
        elif answer == "The two images are the same.":
            assert first == second
        elif match := re.fullmatch(r"The (.+) is only in the (first|second) image\.", answer):
            seen.add("only")
            has, lacks = (first, second) if match[2] == "first" else (second, first)
            assert only(has, match[1])
            assert not matching(lacks, match[1])
        elif match := re.fullmatch(
            r"The (.+) is (?:a )?(\w+) in the first image and (?:a )?(\w+) in the second\.", answer
        ):
            seen.add("changed")
            assert only(first, f"{match[1]} {match[2]}")
            assert only(second, f"{match[1]} {match[3]}")
        elif match := re.match(r"There (?:is|are) (\w+) (.+) in the (first|second)", answer):
            seen.add("count")
            scene = first if match[3] == "first" else second
            assert len(matching(scene, match[2])) == int(match[1].replace("no", "0"))
    assert seen == {"more", "only", "changed", "count"}


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


def test_character_boxes_hold_the_ink():
    for scene in many_scenes(30):
        boxes = scenes.character_boxes(scene)
        assert len(boxes) == sum(map(len, scene.text.lines)) if scene.text else not boxes
        for _, (x1, y1, x2, y2) in boxes:
            left, top, right, bottom = scene.text.box
            assert left - 0.03 <= x1 < x2 <= right + 0.03
            assert top - 0.03 <= y1 < y2 <= bottom + 0.03


def test_readings_tell_all_that_is_asked_for():
    for number in range(40):
        images, turns = make_sample(sample_random("train", 1, number), WORLD, LESSONS["reading"])
        assert not images
        told = turns[0].question
        for turn in turns[1:]:
            if turn.category == "text":
                (said,) = re.findall(r'"(.*)"', turn.answer)
                assert all(word in told for word in said.split())


def test_every_lesson_can_be_made():
    for name, shares in LESSONS.items():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01), name
        rows = [make_sample(sample_random("train", 2, n), WORLD, shares) for n in range(20)]
        for images, turns in rows:
            names = [f"{i}.png" for i in range(len(images))]
            assert len(conversation(names, turns)["messages"]) == 2 * len(turns) > 0


def test_what_is_to_be_read_or_counted_has_no_other_turns_to_copy_from():
    for kind, category, turns in (("read", "text", {1}), ("count", "count", {1, 2, 3})):
        for number in range(12):
            asked = make_sample(sample_random("train", 4, number), WORLD, {kind: 1.0})[1]
            assert {turn.category for turn in asked} == {category}
            assert len(asked) in turns


def test_pairs_of_which_nothing_can_be_asked_are_drawn_again(monkeypatch):
    answers = iter([None] * 100 + [questions.Question("compare", "Q?", "A.")] * 100)
    monkeypatch.setattr(make_data, "ask_both", lambda *_: next(answers))
    images, turns = make_sample(random.Random(0), WORLD, {"compare": 1.0})
    assert len(images) == 2
    assert [turn.answer for turn in turns] == ["A."]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_world_says_how_many_objects_a_scene_has_at_most(most):
    shown = many_scenes(60, replace(WORLD, most=most))
    assert max(len(scene.objects) for scene in shown) == most


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
        asked = questions.ask_both(generator, *pair)
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
