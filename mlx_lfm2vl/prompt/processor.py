"""Messages with images to what the model reads: ids, patches and their grids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.image_config import ImageConfig, read_image_config, restore_tiling
from ..checkpoint.tensors import detect_layout
from ..errors import CheckpointError, InputError
from ..images.geometry import ImagePlan, plan_image
from ..images.patches import process_image
from ..images.source import ImageLimits, ImageSource, OpenedImage, open_image
from ..options import ImageOptions
from .messages import split_images
from .template import ChatTemplate, Message, guard_specials
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for the model.

    Attributes:
        input_ids: token ids, image tokens expanded.
        pixel_values: per view (N, patch_size * patch_size * 3) uint8 patches.
        spatial_shapes: per view (rows, columns) of its patches.
        images: per image its plan.
    """

    input_ids: list[int]
    pixel_values: list[np.ndarray]
    spatial_shapes: list[tuple[int, int]]
    images: list[ImagePlan]

    @property
    def image_tokens(self) -> int:
        return sum(plan.image_tokens for plan in self.images)


@dataclass(frozen=True)
class Prompt:
    """One prompt whose images are opened and planned, but not yet decoded.

    Attributes:
        input_ids: token ids, image tokens expanded.
        images: per image its plan.
    """

    input_ids: list[int]
    images: list[ImagePlan]
    _opened: list[OpenedImage]
    _config: ImageConfig

    @property
    def image_tokens(self) -> int:
        return sum(plan.image_tokens for plan in self.images)

    def decode(self) -> Iterator[list[np.ndarray]]:
        """Decode one image after the other; yields the patches of its views, as `Inputs` has them.

        Can be done once: decoded images are let go.

        Raises:
            InputError: an image is damaged.
        """
        for plan in self.images:
            yield self._patches(self._opened.pop(0), plan)

    def _patches(self, image: OpenedImage, plan: ImagePlan) -> list[np.ndarray]:
        pixels = image.decode(plan.canvas if self._config.jpeg_draft else None)
        return process_image(pixels, plan, self._config.resample)


class Processor:
    """A checkpoint's tokenizer, chat template and image settings."""

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

    def __repr__(self) -> str:
        image = self.image_config
        tiles = f"up to {image.max_tiles} tiles" if image.do_image_splitting else "no tiles"
        return f"Processor({image.max_image_tokens} tokens a view, {tiles})"

    @classmethod
    def from_folder(cls, folder: Path, limits: ImageLimits | None = None) -> "Processor":
        """The processor of a checkpoint folder; reads no weights.

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
        max_length: int | None = None,
    ) -> Inputs:
        """Prepare a conversation, pixels included; arguments and errors as `read`."""
        prompt = self.read(
            messages,
            options=options,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            max_length=max_length,
        )
        return Inputs(
            input_ids=prompt.input_ids,
            pixel_values=[patches for views in prompt.decode() for patches in views],
            spatial_shapes=[shape for plan in prompt.images for shape in plan.spatial_shapes],
            images=prompt.images,
        )

    def read(
        self,
        messages: Sequence[Message],
        *,
        options: ImageOptions | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        max_length: int | None = None,
    ) -> Prompt:
        """Prepare a conversation up to its pixels.

        Args:
            messages: `{"role": ..., "content": ...}`; the content is text, or a list of
                `{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`, where the
                image is a path, a URL, a data URI or a PIL image (`"url"`, `"path"` and the
                `image_url` form work as well).
            options: changes to the checkpoint's image settings.
            tools: function descriptions for the chat template.
            add_generation_prompt: end with the header of the assistant's turn.
            max_length: refuse longer prompts; checked before any image is decoded.

        Raises:
            InputError: an image cannot be read, there are too many, a setting makes no sense, the
                prompt is too long, or the chat template does not take these messages.
            NetworkError: an image URL cannot be fetched.
        """
        text, guard, sources = self.render(messages, tools, add_generation_prompt)
        ids = self.tokenizer.encode_rendered(text, guard)
        config = (options or ImageOptions()).apply(self.image_config)
        opened = [open_image(source, self.limits) for source in sources]
        images = [plan_image(*image.size, config) for image in opened]
        input_ids = self._expand(ids, images)
        if max_length is not None and len(input_ids) > max_length:
            raise InputError(
                f"the prompt has {len(input_ids)} tokens "
                f"({sum(plan.image_tokens for plan in images)} of images), at most {max_length} "
                "leave room for the answer; use fewer or smaller images, or a lower max_tokens"
            )
        return Prompt(input_ids, images, opened, config)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> tuple[str, str, list[ImageSource]]:
        """A conversation as the chat template writes it, images still one placeholder each.

        Returns:
            The text, the character that guards special tokens in it, and the images' sources.

        Raises:
            InputError: there are too many images, or the template does not take these messages.
        """
        plain, sources = split_images(messages)
        if len(sources) > self.limits.max_images:
            raise InputError(
                f"the prompt has {len(sources)} images, at most {self.limits.max_images} are read"
            )
        guarded, guard = guard_specials([plain, tools], self.tokenizer.special_tokens)
        text = self.template.render(
            guarded[0], tools=guarded[1], add_generation_prompt=add_generation_prompt
        )
        placeholders = text.count(self.tokenizer.image_token)
        if placeholders != len(sources):
            raise InputError(
                f"the chat template placed {placeholders} of {len(sources)} images; "
                "some templates take no images in a system message"
            )
        return text, guard, sources

    def _expand(self, ids: list[int], images: list[ImagePlan]) -> list[int]:
        """Replace each image token by the markers and image tokens of its image."""
        remaining = iter(images)
        expanded: list[int] = []
        for token in ids:
            if token == self.tokenizer.image_token_id:
                expanded += self.image_ids(next(remaining))
            else:
                expanded.append(token)
        return expanded

    def image_ids(self, plan: ImagePlan) -> list[int]:
        """The ids that stand for one image: start, labelled tiles, thumbnail, end."""
        views = [[self.tokenizer.image_token_id] * count for count in plan.view_tokens]
        if not self.image_config.use_image_special_tokens:
            return [token for view in views for token in view]
        rows, columns = plan.grid
        labels: list[str | int | None] = [None]
        if len(views) > 1:
            labels = [
                f"<|img_row_{row}_col_{column}|>"
                for row in range(1, rows + 1)
                for column in range(1, columns + 1)
            ]
        if plan.thumbnail:
            labels.append(self.tokenizer.image_thumbnail_id)
        ids = [self._marker(self.tokenizer.image_start_id, "image start")]
        for label, view in zip(labels, views, strict=True):
            if isinstance(label, str):
                if self.tokenizer.id_of(label) is None:
                    raise InputError(
                        f"the vocabulary has no labels for a grid of {columns} x {rows} tiles; "
                        "lower max_tiles"
                    )
                ids.append(self._marker(self.tokenizer.id_of(label), label))
            elif len(views) > 1:
                ids.append(self._marker(label, "thumbnail"))
            ids += view
        ids.append(self._marker(self.tokenizer.image_end_id, "image end"))
        return ids

    @staticmethod
    def _marker(token: int | None, name: str) -> int:
        if token is None:
            raise CheckpointError(f"the tokenizer has no {name} token")
        return token


def load_image_config(folder: Path) -> ImageConfig:
    """The image settings of a checkpoint folder, with known mistakes undone.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    image_config = read_image_config(folder)
    layout = detect_layout(folder)
    if layout.is_mlx and not layout.is_ours:
        image_config = restore_tiling(image_config, folder)
    return image_config
