"""Answers in the demo model's data are true of the scenes."""

import json
import random
import re

import comparisons
import places
import pytest
import questions
import scenes
import wordings
from drawn_scenes import WORLD, many_scenes


def matching(scene, phrase):
    """Objects of a scene that are everything a noun phrase says."""
    words = re.sub(r"\bshapes?\b", "", phrase).split()
    words = [re.sub(r"(?<=cross)es$|(?<!s)s$", "", word) for word in words]
    return [
        item
        for item in scene.objects
        if all(word in (item.size, item.color, item.shape) for word in words)
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
            assert value == scene.text.color
        else:
            item = only(scene, name)
            assert value in (item.size, item.color, item.shape)
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
            assert names == [f"{item.size} {item.color} {item.shape}" for item in downward]
        elif answer.endswith(("higher.", "lower.")):
            forms.add("higher")
            name, word = re.fullmatch(r"The (.+) is (higher|lower)\.", answer).groups()
            both = re.search(
                r"the (.+) or the (.+)\?", question.question.replace("object", "shape")
            )
            (other,) = set(both.groups()) - {name}
            step = only(scene, other).centre[1] - only(scene, name).centre[1]
            assert step * (1 if word == "higher" else -1) >= places.CLEAR
        elif " or " in question.question:
            forms.add("either")
            name, relation, other = re.fullmatch(
                r"The (.+) is (left of|right of|above|below) the (.+)\.", answer
            ).groups()
            axis, sign = places.RELATIONS[relation]
            step = only(scene, name).centre[axis] - only(scene, other).centre[axis]
            assert step * sign >= places.CLEAR
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
            expected = scene.text.lines[wordings.LINES.index(line[0])]
        assert re.search('"(.*)"', question.answer)[1] == expected


def test_box_answers_are_json_with_the_boxes_of_the_scene():
    for scene, question in asked("box"):
        known = [(f"{item.color} {item.shape}", item.box) for item in scene.objects]
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
            assert f"{item.size} {item.color} {item.shape}" in question.answer.lower()


def test_comparisons_are_true():
    generator = random.Random(5)
    seen = set()
    for _ in range(200):
        first, second = scenes.make_pair(generator, WORLD)
        question = comparisons.ask_both(generator, first, second)
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
