"""Caches of the Hub library, and a terminal that answers, for tests."""

import hashlib
import io
import json
from pathlib import Path

PLACE = "huggingface_hub.constants.HF_HUB_CACHE"


class Terminal(io.StringIO):
    """A stdin at which somebody types."""

    def isatty(self) -> bool:
        return True


def put(cache: Path, repo: str, model_type: str, size: int) -> Path:
    """Put a repository into a cache as a download does."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    commit = hashlib.sha1(repo.encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs" / "1").write_text(json.dumps({"model_type": model_type}))
    (folder / "blobs" / "2").write_bytes(b"\0" * size)
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    return folder
