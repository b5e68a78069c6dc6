"""Samples: conversations with answers as the model trains or is compared on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, InputError
from ..images.geometry import plan_image
from ..images.source import open_image, read_size
from ..options import ImageOptions
from .processor import Inputs, Processor
from .rows import bad_rows, is_data
from .template import Message

CHARACTERS_PER_TOKEN = 3  # roughly, for estimates of length
CAMERA = (3024, 4032)  # assumed height and width if a header cannot be read


@dataclass(frozen=True)
class Sample:
    """One conversation with answers, its images decoded.

    Attributes:
        input_ids: L token ids, with one image token per image feature.
        is_answer: (L,) bool, whether each id is the assistant's. The first never is.
        pixel_values: (N, patch_size * patch_size * 3) uint8 patches of each view.
        spatial_shapes: (rows, columns) of each view's patches.
    """

    input_ids: list[int]
    is_answer: np.ndarray
    pixel_values: list[np.ndarray]
    spatial_shapes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.input_ids)


def assistant_mask(ids: Sequence[int], header: Sequence[int], end_ids: set[int]) -> np.ndarray:
    """Mark the assistant's text: everything after its header, up to and including the end token.

    User text cannot contain special tokens, so the header marks only assistant turns, whatever the
    template does to their text.

    Args:
        ids: a rendered conversation.
        header: ids that begin an assistant turn.
        end_ids: ids that end a turn.

    Returns:
        (L,) bool.
    """
    mask = np.zeros(len(ids), bool)
    position = 0
    while position <= len(ids) - len(header):
        if list(ids[position : position + len(header)]) != list(header):
            position += 1
            continue
        position += len(header)
        while position < len(ids) and ids[position] != header[0]:
            mask[position] = True
            position += 1
            if ids[position - 1] in end_ids:
                break
    return mask


class SampleMaker:
    """Turns conversations into samples, using one processor."""

    def __init__(
        self,
        processor: Processor,
        end_ids: set[int],
        options: ImageOptions | None = None,
        special_tokens: Collection[str] = (),
    ) -> None:
        """
        Args:
            processor: of the checkpoint.
            end_ids: ids that end a turn.
            options: changes to the checkpoint's image settings.
            special_tokens: a fine-tune's own, which the text of conversations may hold.

        Raises:
            CheckpointError: the chat template has no generation prompt.
            InputError: a special token cannot be allowed.
        """
        processor.own_tokens.check(special_tokens)
        self.processor = processor
        self.options = options or ImageOptions()
        self.end_ids = end_ids
        self.special_tokens = special_tokens
        self.header = self._assistant_header()

    def _assistant_header(self) -> list[int]:
        """Find what the template writes before an answer by rendering with and without it."""
        probe = [{"role": "user", "content": "x"}]
        with_header = self.processor.template.render(probe)
        without = self.processor.template.render(probe, add_generation_prompt=False)
        if not with_header.startswith(without) or with_header == without:
            raise CheckpointError(
                "the chat template has no generation prompt: cannot train with it"
            )
        header = self.processor.tokenizer.encode_rendered(with_header[len(without) :])
        if self.processor.tokenizer.encode_rendered(with_header)[-len(header) :] != header:
            raise CheckpointError("the chat template's generation prompt does not stand alone")
        return header

    def __call__(self, messages: Sequence[Message]) -> Sample:
        """Turn a conversation into a sample.

        Raises:
            InputError: an image cannot be read, or the template rejects the messages.
        """
        inputs = self._inputs(messages)
        is_answer = assistant_mask(inputs.input_ids, self.header, self.end_ids)
        if not is_answer.any():
            raise InputError("the chat template keeps no assistant text to learn")
        return Sample(inputs.input_ids, is_answer, inputs.pixel_values, inputs.spatial_shapes)

    def _inputs(self, messages: Sequence[Message]) -> Inputs:
        return self.processor(
            messages,
            options=self.options,
            add_generation_prompt=False,
            special_tokens=self.special_tokens,
        )

    def up_to(self, most: int, rows: Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
        """Return the conversations of at most so many tokens. Images are not decoded.

        Raises:
            InputError: as for `lengths`.
        """
        self.lengths(rows, "the data")  # lists all bad rows, not only the first

        def length(messages: Sequence[Message]) -> int:
            return len(self._inputs(messages).input_ids)

        return [row for row in rows if length(row) <= most]

    def lengths(self, rows: Sequence[Sequence[Message]], name: str) -> list[int]:
        """Estimate the ids of each conversation, without tokenizing or decoding.

        Args:
            rows: conversations.
            name: name of the data, for errors.

        Raises:
            InputError: the template rejects some conversations, or they have too many images. The
                message lists them all.
        """
        lengths, problems = [], []
        for number, messages in enumerate(rows, 1):
            try:
                lengths.append(self._length(messages))
            except InputError as error:
                problems.append(f"conversation {number}: {error}")
        if problems:
            raise bad_rows(name, problems)
        return lengths

    def _length(self, messages: Sequence[Message]) -> int:
        text, _, sources, _ = self.processor.render(messages, None, False, self.special_tokens)
        limits = self.processor.limits
        config = self.processor.image_config.with_options(self.options)
        sizes = [
            read_size(source, limits) or CAMERA
            if isinstance(source, (str, Path)) and not is_data(source)
            else open_image(source, limits).size
            for source in sources
        ]
        tokens = sum(plan_image(*size, config).image_tokens for size in sizes)
        return tokens + len(text) // CHARACTERS_PER_TOKEN

    def show(self, messages: Sequence[Message]) -> str:
        """Return the sample as text, with the learned parts in ⟦ ⟧ and image tokens counted."""
        sample = self(messages)
        tokenizer = self.processor.tokenizer
        image = tokenizer.image_token_id
        runs: list[tuple[object, list[int]]] = []
        for token, is_answer in zip(sample.input_ids, sample.is_answer, strict=True):
            kind = "image" if token == image else bool(is_answer)
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append(token)
        text = ""
        for kind, ids in runs:
            if kind == "image":
                text += f"{tokenizer.image_token}×{len(ids)}"
            else:
                words = tokenizer.decode_all(ids)
                text += f"⟦{words}⟧" if kind else words
        return text
