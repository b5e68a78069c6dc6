"""What a client may have meant by a path that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

MAX_LISTED = 12  # paths in a message
ALIKE = 0.8  # likeness of whole paths, such as /chat/completions and /v1/chat/completions


def meant(path: str, paths: Sequence[str]) -> str:
    """Return a hint: the nearest path, or those of the same folder, or where the list is.

    Args:
        path: that is not there.
        paths: that are, some with a parameter in braces.
    """
    folder, _, name = path.rstrip("/").rpartition("/")
    whole = [each for each in paths if "{" not in each]
    prefix = f"{folder}/"
    beside = {each.removeprefix(prefix): each for each in whole if each.startswith(prefix)}
    if beside:
        nearest = [beside[each] for each in difflib.get_close_matches(name, beside, 1)]
    else:
        nearest = difflib.get_close_matches(path, whole, 1, ALIKE)
    if nearest:
        return f"did you mean {nearest[0]}?"
    if folder and beside and len(beside) <= MAX_LISTED:
        return f"expected {', '.join(beside)}"
    return "GET /openapi.json lists the paths"
