"""The demo model's pictures show what the scenes hold, and all of it can be seen."""

import random
from dataclasses import replace

import numpy as np
import pytest
import scenes
import score
from draw_scene import Style, draw
from drawn_scenes import EVAL_WORLDS, WORLD, many_scenes
from words import make_text

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.images.geometry import plan_image

DEMO = read_image_config(DEMO_FOLDER)


@pytest.mark.parametrize("style", [Style(), Style(outline=0.1)])
def test_boxes_hold_the_drawn_pixels_and_little_more(style):
    for scene in many_scenes(24, replace(WORLD, tilt=5.0, fade=0.0)):
        width, height = scene.size
        empty = np.asarray(draw(replace(scene, objects=(), text=None), style)).astype(int)
        for item in (*scene.objects, scene.text):
            if item is None:
                continue
            if item is scene.text:
                alone = replace(scene, objects=())
            else:
                alone = replace(scene, objects=(item,), text=None)
            ink = abs(np.asarray(draw(alone, style)) - empty).max(axis=-1) > 12
            rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
            drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            box = [side * share for side, share in zip((width, height) * 2, item.box, strict=True)]
            slack = 4 if item is scene.text else 2  # pixels; a tilted text's box is not tight
            assert drawn[0] > box[0] - 1.5
            assert drawn[1] > box[1] - 1.5
            assert drawn[2] < box[2] + 1.5
            assert drawn[3] < box[3] + 1.5
            assert np.abs(np.subtract(drawn, box)).max() < slack


def test_character_boxes_hold_the_ink():
    for scene in many_scenes(30):
        boxes = scenes.character_boxes(scene)
        assert len(boxes) == sum(map(len, scene.text.lines)) if scene.text else not boxes
        for _, (x1, y1, x2, y2) in boxes:
            left, top, right, bottom = scene.text.box
            assert left - 0.03 <= x1 < x2 <= right + 0.03
            assert top - 0.03 <= y1 < y2 <= bottom + 0.03


def test_faint_print_is_nearer_to_its_background():
    scene = next(scene for scene in many_scenes(9) if scene.text and not scene.objects)
    pictures = {
        ink: np.asarray(draw(replace(scene, text=replace(scene.text, ink=ink)), Style())).astype(
            int
        )
        for ink in (0.0, 0.5, 1.0)
    }
    contrast = {ink: abs(picture - pictures[0.0]).max() for ink, picture in pictures.items()}
    assert contrast[0.5] == pytest.approx(contrast[1.0] / 2, abs=2)


def test_half_of_the_print_in_lessons_is_faint_and_none_in_the_test_set():
    inks = [scene.text.ink for scene in many_scenes(90) if scene.text]
    assert 0.3 < sum(ink < 1 for ink in inks) / len(inks) < 0.7
    assert min(inks) >= 0.6
    for world in EVAL_WORLDS:
        shown = many_scenes(30, world)
        assert {scene.text.ink for scene in shown if scene.text} == {1.0}


def test_lessons_print_characters_that_come_again():
    def share(repeats):
        generator = random.Random(0)
        texts = [make_text(generator, repeats=repeats) for _ in range(600)]
        return sum(len(set(text)) < len(text) for text in texts) / len(texts)

    assert share(False) < 0.3 < 0.35 < share(True)


def test_objects_and_text_keep_apart_and_inside():
    for scene in many_scenes(90):
        boxes = [item.box for item in scene.objects] + ([scene.text.box] if scene.text else [])
        assert all(0 <= edge <= 1 for box in boxes for edge in box)
        for index, box in enumerate(boxes):
            assert not any(score.intersection_over_union(box, other) for other in boxes[:index])


def test_colors_stand_out_from_every_background():
    for background in scenes.BACKGROUNDS:
        objects = [color for color in scenes.COLORS if scenes.is_distinct(color, background)]
        assert len(objects) >= 5
        assert any(scenes.is_legible(color, background) for color in scenes.COLORS)
    assert not scenes.is_distinct("black", "black")
    assert not scenes.is_legible("yellow", "white")


def test_canvases_are_cut_into_the_tiles_they_were_made_for():
    for scene in many_scenes(400, replace(WORLD, large=0.5)):
        plan = plan_image(scene.size[1], scene.size[0], DEMO)
        assert plan.grid == scene.grid[::-1]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_world_says_how_many_objects_a_scene_has_at_most(most):
    shown = many_scenes(60, replace(WORLD, most=most))
    assert max(len(scene.objects) for scene in shown) == most
