"""A model that can be asked for: its name, what its files say, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.config import read_model_config
from ..checkpoint.find import find_checkpoint
from ..checkpoint.image_config import ImageConfig, load_image_config
from ..options import DType, Sampling
from ..skills.kinds import Kind, checkpoint_kind

if TYPE_CHECKING:  # heavy imports wait until the model is loaded
    from collections.abc import Sequence

    from ..adapters.choice import AdapterSource
    from ..generation.engine import Engine
    from ..images.source import ImageLimits
    from ..prompt.template import ChatTemplate


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint's files say of a model, without its weights.

    Attributes:
        kind: which prompts its skills use.
        sampling: that the checkpoint recommends.
        images: how images are cut.
        context: tokens of the longest prompt and answer together.
        folder: where the files are.
    """

    kind: Kind
    sampling: Sampling
    images: ImageConfig
    context: int
    folder: Path

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every token by its id, read once; see `Tokenizer.token_bytes`."""
        from ..prompt.tokenizer import Tokenizer

        tokenizer = Tokenizer(self.folder)
        return tokenizer.token_bytes(tokenizer.largest_id + 1)

    @cached_property
    def _template(self) -> ChatTemplate:
        from ..prompt.template import ChatTemplate

        return ChatTemplate.from_folder(self.folder, "", "")

    def reads(self, key: str) -> bool:
        """Return whether the chat template reads a key of messages."""
        return self._template.names(key)


@dataclass(frozen=True)
class Served:
    """A model that requests may name.

    Attributes:
        name: in requests.
        open: loads it.
        look: reads what its files say.
    """

    name: str
    open: Callable[[], Engine]
    look: Callable[[], ModelInfo]

    @cached_property
    def info(self) -> ModelInfo:
        """What the files say, read once."""
        return self.look()


def served_model(
    model: str,
    *,
    name: str = "",
    revision: str | None = None,
    dtype: DType | None = None,
    adapter: AdapterSource | Sequence[AdapterSource] | None = None,
    limits: ImageLimits | None = None,
    draft_model: str | None = None,
    folder: Path | None = None,
    folder_bytes: int | None = None,
) -> Served:
    """Describe a model that `load` can load, with a store of what it has read.

    Args:
        model: a folder, a repo id on the Hub, or "demo".
        name: in requests; empty is `model`.
        revision: see `load`.
        dtype: see `load`.
        adapter: see `load`.
        limits: caps on the images.
        draft_model: for `load_drafter`.
        folder: of the store, which then is on disk too.
        folder_bytes: see `PrefixStore`.
    """

    def look() -> ModelInfo:
        files = find_checkpoint(model, revision, with_weights=False)
        config = read_model_config(files, model)
        return ModelInfo(
            checkpoint_kind(config),
            config.sampling,
            load_image_config(files),
            config.text.max_position_embeddings,
            files,
        )

    def open_it() -> Engine:
        from ..generation.engine import Engine
        from ..generation.prefix_store import PrefixStore
        from ..loading import load

        network, processor = load(
            model, revision=revision, dtype=dtype, adapter=adapter, limits=limits
        )
        drafter = None
        if draft_model is not None:
            from ..drafter_loading import load_drafter

            drafter = load_drafter(draft_model, network)
        engine = Engine(
            network,
            processor,
            store=PrefixStore(folder=folder, folder_bytes=folder_bytes),
            drafter=drafter,
        )
        engine.limit_memory()
        return engine

    return Served(name or model, open_it, look)
