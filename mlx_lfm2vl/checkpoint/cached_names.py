"""The checkpoints in the Hub library's cache by the names of its folders, without that library.

Programs that only list models do without the time that importing it takes.
"""

import os
import re
from pathlib import Path

FAMILY = ("lfm2", "-vl")  # in the names of its checkpoints, in any case
# What this package does not run by itself: packings of other programs, and drafters.
OTHERS = ("gguf", "onnx", "dspark")
PREFIX, SEPARATOR = "models--", "--"


def hub_cache() -> Path:
    """Return the folder of the cache, as huggingface_hub 1.0 finds it; it may not exist."""
    get = os.environ.get
    home = get("XDG_CACHE_HOME", os.path.join("~", ".cache"))
    hub = _expanded(get("HF_HOME", os.path.join(home, "huggingface")))
    older = get("HUGGINGFACE_HUB_CACHE", os.path.join(hub, "hub"))
    return Path(_expanded(get("HF_HUB_CACHE", older)))


def cached_names() -> list[str]:
    """Return the repo ids in the cache whose names are those of LFM2-VL checkpoints, sorted.

    A checkpoint of another name is not found, nor is it known whether all files are there.
    """
    try:
        folders = os.listdir(hub_cache())
    except OSError:
        return []
    names = [
        folder.removeprefix(PREFIX).replace(SEPARATOR, "/")
        for folder in folders
        if folder.startswith(PREFIX)
    ]
    return sorted(filter(_is_ours, names))


def cached_folder(repo: str) -> Path | None:
    """Return the files of a repository's main branch, as far as they are there; None if not."""
    folder = hub_cache() / f"{PREFIX}{repo.replace('/', SEPARATOR)}"
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    copy = folder / "snapshots" / commit
    return copy if re.fullmatch(r"\w[\w.-]*", commit) and copy.is_dir() else None


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def _is_ours(name: str) -> bool:
    lower = name.lower()
    return all(word in lower for word in FAMILY) and not any(word in lower for word in OTHERS)
