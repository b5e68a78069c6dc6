"""The names of modules in PEFT's configs: ends of paths, and regular expressions.

A config may come from a stranger, and matching an expression can take for ever. Those that are used
here have few repetitions and none within another.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..checkpoint.json_file import shown
from ..errors import CheckpointError

MAX_LENGTH = 1000
MAX_REPEATS = 3  # in one expression: the time grows with the path's length to this power
REPEAT = re.compile(r"[*+?{]")
RISKY = re.compile(r"\)[*+{]|\\[1-9]|\(\?P|\(\?\(")  # repeated groups, references
ALL_LINEAR = "all-linear"
BLOCK = re.compile(r".*?\.[^.]*\.(\d+)\.")  # the first number in a path


def compiled(pattern: str, most_repeats: int = MAX_REPEATS) -> re.Pattern[str] | None:
    """Compile an expression, or return None if it is broken or might take long to match."""
    plain = pattern.replace("(?:", "(").replace("(?=", "(").replace("(?!", "(")
    if len(pattern) > MAX_LENGTH or RISKY.search(plain):
        return None
    if len(REPEAT.findall(plain)) > most_repeats:
        return None
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


def pattern_for(patterns: Iterable[str], module: str, folder: Path) -> str:
    """Return the first of some expressions that fits the end of a module's path, or the path.

    Raises:
        CheckpointError: an expression is broken or might take long to match.
    """
    for pattern in patterns:
        if compiled(pattern, MAX_REPEATS - 1) is None:
            raise CheckpointError(f"{folder}: the pattern {shown(pattern)} cannot be used")
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return pattern
    return module


def target_matcher(
    targets: Sequence[str] | str,
    excluded: Sequence[str] | str,
    saved: Sequence[str],
    blocks: Sequence[int],
    block_names: Sequence[str],
) -> Callable[[str], bool] | None:
    """Make a function that tells whether PEFT adapts a module.

    Args:
        targets: ends of paths, an expression for whole paths, or "all-linear".
        excluded: the same for modules that are not adapted.
        saved: modules that are trained as a whole.
        blocks: numbers of the layers to adapt; empty for all.
        block_names: expressions for the names before these numbers; empty for any.

    Returns:
        A function of a module's path, or None if that cannot be told.
    """
    is_target, is_excluded = _matcher(targets), _matcher(excluded)
    names = [compiled(rf"(?:^|.*?\.){name}\.(\d+)\.") for name in block_names]
    if not targets or is_target is None or is_excluded is None or None in names:
        return None
    numbers = [name for name in names if name is not None] or [BLOCK]

    def matches(module: str) -> bool:
        if is_excluded(module) or any(f".{name}." in f".{module}." for name in saved):
            return False
        if not is_target(module):
            return False
        if not blocks or isinstance(targets, str):
            return True
        found = next(filter(None, (number.match(module) for number in numbers)), None)
        return found is not None and int(found[1]) in blocks

    return matches


def _matcher(names: Sequence[str] | str) -> Callable[[str], bool] | None:
    if not isinstance(names, str):
        ends = tuple(f".{name}" for name in names)
        return lambda module: f".{module}".endswith(ends)
    if names.lower() == ALL_LINEAR:
        return lambda module: not f".{module}".endswith(".lm_head")
    expression = compiled(names)
    return expression and (lambda module: expression.fullmatch(module) is not None)
