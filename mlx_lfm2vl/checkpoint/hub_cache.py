"""The cache of the Hub library: what it holds, removing from it, and whether the Hub answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .aliases import PUBLISHED
from .cached_copy import lacking
from .hub_errors import explain, failures

KINDS = ("lfm2_vl", "lfm2-vl")  # model types that this package runs
HUB_SECONDS = 5.0  # that the Hub has to answer


@dataclass(frozen=True)
class Cached:
    """A repository in the cache.

    Attributes:
        repo: its id.
        folder: all of its revisions.
        nbytes: its size on disk.
        commits: its revisions.
        is_whole: whether one revision has all files that this package needs.
    """

    repo: str
    folder: Path
    nbytes: int
    commits: tuple[str, ...]
    is_whole: bool = True


def cached_checkpoints() -> list[Cached]:
    """Return the checkpoints of this package's architecture, by name; others are not looked at."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    try:
        repos = hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    except hub.CacheNotFound:
        return []
    found = [
        Cached(
            repo.repo_id,
            repo.repo_path,
            repo.size_on_disk,
            tuple(revision.commit_hash for revision in repo.revisions),
            any(_is_whole(revision.snapshot_path) for revision in repo.revisions),
        )
        for repo in repos
        if repo.repo_type == "model"
        and any(_runs(revision.snapshot_path / "config.json") for revision in repo.revisions)
    ]
    return sorted(found, key=lambda cached: cached.repo)


def _runs(config: Path) -> bool:
    try:
        return json.loads(config.read_text())["model_type"] in KINDS
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _is_whole(copy: Path) -> bool:
    try:
        return not lacking(copy, with_weights=True)
    except OSError:
        return False


def remove_cached(chosen: Sequence[Cached]) -> None:
    """Delete repositories with all their revisions from the cache."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    commits = [commit for cached in chosen for commit in cached.commits]
    hub.scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*commits).execute()


def describe_hub() -> str:
    """Say whether the Hub can be reached."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked: HF_HUB_OFFLINE is set"
    try:
        hub.HfApi().model_info(PUBLISHED[0].repo, timeout=HUB_SECONDS)
    except failures() as error:
        return f"not reached: {explain(error, PUBLISHED[0].repo, None)}"
    return "reached"
