"""The whole network: views to features, features among text embeddings, hidden states to logits."""

from collections.abc import Sequence
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.config import ModelConfig
from ..checkpoint.image_config import ImageConfig
from .cache import Cache
from .device_ops import GPU, fused
from .language import DecoderLayer, LanguageModel
from .projector import MultiModalProjector
from .vision import VisionTower

# Patches encoded at a time: four full tiles keep a GPU busy, and memory flat for any image. A CPU,
# whose attention is not fused, takes one tile.
MAX_PATCHES = 4096 if GPU else 1024


@fused
def _standardise(patches: mx.array, mean: mx.array, std: mx.array, like: mx.array) -> mx.array:
    return ((patches.astype(mx.float32) - mean) / std).astype(like.dtype)


class Lfm2VL(nn.Module):
    """LFM2-VL. Follows Lfm2VlForConditionalGeneration in transformers 5.23."""

    def __init__(self, config: ModelConfig, image_config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.image_config = image_config
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = MultiModalProjector(
            config.projector, config.vision.hidden_size, config.text.hidden_size
        )
        self.language_model = LanguageModel(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    def make_cache(self) -> Cache:
        return self.language_model.make_cache()

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder's layers, where mlx-lm's tuning functions look for them."""
        return self.language_model.layers

    def encode_views(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        """Turn views of one size into image features.

        Args:
            pixel_values: (B, N, patch_size * patch_size * 3) patches, uint8 as the processor
                makes them, or float and already normalised.
            grid: (rows, columns) of patches in each view; rows * columns = N.

        Returns:
            (F, C) rows in the order of the image tokens: view by view, row by row.
        """
        x = self.encode_patches(pixel_values, grid)
        return self.multi_modal_projector(x.reshape(x.shape[0], *grid, -1)).flatten(0, 1)

    def encode_patches(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        """The tower's features of views of one size, (B, N, C); arguments as `encode_views`."""
        return self.vision_tower(self._normalise(pixel_values), grid)

    def encode_images(
        self, pixel_values: Sequence[np.ndarray], spatial_shapes: Sequence[tuple[int, int]]
    ) -> mx.array:
        """Turn views of any sizes into image features, without waiting for the device.

        Neighbouring views of equal size are encoded together, unpadded.

        Args:
            pixel_values: per view its (N, patch_size * patch_size * 3) patches.
            spatial_shapes: per view the (rows, columns) of its grid; rows * columns = N.

        Returns:
            (F, C) rows in the order of the image tokens: view by view, row by row.
        """
        features = []
        views = zip(spatial_shapes, pixel_values, strict=True)
        for grid, run in groupby(views, key=lambda view: view[0]):
            patches = [patches for _, patches in run]
            step = max(1, MAX_PATCHES // (grid[0] * grid[1]))
            for start in range(0, len(patches), step):
                batch = mx.array(np.stack(patches[start : start + step]))
                rows = self.encode_views(batch, grid)
                # Start now, or the memory of all batches may be asked for at the same time.
                mx.async_eval(rows)
                features.append(rows)
        return mx.concatenate(features) if len(features) > 1 else features[0]

    def _normalise(self, patches: mx.array) -> mx.array:
        weight = self.vision_tower.post_layernorm.weight
        if patches.dtype != mx.uint8:
            return patches.astype(weight.dtype)
        config = self.image_config
        pixels = patches.shape[-1] // 3  # (row, column, channel) order: RGB repeats
        mean, std = (
            mx.array([value / config.rescale_factor for value in values] * pixels)
            for values in (config.image_mean, config.image_std)
        )
        return _standardise(patches, mean, std, weight)

    def embed(self, input_ids: Sequence[int], features: mx.array | None = None) -> mx.array:
        """Embed a prompt, with image features in place of its image tokens.

        Args:
            input_ids: L token ids.
            features: (F, C) rows of `encode_images`; F must be the number of image tokens.

        Returns:
            (1, L, C).

        Raises:
            ValueError: the image tokens are not as many as the features.
        """
        ids = np.asarray(input_ids, np.int32)[None]
        index = self.join_index(ids, 0 if features is None else features.shape[0])
        return self.join(mx.array(ids), features, mx.array(index))

    def join_index(self, input_ids: np.ndarray, feature_count: int) -> np.ndarray:
        """Where `join` finds the row of every position; integers made on the host.

        Args:
            input_ids: (B, L) int32.
            feature_count: rows of image features, for all of the batch.

        Returns:
            (B, L) int32: text rows count from 0 by position, image rows from B * L.

        Raises:
            ValueError: the image tokens are not as many as the features.
        """
        is_image = input_ids == self.config.image_token_id
        if feature_count and is_image.sum() != feature_count:
            raise ValueError(f"{is_image.sum()} image tokens for {feature_count} features")
        index = np.arange(input_ids.size, dtype=np.int32).reshape(input_ids.shape)
        if feature_count:
            index[is_image] = input_ids.size + np.arange(feature_count, dtype=np.int32)
        return index

    def join(self, input_ids: mx.array, features: mx.array | None, index: mx.array) -> mx.array:
        """Text embeddings and image features in the order of the prompt, by one gather.

        Args:
            input_ids: (B, L).
            features: (F, C), or None for text alone.
            index: (B, L) from `join_index`.

        Returns:
            (B, L, C).
        """
        text = self.language_model.embed_tokens(input_ids)
        if features is None:
            return text
        rows = mx.concatenate([text.flatten(0, 1), features.astype(text.dtype)])
        return rows[index]

    def head(self, hidden: mx.array) -> mx.array:
        """(..., C) hidden states -> (..., vocab_size) logits."""
        if "lm_head" in self:
            return self.lm_head(hidden)
        return self.language_model.embed_tokens.as_linear(hidden)

    def __call__(
        self,
        input_ids: Sequence[int],
        pixel_values: Sequence[np.ndarray] = (),
        spatial_shapes: Sequence[tuple[int, int]] = (),
    ) -> mx.array:
        """Logits of every position of one prompt, (1, L, vocab_size)."""
        features = self.encode_images(pixel_values, spatial_shapes) if pixel_values else None
        return self.head(self.language_model(self.embed(input_ids, features)))
