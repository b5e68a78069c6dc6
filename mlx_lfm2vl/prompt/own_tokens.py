"""A fine-tune's own special tokens in text: letters, unless the user names them as allowed."""

import logging
import re
from collections.abc import Collection, Sequence
from copy import copy
from typing import Any

from ..checkpoint.names import some
from ..errors import InputError
from .keys import unknown
from .template import ChatTemplate
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Beginnings of the family's own marks of turns, tools and images. A checkpoint's template need not
# write them all.
FORMAT = ("<|im_", "<|img_", "<|image_", "<|tool_", "<|startoftext|>", "<|endoftext|>", "<|pad|>")


class OwnTokens:
    """The special tokens that text may hold if the user allows it.

    Never among them are those in the chat template, those of images and tools, and the beginning
    and end of a text: with these, text could pretend to be another turn or an image.

    Attributes:
        names: text of the tokens.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        markers = {
            tokenizer.image_token_id,
            tokenizer.image_start_id,
            tokenizer.image_end_id,
            tokenizer.image_thumbnail_id,
            *tokenizer.tool_call_ids.values(),
        }
        self.names = {
            name
            for name, token_id in tokenizer.special_tokens.items()
            if token_id not in markers
            and name not in (tokenizer.bos_token, tokenizer.eos_token)
            and name not in template.source
            and not name.startswith(FORMAT)
        }
        longest_first = sorted(self.names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._noted: set[str] = set()

    def anew(self) -> "OwnTokens":
        """Return a copy that has said nothing yet."""
        copied = copy(self)
        copied._noted = set()
        return copied

    def check(self, allowed: Collection[str]) -> None:
        """Check that text may hold these tokens.

        Raises:
            InputError: one is no special token, or never allowed.
        """
        for name in allowed:
            if name not in self._tokenizer.special_tokens:
                if not self.names:
                    raise InputError(
                        f"the tokenizer has no special token {name!r:.60}, nor another to allow"
                    )
                raise unknown("the tokenizer has no special token", name, sorted(self.names)[:9])
            if name not in self.names:
                raise InputError(
                    f"{name} cannot be allowed in text: it belongs to the chat format or to images"
                )
            if name in self._tokenizer.spaced_tokens:
                raise InputError(f"{name} takes in the spaces beside it, which is not supported")

    def note_letters(self, messages: Sequence[dict[str, Any]], allowed: Collection[str]) -> None:
        """Say, once for each token, that the text holds its letters.

        Args:
            messages: as `split_images` returns them.
            allowed: tokens that are not letters.
        """
        self._note_image_marks(messages)
        if not self.names:
            return
        held = {name for text in _texts(messages) for name in self._pattern.findall(text)}
        if new := sorted(held - set(allowed) - self._noted):
            self._noted |= held
            logger.warning(
                "the text holds %s as letters; allow it with --special-tokens", some(new)
            )

    def _note_image_marks(self, messages: Sequence[dict[str, Any]]) -> None:
        """Say once that the user's text marks an image as prompts of other programs do."""
        mark = self._tokenizer.image_token
        asked = [message for message in messages if message["role"] == "user"]
        if mark not in self._noted and any(mark in text for text in _texts(asked)):
            self._noted.add(mark)
            logger.warning("the text holds %s as letters: images stand beside the text", mark)


def _texts(messages: Sequence[dict[str, Any]]) -> list[str]:
    contents = [message["content"] for message in messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    texts = [content for content in contents if isinstance(content, str)]
    return texts + [part["text"] for part in parts if part["type"] == "text"]
