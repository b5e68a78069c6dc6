"""The plug-in of `llm` (https://llm.datasette.io): LFM2-VL checkpoints as its models.

`llm` imports this module whenever it starts. What takes time is imported with the first prompt; see
`serving.llm.answers`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import llm

from .checkpoint.aliases import ALIASES, DEMO, full_name
from .checkpoint.cached_names import cached_names

if TYPE_CHECKING:
    from llm.parts import StreamEvent

ATTACHMENTS = frozenset(
    {
        *("image/png", "image/jpeg", "image/webp", "image/gif", "image/tiff", "image/avif"),
        *("image/heic", "image/heif", "image/bmp", "image/x-ms-bmp", "application/pdf"),
        "video/mp4",  # what llm takes some HEIC for; a real video is refused when it is opened
    }
)


class _Checkpoint:
    """What both kinds of models have in common.

    Attributes:
        checkpoint: a repo id, a folder, or "demo".
    """

    can_stream = True
    supports_schema = True
    attachment_types = ATTACHMENTS

    def __init__(self, model_id: str, checkpoint: str) -> None:
        self.model_id, self.checkpoint = model_id, checkpoint

    @property
    def Options(self) -> type[llm.Options]:
        """What `-o` sets. Most starts of llm do not ask, and making the class takes time."""
        from .serving.llm.options import Options

        return Options

    @property
    def supports_tools(self) -> bool:
        """Whether the checkpoint's chat template knows tools."""
        from .serving.llm.answers import knows_tools

        return knows_tools(self.checkpoint)


class LFM2VL(_Checkpoint, llm.Model):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A checkpoint that answers in the thread that asks."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: ARG002  llm joins what comes
        response: llm.Response,
        conversation: llm.Conversation | None = None,  # noqa: ARG002  the prompt has its messages
    ) -> Iterator[str | StreamEvent]:
        """Answer a prompt, with the messages before it.

        Raises:
            ModelError: it cannot be answered, with the reason in one line.
        """
        from .serving.llm.answers import answer

        return answer(self.checkpoint, prompt, response)


class AsyncLFM2VL(_Checkpoint, llm.AsyncModel):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A checkpoint that answers while the event loop goes on."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: ARG002
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """Do what `LFM2VL.execute` does."""
        from contextlib import aclosing

        from .serving.llm.answers import answer_async

        async with aclosing(answer_async(self.checkpoint, prompt, response)) as events:
            async for event in events:
                yield event


@llm.hookimpl
def register_models(register: Callable[..., Any]) -> None:
    """Register the built-in model, the default one, and those in the Hub library's cache."""
    _register(register, f"lfm2vl-{DEMO}", DEMO, [])
    default = os.environ.get("LFM2VL_MODEL")
    if default:
        _register(register, "lfm2vl", full_name(default), [])
    short = {repo: f"lfm2vl-{alias}" for alias, repo in ALIASES.items()}
    for repo in cached_names():
        name = repo.rpartition("/")[2].lower()
        _register(register, repo, repo, [name, short[repo]] if repo in short else [name])


def _register(
    register: Callable[..., Any], model_id: str, checkpoint: str, aliases: list[str]
) -> None:
    models = LFM2VL(model_id, checkpoint), AsyncLFM2VL(model_id, checkpoint)
    register(*models, aliases=tuple(aliases))
