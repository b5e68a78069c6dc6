"""Scenes of the demo model's worlds, printed in a font that comes with Pillow."""

import random
from dataclasses import replace

import scenes

FONTS = ("Aileron",)  # the others need matplotlib
WORLD = replace(scenes.TRAIN_WORLD, fonts=FONTS)
EVAL_WORLDS = (
    replace(scenes.TEST_WORLD, fonts=FONTS),
    replace(scenes.SHIFT_WORLD, fonts=FONTS),
)


def many_scenes(count, world=WORLD, seed=0):
    generator = random.Random(seed)
    return [
        scenes.make_scene(generator, scenes.KINDS[number % 3], world) for number in range(count)
    ]
