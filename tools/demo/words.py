"""The words and numbers printed in scenes, and which of them training never prints.

Printed text is UPPERCASE or digits. At a letter height of 11 pixels, C and c, O and o, S and s
differ only in size. A tokenizer trained on lowercase sentences spells capitals with one token per
letter, so that reading is a single rule instead of a vocabulary.
"""

import random as stdlib_random
import string
import zlib
from pathlib import Path

HELD_OUT_SHARE = 8  # one text in this many is kept for the test split
SHORTEST_HELD_OUT = 3  # there are too few shorter texts to keep any from training

CHARACTERS = string.ascii_uppercase + string.digits  # all that are printed
COMMON = (Path(__file__).parent / "common_words.txt").read_text().split()


def is_held_out(text: str) -> bool:
    """Whether a printed text is kept for the test split."""
    return len(text) >= SHORTEST_HELD_OUT and zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def make_text(
    random: stdlib_random.Random,
    longest: int = 6,
    shortest: int = 1,
    held_out: bool = False,
    repeats: bool = False,
) -> str:
    """Make one printed text: a common word, random letters, or a number.

    Args:
        random: the source of randomness.
        longest: most characters; numbers never have more than 4.
        shortest: fewest characters; random letters are at least 2 unless `longest` is below 4.
        held_out: whether the text belongs to the test split, whose texts have at least
            `SHORTEST_HELD_OUT` characters, or to the training split.
        repeats: whether half of the random letters and numbers use only 2 or 3 characters.
    """
    if held_out:
        shortest = max(shortest, SHORTEST_HELD_OUT)
    while True:
        text = _any_text(random, longest, shortest, repeats)
        # Without other letters, O and I cannot be distinguished from 0 and 1.
        is_clear = text.isdigit() or bool(set(text) - set("OI"))
        if is_clear and shortest <= len(text) <= longest and is_held_out(text) == held_out:
            return text


def _any_text(random: stdlib_random.Random, longest: int, shortest: int, repeats: bool) -> str:
    choice = random.random()
    if choice < 0.3:
        return random.choice(COMMON)
    if choice < 0.7:
        fewest = max(shortest, 2) if longest >= 4 else shortest
        letters = random.randint(fewest, longest)
        return _draw(random, string.ascii_uppercase, letters, repeats)
    return _draw(random, string.digits, random.randint(shortest, min(4, longest)), repeats)


def _draw(random: stdlib_random.Random, characters: str, count: int, repeats: bool) -> str:
    if repeats and random.random() < 0.5:
        characters = "".join(random.sample(characters, random.randint(2, 3)))
    return "".join(random.choices(characters, k=count))
