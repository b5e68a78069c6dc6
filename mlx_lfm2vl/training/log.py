"""The log of a training run: JSONL, one entry per update."""

import json
from pathlib import Path
from typing import Any

from ..whole_folder import new_file, writing


def read_log(path: Path) -> list[dict[str, Any]]:
    """All complete entries; a power failure can leave half of one."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def start_log(path: Path, done: int) -> list[dict[str, Any]]:
    """Drop the entries after update `done`, which a killed run may have written.

    Returns:
        The entries that remain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [entry for entry in read_log(path) if entry["step"] <= done]
    with new_file(path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    return kept


def add_to_log(path: Path, entry: dict[str, Any]) -> None:
    """Append one entry."""
    with writing(path), path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
