"""Lessons without pictures: scenes described in words with questions, and pairs to look up.

They train only the decoder. It learns to find the thing in question among the words of a scene and
to say what is known about it, which it later does with image tokens. From pictures alone it did not
learn that in many times as many updates.
"""

import random as stdlib_random
from collections.abc import Sequence
from dataclasses import replace

from questions import Question, ask
from scenes import COLORS, SHAPES, SIZES, Scene, World, make_scene
from words import CHARACTERS

PAIRS = 0.1  # share of lessons that are pairs
TURNS = (6, 10)  # fewest and most questions about one scene
KINDS = {"shapes": 5, "mixed": 3, "text": 2}  # of scenes, and their shares
WORDS = [*COLORS, *SHAPES, *SIZES, *CHARACTERS, *CHARACTERS]


def make_reading(
    random: stdlib_random.Random,
    world: World,
    weights: dict[str, tuple[Sequence[str], Sequence[int]]],
) -> list[Question]:
    """Make the turns of one conversation; the first question begins with what the scene holds.

    Args:
        random: the source of randomness.
        world: what scenes may hold.
        weights: kind of scene -> categories of questions and their weights.
    """
    if random.random() < PAIRS:
        return [_pairs(random)]
    (kind,) = random.choices(list(KINDS), list(KINDS.values()))
    scene = make_scene(random, kind, replace(world, large=0.0))
    wanted, turns = random.randint(*TURNS), {}
    for _ in range(60):
        turn = ask(random, scene, random.choices(*weights[kind])[0])
        if turn:
            turns.setdefault(turn.answer, turn)
        if len(turns) == wanted:
            break
    first, *others = turns.values()
    return [replace(first, question=f"{_told(random, scene)} {first.question}"), *others]


def _told(random: stdlib_random.Random, scene: Scene) -> str:
    """Everything a scene holds, in random order, with centers and boxes."""
    facts = [f"{scene.background} background"]
    for item in scene.objects:
        facts.append(f"{item.size} {item.color} {item.shape} {_place(item.box)}")
    if scene.text:
        lines = " / ".join(scene.text.lines)
        facts.append(f"{scene.text.color} text {lines} {_place(scene.text.box)}")
    random.shuffle(facts)
    return f"Seen: {'; '.join(facts)}."


def _place(box: Sequence[float]) -> str:
    x1, y1, x2, y2 = box
    numbers = " ".join(f"{value:.2f}" for value in box)
    return f"at {(x1 + x2) / 2:.2f} {(y1 + y2) / 2:.2f}, {numbers}"


def _pairs(random: stdlib_random.Random) -> Question:
    """Pairs of words, to be repeated in another order."""
    keys = list(dict.fromkeys(random.choices(WORDS, k=random.randint(3, 14))))
    pairs = [(key, random.choice(WORDS)) for key in keys]
    told = [f"{key} {value}" for key, value in pairs]
    if random.random() < 0.5:
        question = f"Pairs: {', '.join(told)}."
    else:
        question = f"Things: {', '.join(f'{value} {key}' for key, value in pairs)}."
    asked = random.sample(told, random.randint(1, len(told)))
    return Question("text", question, f"{', '.join(asked)}.")
