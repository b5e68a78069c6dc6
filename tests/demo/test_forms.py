"""The card of the demo model lists the questions that its lessons ask: all of them, no others."""

import random
import re
from dataclasses import replace

import pytest
import questions
import scenes
from comparisons import ABOUT_ONE, ask_both, ask_difference
from forms import TEMPLATES, forms, listed

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER

WORLD = replace(scenes.TRAIN_WORLD, fonts=("Aileron",))  # comes with Pillow
HOMES = {"relation": "position", "above": "position"}  # what the harder lessons belong to
WHICH = r" in the (?:first|second) image(?=[.?]$)"


def asked(category, count):
    """Questions of a category about many scenes, as they are spelled."""
    generator = random.Random(category)
    found = set()
    for number in range(count):
        scene = scenes.make_scene(generator, scenes.KINDS[number % len(scenes.KINDS)], WORLD)
        if (scene.objects or category == "describe") or (category == "text" and scene.text):
            found.add(questions.ask(generator, scene, category))
    return {each.question for each in found if each}


def asked_of_pairs(count):
    generator = random.Random("pairs")
    found = set()
    for _ in range(count):
        pair = scenes.make_pair(generator, WORLD)
        found.add(ask_both(generator, *pair))
        found.add(ask_difference(generator, *pair))
    return {each.question for each in found if each}


def form_of(question, category):
    """The form that a question has, whatever its spelling; None if it has none of the category."""
    american = question.replace("colour", "color")
    spellings = {american, american.replace("shape", "object")}
    found = [form for form in forms(category) if any(fits(form, text) for text in spellings)]
    return max(found, key=len, default=None)  # the most specific one


def fits(form, question):
    pattern = re.sub(r"\\\[.*?\\\]", ".+", re.escape(form))
    return re.fullmatch(re.sub(r"\ba\\ (?=\.\+)", r"an?\\ ", pattern), question)


@pytest.mark.parametrize("category", questions.QUESTIONS)
def test_every_form_is_asked_and_every_question_has_one(category):
    kinds = [category, *(kind for kind, home in HOMES.items() if home == category)]
    found = {form_of(question, category) for kind in kinds for question in asked(kind, 800)}
    assert found == set(forms(category))


def test_every_form_about_two_images_is_asked_and_every_question_has_one():
    found = set()
    for question in asked_of_pairs(400):
        form = form_of(question, "compare")
        if form:
            found.add(form)
        else:
            both = [re.sub(WHICH, place, question) for place in ("", " in the image")]
            assert question not in both
            assert any(form_of(text, category) for text in both for category in ABOUT_ONE)
    assert found == set(forms("compare"))


def test_all_categories_have_forms():
    assert tuple(TEMPLATES) == questions.CATEGORIES
    assert set(HOMES) == set(questions.TRAINED_ONLY)


def test_the_card_lists_the_forms():
    assert listed() in (DEMO_FOLDER / "README.md").read_text()
