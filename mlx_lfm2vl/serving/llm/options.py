"""The options of a prompt of `llm`: the settings that `-o` takes."""

from __future__ import annotations

import llm
from pydantic import Field


class Options(llm.Options):
    """What `-o` sets. `AnswerOptions` and `ImageOptions` say more and check the values."""

    max_tokens: int | None = Field(None, description="Longest answer; default: 512")
    temperature: float | None = Field(None, description="0 takes the most likely token")
    top_p: float | None = Field(None, description="Total probability of the tokens to draw from")
    top_k: int | None = Field(None, description="Number of tokens to draw from")
    min_p: float | None = Field(None, description="Least probability relative to the likeliest")
    repetition_penalty: float | None = Field(None, description="Above 1: repeats less")
    seed: int | None = Field(None, description="The same seed draws the same answer")
    stop: str | list[str] | None = Field(None, description="Text that ends the answer")
    min_image_tokens: int | None = Field(None, description="Enlarge smaller images to this")
    max_image_tokens: int | None = Field(None, description="Reduce larger images to this")
    do_image_splitting: bool | None = Field(None, description="Cut large images into tiles")
    min_tiles: int | None = Field(None, description="Fewest tiles of an image that is cut")
    max_tiles: int | None = Field(None, description="Most tiles of an image that is cut")
    use_thumbnail: bool | None = Field(None, description="Show the whole beside its tiles")
    background: str | None = Field(None, description="Color below transparent pixels")
    answer_start: str | None = Field(None, description="Text that the answer begins with")
    lookup: int | None = Field(None, description="Tokens to copy and verify in one step")
    draft_model: str | None = Field(None, description="Drafter: the same answer in fewer steps")
    draft_tokens: int | None = Field(None, description="Most tokens that it drafts at a time")
    resident: bool | None = Field(None, description="Keep the model in a process that stays")
