"""What a model has read of a conversation, in a file, so that it need not be read again.

A cache is used only if this user wrote it, on this machine, with this model, and if no byte of it
has changed. A hash of its checksum that only this user can make says so; it is in `session.json`. A
stranger's cache could make the model answer anything.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from ..checkpoint.plain_file import read_bytes
from ..device_thread import Steps, in_turn
from ..errors import CheckpointError
from ..model.cache import Cache
from .cache_file import checksum_of, decode, encode, write_new
from .conversation import Conversation
from .fingerprint import fingerprint
from .prefix import Prefix
from .prefix_store import Branch

CACHE = "cache.safetensors"
FORMAT = 2
MAX_BYTES = 8 * 2**30
PAST = "past."  # in names of windows at earlier positions


def write_cache(conversation: Conversation, path: Path, secret: bytes) -> dict[str, str] | None:
    """Write what the engine's store has read of a conversation.

    Returns:
        The seal that `read_cache` wants; None if there was nothing to write.
    """
    (checksum,) = in_turn(_write(conversation, path))
    if not checksum:
        return None
    mine = _fingerprint(conversation)
    return {"fingerprint": mine, "digest": _digest(checksum, mine, secret)}


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
        # The fingerprint is compared first, because reading a large file takes time.
        mine = _fingerprint(conversation)
        if said.get("fingerprint") != mine:
            return False
        data = read_bytes(path, MAX_BYTES)
        digest = _digest(checksum_of(data), mine, secret)
        if not hmac.compare_digest(digest.encode(), str(said.get("digest")).encode()):
            return False
        (is_read,) = in_turn(_restore(conversation, data))
    except (CheckpointError, OSError, ValueError):
        return False
    return is_read


def _write(conversation: Conversation, path: Path) -> Steps[bytes]:
    """Write what the store has read of the conversation; yield the checksum, empty if nothing."""
    kv_bits = conversation.options.kv_bits
    branch = Branch(Prefix([]), conversation.engine.model.make_cache(kv_bits))
    checksum = b""
    if conversation.turns and (prefix := conversation.prefix()[0]):
        if len(prefix.keys) < len(prefix.spans):
            prefix = prefix.until(prefix.spans[len(prefix.keys)][0])
        conversation.store.serve(conversation.engine.model)
        # A branch of its own: what was undone is not in it.
        branch = conversation.store.continued(conversation.engine.model, prefix, kv_bits)
    if branch.prefix:
        ids = mx.array(list(branch.prefix.ids), mx.uint32)
        arrays = {**branch.cache.state, **_snapshot_arrays(branch), "ids": ids}
        shown_as = conversation.options.image_options
        keys = {
            digest: key.hex() for (digest, how), key in conversation.keys.items() if how == shown_as
        }
        said = {
            "spans": list(branch.prefix.spans),
            "keys": [key.hex() for key in branch.prefix.keys],
            "snapshots": sorted(branch.snapshots),
            "images": keys,
        }
        parts = encode(arrays, {**branch.cache.meta_state, "said": json.dumps(said)})
        write_new(path, parts)
        checksum = checksum_of(parts[0])
    yield checksum


def _snapshot_arrays(branch: Branch) -> dict[str, mx.array]:
    """Return the windows of all snapshots, in the order of positions: one array for each name."""
    snapshots = [windows for _, windows in sorted(branch.snapshots.items())]
    return {
        PAST + name: mx.stack([windows[layer][number] for windows in snapshots])
        for layer, names in enumerate(branch.cache.window_names)
        for number, name in enumerate(names)
        if snapshots
    }


def _restore(conversation: Conversation, data: bytes) -> Steps[bool]:
    arrays, metadata = decode(data)
    said = json.loads(metadata["said"])
    past = {name: arrays.pop(name) for name in list(arrays) if name.startswith(PAST)}
    ids = cast(list[int], arrays.pop("ids").tolist())
    cache = Cache.from_state(arrays, metadata)
    prefix = Prefix(
        ids,
        [(begin, end) for begin, end in said["spans"]],
        [bytes.fromhex(key) for key in said["keys"]],
    )
    snapshots = {
        at: [tuple(past[PAST + name][number] for name in names) for names in cache.window_names]
        for number, at in enumerate(said["snapshots"])
    }
    mx.eval(cache.arrays, snapshots)
    store = conversation.store
    store.serve(conversation.engine.model)
    store.keep(Branch(prefix, cache, snapshots))
    shown_as = conversation.options.image_options
    conversation.keys = {(d, shown_as): bytes.fromhex(key) for d, key in said["images"].items()}
    yield store.common(prefix, conversation.options.kv_bits) > 0


def _digest(checksum: bytes, fingerprint: str, secret: bytes) -> str:
    return hashlib.blake2b(fingerprint.encode() + checksum, key=secret).hexdigest()


def _fingerprint(conversation: Conversation) -> str:
    """Identify what a cache depends on: the model, how it computes, and the image settings."""
    engine = conversation.engine

    def computed() -> Steps[bytes]:
        yield fingerprint(engine.model)

    (of_model,) = in_turn(computed())
    shown_as = engine.processor.image_config, conversation.options.image_options
    return hashlib.sha256(of_model + repr((FORMAT, shown_as)).encode()).hexdigest()
