"""What a model has read of a conversation, in a file, so that it need not be read again.

A cache is used only if this user wrote it, on this machine, with this model, and if no byte of it
has changed. A hash that only this user can make says so; it is in `session.json`. A stranger's
cache could make the model answer anything.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from ..arrays import save_arrays
from ..checkpoint.plain_file import plain_file
from ..device_thread import Steps, in_turn
from ..errors import CheckpointError
from ..model.cache import Cache, ConvCache, Window
from .conversation import Conversation
from .fingerprint import fingerprint
from .prefix import Prefix
from .prefix_store import Branch

CACHE = "cache.safetensors"
FORMAT = 1
MAX_BYTES = 8 * 2**30


def write_cache(conversation: Conversation, path: Path, secret: bytes) -> dict[str, str] | None:
    """Write what the engine's store has read of a conversation.

    Returns:
        The seal that `read_cache` wants; None if there was nothing to write.
    """
    (is_written,) = in_turn(_write(conversation, path))
    if not is_written:
        return None
    mine = _fingerprint(conversation)
    return {"fingerprint": mine, "digest": _digest(path, mine, secret)}


def read_cache(conversation: Conversation, path: Path, seal: object, secret: bytes) -> bool:
    """Put a saved cache into the engine's store, if it is this user's own.

    Args:
        conversation: that was saved with it; gets the keys of its images.
        path: of the file.
        seal: from `write_cache`, or anything that somebody has put into its place.
        secret: that the seal was made with.

    Returns:
        Whether the cache is used.
    """
    if not isinstance(seal, Mapping):
        return False
    said = cast(Mapping[str, Any], seal)
    try:
        real = plain_file(path)
        # The fingerprint is compared first, because hashing a large file takes time.
        mine = _fingerprint(conversation)
        if said.get("fingerprint") != mine or real.stat().st_size > MAX_BYTES:
            return False
        digest = _digest(real, mine, secret)
    except (CheckpointError, OSError):
        return False
    if not hmac.compare_digest(digest.encode(), str(said.get("digest")).encode()):
        return False
    (is_read,) = in_turn(_restore(conversation, real))
    return is_read


def _write(conversation: Conversation, path: Path) -> Steps[bool]:
    """Write what the store has read of the conversation; yield whether there was anything."""
    branch = Branch(Prefix([]), conversation.engine.model.make_cache())
    if conversation.turns and (prefix := conversation.prefix()[0]):
        if len(prefix.keys) < len(prefix.spans):
            prefix = prefix.until(prefix.spans[len(prefix.keys)][0])
        conversation.store.serve(conversation.engine.model)
        # A branch of its own: what was undone is not in it.
        branch = conversation.store.continued(conversation.engine.model, prefix)
    if branch.prefix:
        arrays = {**branch.cache.state, **_snapshot_arrays(branch)}
        mx.eval(arrays)
        shown_as = conversation.options.image_options
        keys = {
            digest: key.hex() for (digest, how), key in conversation.keys.items() if how == shown_as
        }
        said = {
            "ids": list(branch.prefix.ids),
            "spans": list(branch.prefix.spans),
            "keys": [key.hex() for key in branch.prefix.keys],
            "snapshots": sorted(branch.snapshots),
            "images": keys,
        }
        metadata = {**branch.cache.meta_state, "said": json.dumps(said)}
        save_arrays(path, arrays, metadata)
    yield bool(branch.prefix)


def _snapshot_arrays(branch: Branch) -> dict[str, mx.array]:
    return {
        f"snapshot.{position}.{layer}.{number}": row
        for position, windows in branch.snapshots.items()
        for layer, window in enumerate(windows)
        for number, row in enumerate(window)
    }


def _restore(conversation: Conversation, path: Path) -> Steps[bool]:
    arrays, metadata = cast(Any, mx.load(str(path), return_metadata=True))
    said = json.loads(metadata["said"])
    snapshots = {name: arrays.pop(name) for name in list(arrays) if name.startswith("snapshot.")}
    cache = Cache.from_state(arrays, metadata)
    mx.eval(cache.arrays, snapshots)  # the file may be replaced soon
    prefix = Prefix(
        said["ids"],
        [(begin, end) for begin, end in said["spans"]],
        [bytes.fromhex(key) for key in said["keys"]],
    )
    windows = {at: _windows(cache, snapshots, at) for at in said["snapshots"]}
    store = conversation.store
    store.serve(conversation.engine.model)
    store.keep(Branch(prefix, cache, windows))
    shown_as = conversation.options.image_options
    conversation.keys = {(d, shown_as): bytes.fromhex(key) for d, key in said["images"].items()}
    yield store.common(prefix) > 0


def _windows(cache: Cache, arrays: dict[str, mx.array], position: int) -> list[Window]:
    layers = [layer for layer in cache.layers if isinstance(layer, ConvCache)]
    return [
        tuple(arrays[f"snapshot.{position}.{i}.{k}"] for k in range(len(layer.window)))
        for i, layer in enumerate(layers)
    ]


def _digest(path: Path, fingerprint: str, secret: bytes) -> str:
    found = hashlib.blake2b(fingerprint.encode(), key=secret)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


def _fingerprint(conversation: Conversation) -> str:
    """Identify what a cache depends on: the model, how it computes, and the image settings."""
    engine = conversation.engine

    def computed() -> Steps[bytes]:
        yield fingerprint(engine.model)

    (of_model,) = in_turn(computed())
    shown_as = engine.processor.image_config, conversation.options.image_options
    return hashlib.sha256(of_model + repr((FORMAT, shown_as)).encode()).hexdigest()
