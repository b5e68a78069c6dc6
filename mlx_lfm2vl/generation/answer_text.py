"""The text of an answer, without the tool calls in it."""

import logging
from collections.abc import Collection
from typing import Any

from ..prompt.tokenizer import TextStream, Tokenizer
from ..prompt.tool_calls import parse_calls

logger = logging.getLogger(__name__)


class AnswerText:
    """Decodes an answer's tokens one by one, and reads its tool calls.

    What stands between the markers of tool calls is held back until it is complete. If it cannot be
    read, it is text, with its markers spelled out.

    Attributes:
        calls: `{"name": ..., "arguments": {...}}` of each call so far.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[str] = ()) -> None:
        """
        Args:
            tokenizer: of the model.
            shown: special tokens that are spelled out.
        """
        self._tokenizer, self._shown = tokenizer, shown
        self._names = tuple(tokenizer.tool_call_ids)
        self._begin, self._end = tuple(tokenizer.tool_call_ids.values()) or (None, None)
        self._text = tokenizer.text_stream(shown)
        self._call: TextStream | None = None  # set within a call
        self._held: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def add(self, token: int) -> str:
        """Add a token and return the new text, often empty."""
        if self._call is None:
            if token != self._begin:
                return self._text.add(token)
            self._call = self._tokenizer.text_stream(self._tokenizer.special_tokens)
            text, self._text = self._text.finish(), self._tokenizer.text_stream(self._shown)
            return text
        if token == self._end:
            return self._close()
        self._held.append(self._call.add(token))
        return ""

    def finish(self) -> str:
        """Return the rest of the text after the last token."""
        if self._call is None:
            return self._text.finish()
        content = self._content()
        logger.warning("the answer ended within a tool call; it stays in the text")
        return self._names[0] + content

    def _close(self) -> str:
        """End a call; return its text if it cannot be read."""
        content = self._content()
        try:
            self.calls += parse_calls(content)
        except ValueError as error:
            logger.warning("a tool call stays in the text, because it cannot be read: %s", error)
            begin, end = self._names
            return f"{begin}{content}{end}"
        return ""

    def _content(self) -> str:
        """Return the text of the call and leave it."""
        assert self._call is not None
        content = "".join(self._held) + self._call.finish()
        self._call, self._held = None, []
        return content
