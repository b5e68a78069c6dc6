"""Turns messages with images into what the model reads: ids, patches and their grids."""

import logging
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..checkpoint.image_config import ImageConfig, load_image_config
from ..errors import CheckpointError, InputError
from ..images.geometry import ImagePlan, plan_image
from ..images.patches import process_image
from ..images.ready import ReadyImage
from ..images.source import ImageLimits, ImageSource, OpenedImage, open_image
from ..options import ImageOptions
from .continued import marked, started_answer, until_mark
from .keys import is_empty
from .messages import TEMPLATE_KEYS, count_images, split_images
from .own_tokens import OwnTokens
from .template import ChatTemplate, Message, guard_specials
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Views:
    """The patches of images, one image after the other, for each a list of its views.

    Iterating decodes the images one by one and frees each, so it works once. A damaged image raises
    InputError.

    Args:
        decoders: decode one image each.
    """

    def __init__(self, decoders: Sequence[Callable[[], list[np.ndarray]]]) -> None:
        self._decoders = list(decoders)

    def __iter__(self) -> "Views":
        return self

    def __next__(self) -> list[np.ndarray]:
        if not self._decoders:
            raise StopIteration
        return self.skip()()

    def skip(self) -> Callable[[], list[np.ndarray]]:
        """Pass over the next image; return a function that decodes it after all."""
        return self._decoders.pop(0)


@dataclass(frozen=True)
class Inputs:
    """One conversation as the model reads it. Its images are opened but not yet decoded.

    Attributes:
        input_ids: token ids, with one image token per image feature.
        images: plan of each image.
        spans: where each image stands in `input_ids`, its markers included: (begin, end).
        views: for each image, the (N, patch_size * patch_size * 3) uint8 patches of its views.
        start: text of the assistant at the end of the prompt, which the answer continues.
    """

    input_ids: list[int]
    images: list[ImagePlan]
    spans: list[tuple[int, int]]
    views: "Views"
    start: str = ""

    @cached_property
    def pixel_values(self) -> list[np.ndarray]:
        """Patches of every view, in prompt order. Takes them from `views` and keeps them.

        Raises:
            InputError: an image is damaged.
            RuntimeError: `views` was read before.
        """
        views = list(self.views)
        if len(views) < len(self.images):
            raise RuntimeError("views were read before, and can be read once; prepare them again")
        return [patches for image in views for patches in image]

    @property
    def spatial_shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of each view's patches."""
        return [shape for plan in self.images for shape in plan.spatial_shapes]

    @property
    def image_tokens(self) -> int:
        return sum(plan.image_tokens for plan in self.images)


class Rendered(NamedTuple):
    """A conversation as the chat template writes it."""

    text: str
    guard: str  # the character that splits special tokens in user text; see `guard_specials`
    sources: list[ImageSource]  # of the images, which are placeholders in the text
    start: str | None  # what the assistant has begun to answer; None if the answer is a new turn


class Processor:
    """A checkpoint's tokenizer, chat template and image settings.

    Attributes:
        look: is called with every image as soon as it is decoded, or None.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        image_config: ImageConfig,
        limits: ImageLimits | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.image_config = image_config
        self.limits = limits or ImageLimits()
        self.look: Callable[[Image.Image], None] | None = None

    @cached_property
    def own_tokens(self) -> OwnTokens:
        """The checkpoint's special tokens that text may hold if it is allowed."""
        return OwnTokens(self.tokenizer, self.template)

    def anew(self) -> "Processor":
        """Return a copy that says again what it says only once, for somebody who has not heard."""
        copied = copy(self)
        copied.own_tokens = self.own_tokens.anew()
        return copied

    def __repr__(self) -> str:
        image = self.image_config
        tiles = f"up to {image.max_tiles} tiles" if image.do_image_splitting else "no tiles"
        return f"Processor({image.max_image_tokens} tokens a view, {tiles})"

    @classmethod
    def from_folder(cls, folder: Path, limits: ImageLimits | None = None) -> "Processor":
        """Make the processor of a checkpoint folder, without reading weights.

        Raises:
            CheckpointError: a file is missing or broken.
        """
        tokenizer = Tokenizer(folder)
        template = ChatTemplate.from_folder(folder, tokenizer.bos_token, tokenizer.eos_token)
        return cls(tokenizer, template, load_image_config(folder), limits)

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        options: ImageOptions | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        special_tokens: Collection[str] = (),
    ) -> Inputs:
        """Prepare a conversation. Its images are decoded when their pixels are first read.

        Args:
            messages: `{"role": ..., "content": ...}`; the content is text, or a list of
                `{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`, where the
                image is what `open_image` takes: a path, a URL, a data URI, a PIL image, bytes, an
                open file or an array of pixels. The spellings of `read_part` and Ollama's `images`
                also work.
            options: changes to the checkpoint's image settings.
            tools: function descriptions for the chat template.
            add_generation_prompt: end with the header of the assistant's turn. If the last message
                is the assistant's, end with its text instead, so that the answer continues it.
            special_tokens: a fine-tune's own special tokens, which the text of all messages may
                hold; see `OwnTokens`. Others are read as letters.

        Raises:
            InputError: an image cannot be read, there are too many images, options contradict each
                other, the chat template rejects the messages or leaves out the tools, or a special
                token cannot be allowed.
            NetworkError: an image URL cannot be fetched.
        """
        text, guard, sources, start = self.render(
            messages, tools, add_generation_prompt, special_tokens
        )
        ids = self.tokenizer.encode_rendered(text, guard)
        if not ids:
            raise InputError("the chat template writes nothing for these messages")
        config = self.image_config.with_options(options or ImageOptions())
        images, decoders = self._open(sources, config)
        input_ids, spans = self._expand(ids, images)
        return Inputs(input_ids, images, spans, Views(decoders), start or "")

    def ready(self, source: ImageSource, options: ImageOptions | None = None) -> ReadyImage:
        """Read, decode and cut an image now, so that its conversation does not wait for it.

        Any thread may do it, for any number of images at a time. The result stands for the image in
        messages.

        Args:
            source: the image.
            options: those of the answer.

        Raises:
            InputError: the image cannot be read or is damaged.
            NetworkError: an image URL cannot be fetched.
        """
        config = self.image_config.with_options(options or ImageOptions())
        (plan,), (decode,) = self._open([source], config)
        return ReadyImage(plan, decode(), config)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        add_generation_prompt: bool,
        special_tokens: Collection[str] = (),
    ) -> Rendered:
        """Render a conversation with the chat template, with one placeholder per image.

        Raises:
            InputError: there are too many images, the chat template rejects the messages or leaves
                out the tools, or a special token cannot be allowed.
        """
        self.own_tokens.check(special_tokens)
        self.limits.check_count(count_images(messages))
        plain, sources = split_images(messages)
        self._check_keys(plain)
        start = started_answer(plain) if add_generation_prompt else None
        self.own_tokens.note_letters(plain, special_tokens)
        letters = self.tokenizer.special_tokens.keys() - set(special_tokens)
        guarded, guard = guard_specials([plain, tools], letters)
        render = self._render_new_turn if start is None else self._render_started
        text = render(guarded[0], guarded[1], add_generation_prompt)
        if tools and text == self._without_tools(render, guarded[0], add_generation_prompt):
            raise InputError(
                "this checkpoint's chat template does not use tools here; describe them in the "
                "system message, or leave them out"
            )
        placeholders = text.count(self.tokenizer.image_token)
        if placeholders != len(sources):
            raise InputError(
                f"the chat template placed {placeholders} of {len(sources)} images; "
                "some templates take no images in a system message"
            )
        return Rendered(text, guard, sources, start)

    def _render_new_turn(
        self, messages: Sequence[Message], tools: Any, add_generation_prompt: bool
    ) -> str:
        return self.template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt
        )

    def _render_started(self, messages: Sequence[Message], tools: Any, _: bool) -> str:
        text = self.template.render(marked(messages), tools=tools, add_generation_prompt=False)
        return until_mark(text, messages)

    def _open(
        self, sources: Sequence[ImageSource], config: ImageConfig
    ) -> tuple[list[ImagePlan], list[Callable[[], list[np.ndarray]]]]:
        """Return the plan of each image, and what gives the patches of its views."""
        plans: list[ImagePlan] = []
        decoders: list[Callable[[], list[np.ndarray]]] = []
        for source in sources:
            if isinstance(source, ReadyImage):
                if source.config != config:
                    raise InputError("an image was made ready with other image options")
                plans.append(source.plan)
                decoders.append(partial(getattr, source, "views"))
                continue
            opened = open_image(source, self.limits)
            plan = plan_image(*opened.size, config)
            if plan.scaling:
                logger.warning("%s is %s", opened.name, plan.scaling)
            plans.append(plan)
            decoders.append(partial(self._decode, opened, plan, config))
        return plans, decoders

    def _decode(
        self, opened: OpenedImage, plan: ImagePlan, config: ImageConfig
    ) -> list[np.ndarray]:
        """Return the patches of an image's views."""
        pixels = opened.decode(plan.canvas if config.jpeg_draft else None, config.background)
        if self.look:
            self.look(pixels)
        return process_image(pixels, plan, config.resample)

    @staticmethod
    def _without_tools(
        render: Callable[[Sequence[Message], Any, bool], str],
        messages: Sequence[Message],
        add_generation_prompt: bool,
    ) -> str | None:
        """Render a conversation as if there were no tools; None if the template refuses that."""
        try:
            return render(messages, None, add_generation_prompt)
        except InputError:
            return None

    def _check_keys(self, messages: Sequence[Message]) -> None:
        """Refuse what a message says in keys that this checkpoint's template does not read."""
        for message in messages:
            for key in TEMPLATE_KEYS:
                if not is_empty(message.get(key)) and not self.template.names(key):
                    raise InputError(
                        f"this checkpoint's chat template does not use the {key!r} of a message; "
                        "put it into the content as text, or leave it out"
                    )

    def _expand(
        self, ids: list[int], images: list[ImagePlan]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Replace each placeholder with its image's markers and tokens; return where they are."""
        # Another token can have the image token's id, too.
        if ids.count(self.tokenizer.image_token_id) != len(images):
            raise InputError("the text holds what the tokenizer reads as an image token")
        remaining = iter(images)
        expanded: list[int] = []
        spans: list[tuple[int, int]] = []
        for token in ids:
            if token == self.tokenizer.image_token_id:
                begin = len(expanded)
                expanded += self.image_ids(next(remaining))
                spans.append((begin, len(expanded)))
            else:
                expanded.append(token)
        return expanded, spans

    def image_ids(self, plan: ImagePlan) -> list[int]:
        """Return the ids of one image: start, labeled tiles, thumbnail, end.

        Raises:
            InputError: the vocabulary has no labels for a grid this large.
            CheckpointError: the vocabulary lacks another marker.
        """
        views = [[self.tokenizer.image_token_id] * count for count in plan.view_tokens]
        if not self.image_config.use_image_special_tokens:
            return [token for view in views for token in view]
        ids = [self._marker(self.tokenizer.image_start_id, "image start")]
        for labels, view in zip(self._view_labels(plan), views, strict=True):
            ids += [*labels, *view]
        ids.append(self._marker(self.tokenizer.image_end_id, "image end"))
        return ids

    def _view_labels(self, plan: ImagePlan) -> list[list[int]]:
        """Return the ids before each view: a tile's row and column, or the thumbnail's marker."""
        if len(plan.view_tokens) == 1:
            return [[]]
        rows, columns = plan.grid
        names = [
            f"<|img_row_{row}_col_{column}|>"
            for row in range(1, rows + 1)
            for column in range(1, columns + 1)
        ]
        tiles = [token for name in names if (token := self.tokenizer.id_of(name)) is not None]
        if len(tiles) < len(names):
            raise InputError(
                f"the vocabulary has no labels for a grid of {columns} x {rows} tiles; "
                "lower max_tiles"
            )
        labels = [[tile] for tile in tiles]
        if plan.thumbnail:
            labels.append([self._marker(self.tokenizer.image_thumbnail_id, "thumbnail")])
        return labels

    @staticmethod
    def _marker(token: int | None, name: str) -> int:
        if token is None:
            raise CheckpointError(f"the tokenizer has no {name} token")
        return token
