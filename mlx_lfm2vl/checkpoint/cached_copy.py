"""The copy of a Hub repository in the local cache: where it lies and what it lacks."""

import contextlib
import json
import re
from pathlib import Path

from ..errors import CheckpointError
from .drafter_config import is_drafter
from .json_file import read_optional_json
from .tensors import INDEX, SINGLE, expected_weights

# What this package reads. Repositories have one or both of the processor's files.
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
TEMPLATE = ("chat_template.jinja", "chat_template.json")
SETTINGS = "tokenizer_config.json"
READ = ("config.json", "generation_config.json", "tokenizer.json", SETTINGS, INDEX)
READ += PROCESSOR + TEMPLATE
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapters.safetensors", "adapter_model.safetensors")


def repo_folder(repo: str) -> Path:
    """Return the folder of a repository in the cache, whether it exists or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def cached_copy(repo: str, revision: str | None) -> Path | None:
    """Return the cached files of a revision, as far as they are there; None if there are none."""
    folder = repo_folder(repo)
    try:
        commit = (folder / "refs" / (revision or "main")).read_text().strip()
    except (OSError, ValueError):
        commit = revision or ""
    copy = folder / "snapshots" / commit
    return copy if re.fullmatch(r"\w[\w.-]*", commit) and copy.is_dir() else None


def lacking(copy: Path, *, with_weights: bool) -> list[str]:
    """Return the names of the files that a cached copy should hold and does not.

    Another program may have downloaded only some files, and a download may have been cut off.

    Args:
        copy: the files of one commit.
        with_weights: whether the weights count.
    """
    here = {path.name for path in copy.iterdir() if path.exists()}
    listed = _listed(copy)
    names = {"config.json"} - here
    names |= {name for name in READ if name in listed} - here
    if not _holds_drafter(copy):
        names |= {"tokenizer.json"} - here
        if not here & set(PROCESSOR):
            names.add(PROCESSOR[0])
        if not here & set(TEMPLATE) and not _holds_template(copy):
            names.add(TEMPLATE[0])
        if SETTINGS not in here and not listed and not (marked_absent(copy) / SETTINGS).exists():
            names.add(SETTINGS)
    if with_weights:
        with contextlib.suppress(CheckpointError):  # a broken index, which its reader says
            names |= set(expected_weights(copy, here | listed) or [SINGLE]) - here
    return sorted(names)


def holds_adapter(copy: Path) -> bool:
    """Whether a cached copy has the files of an adapter."""
    weights = [name for name in ADAPTER_FILES if name != ADAPTER_CONFIG]
    return (copy / ADAPTER_CONFIG).exists() and any((copy / name).exists() for name in weights)


def marked_absent(copy: Path) -> Path:
    """Return the folder in which the cache marks files that the repository does not have."""
    return copy.parents[1] / ".no_exist" / copy.name


def _listed(copy: Path) -> set[str]:
    """Return the names of all files of the commit, if the Hub library has kept their list."""
    path = copy.parents[1] / "trees" / f"{copy.name}.json"
    try:
        files = json.loads(path.read_text())["files"]
        return {name for name in files if "/" not in name}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _holds_drafter(copy: Path) -> bool:
    """Whether a cached copy is a drafter, which has no tokenizer and no processor."""
    try:
        return is_drafter(read_optional_json(copy / "config.json"))
    except CheckpointError:
        return False  # the file is broken, which whoever reads it says


def _holds_template(copy: Path) -> bool:
    """Whether a file of settings holds the chat template, as in older checkpoints."""
    try:
        return any("chat_template" in read_optional_json(copy / n) for n in (SETTINGS, *PROCESSOR))
    except CheckpointError:
        return True  # the file is broken, which whoever reads it says
