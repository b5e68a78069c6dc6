"""The model of a resident process: loaded once, as long as its files stay what they were."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...adapters.choice import split_weight
from ...checkpoint.aliases import DEMO, full_name
from ...checkpoint.cached_copy import cached_copy
from ...checkpoint.find import DEMO_FOLDER, find_checkpoint
from ...options import DType
from ...skills.kinds import checkpoint_kind
from ..served import ModelInfo, served_model
from .notes import Notes
from .place import Wanted
from .wire import Note, Opened

if TYPE_CHECKING:
    from ...generation.engine import Engine

Stamp = list[tuple[str, int, int, int]]  # of each file: its path, inode, size and time of change


class ResidentModel:
    """A model that is loaded when it is first wanted.

    Attributes:
        wanted: what is loaded.
        loading_notes: what loading has told. Every command repeats it, as if it had loaded itself.
    """

    def __init__(self, wanted: Wanted, notes: Notes) -> None:
        self.wanted = wanted
        self.loading_notes: list[Note] = []
        self._notes = notes
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._stamp: Stamp = []

    @property
    def engine(self) -> Engine:
        """The engine; load it if it is not there.

        Raises:
            Lfm2VLError: see `load` and `load_drafter`.
        """
        with self._lock:
            if self._engine is None:
                wanted, self._stamp = self.wanted, stamp(self.wanted)
                model = served_model(
                    wanted.model,
                    revision=wanted.revision,
                    dtype=cast("DType | None", wanted.dtype),
                    adapter=wanted.adapters or None,
                    draft_model=wanted.draft_model,
                )
                with self._notes.to(self.loading_notes.append):
                    self._engine = model.open()
                if self.wanted.model == DEMO:
                    from ...images.photo import note_photo

                    self._engine.processor.look = note_photo
            return self._engine

    def opened(self) -> Opened:
        """Return what a client must know of the model."""
        engine = self.engine
        config = engine.model.config
        return Opened(engine.model.name, config.sampling, engine.processor.image_config)

    def info(self) -> ModelInfo:
        """Return what the server's protocols must know of the model."""
        engine = self.engine
        config = engine.model.config
        return ModelInfo(
            checkpoint_kind(config),
            config.sampling,
            engine.processor.image_config,
            config.text.max_position_embeddings,
            find_checkpoint(self.wanted.model, self.wanted.revision, with_weights=False),
        )

    def is_current(self) -> bool:
        """Whether the files are those that were loaded, or nothing is loaded yet."""
        return self._engine is None or stamp(self.wanted) == self._stamp

    @property
    def memory_bytes(self) -> int:
        """What MLX holds for the model; 0 before it is loaded."""
        if self._engine is None:
            return 0
        import mlx.core as mx

        return mx.get_active_memory() + mx.get_cache_memory()


def stamp(wanted: Wanted) -> Stamp:
    """Return what changes when a file of the model, its adapters or its drafter does."""
    names = [split_weight(text)[0] for text in wanted.adapters]
    folders = [_folder(wanted.model, wanted.revision)]
    folders += [_folder(name, None) for name in (*names, wanted.draft_model) if name]
    found: Stamp = []
    for folder in folders:
        if folder is None or not folder.is_dir():
            found.append(("", 0, 0, 0))
            continue
        for path in sorted(folder.iterdir()):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder of a model, without a request to the Hub; None if there is none."""
    if name == DEMO:
        return DEMO_FOLDER
    return Path(name) if os.path.isdir(name) else cached_copy(full_name(name), revision)
