"""The whole network: views to features, features among text embeddings, hidden states to logits."""

from collections.abc import Sequence
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .cache import Cache
from .config import ImageConfig, ModelConfig
from .language import LanguageModel
from .projector import MultiModalProjector
from .vision import VisionTower

# Patches encoded at a time: four full tiles keep a GPU busy, and memory flat for any image.
MAX_PATCHES = 4096


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

    def encode_images(
        self, pixel_values: Sequence[np.ndarray], spatial_shapes: Sequence[tuple[int, int]]
    ) -> mx.array:
        """Turn views into image features, without waiting for the device.

        Neighbouring views of equal size are encoded together, unpadded.

        Args:
            pixel_values: per view (N, patch_size * patch_size * 3) patches, uint8 as the
                processor makes them, or float and already normalised.
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
                batch = self._normalise(mx.array(np.stack(patches[start : start + step])))
                x = self.vision_tower(batch, grid)
                rows = self.multi_modal_projector(x.reshape(x.shape[0], *grid, -1)).flatten(0, 1)
                if not self.training:
                    # Start now, or the memory of all batches may be asked for at the same time.
                    mx.async_eval(rows)
                features.append(rows)
        return mx.concatenate(features) if len(features) > 1 else features[0]

    def _normalise(self, patches: mx.array) -> mx.array:
        dtype = self.vision_tower.post_layernorm.weight.dtype
        if patches.dtype != mx.uint8:
            return patches.astype(dtype)
        config = self.image_config
        pixels = patches.shape[-1] // 3  # (row, column, channel) order: RGB repeats
        mean, std = (
            mx.array([value / config.rescale_factor for value in values] * pixels)
            for values in (config.image_mean, config.image_std)
        )
        return ((patches.astype(mx.float32) - mean) / std).astype(dtype)

    def embed(self, input_ids: Sequence[int], features: mx.array | None = None) -> mx.array:
        """Embed a prompt, with image features in place of its image tokens.

        The positions are integers known on the host, so this is one gather on the device.

        Args:
            input_ids: L token ids.
            features: (F, C) rows of `encode_images`; F must be the number of image tokens.

        Returns:
            (1, L, C).

        Raises:
            ValueError: the image tokens are not as many as the features.
        """
        ids = np.asarray(input_ids, np.int32)
        text = self.language_model.embed_tokens(mx.array(ids))
        if features is None:
            return text[None]
        is_image = ids == self.config.image_token_id
        if is_image.sum() != features.shape[0]:
            raise ValueError(f"{is_image.sum()} image tokens for {features.shape[0]} features")
        index = np.arange(len(ids), dtype=np.int32)
        index[is_image] = len(ids) + np.arange(features.shape[0], dtype=np.int32)
        return mx.concatenate([text, features.astype(text.dtype)])[mx.array(index)][None]

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
