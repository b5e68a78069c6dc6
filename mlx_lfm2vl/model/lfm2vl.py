"""The whole network: views to image features, features and text to embeddings, then to logits."""

from collections.abc import Iterator, Sequence
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

# Patches encoded at a time, so that memory does not grow with the image. Four full tiles keep a GPU
# busy. A CPU, whose attention is not fused, gets one tile.
MAX_PATCHES = 4096 if GPU else 1024


@fused
def _standardize(patches: mx.array, mean: mx.array, std: mx.array, like: mx.array) -> mx.array:
    return ((patches.astype(mx.float32) - mean) / std).astype(like.dtype)


class Lfm2VL(nn.Module):
    """The LFM2-VL network. Follows Lfm2VlForConditionalGeneration in transformers 5.23.

    Attributes:
        name: of the checkpoint, as the user gave it.
        files: identities of the files that the weights come from; see `plain_file.file_identity`.
    """

    def __init__(self, config: ModelConfig, image_config: ImageConfig) -> None:
        super().__init__()
        self.name, self.files = "", ""
        self.config = config
        self.image_config = image_config
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = MultiModalProjector(
            config.projector, config.vision.hidden_size, config.text.hidden_size
        )
        self.language_model = LanguageModel(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    def make_cache(self, kv_bits: int = 0) -> Cache:
        """Return an empty cache for one sequence or for a batch of equally long ones.

        `LanguageModel.make_cache` describes `kv_bits` and errors.
        """
        return self.language_model.make_cache(kv_bits)

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder's layers, where mlx-lm's fine-tuning functions expect them."""
        return self.language_model.layers

    def encode_views(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        """Turn views of one size into image features.

        Args:
            pixel_values: (B, N, patch_size * patch_size * 3) patches: uint8 as the processor
                makes them, or floats that are already normalized.
            grid: (rows, columns) of patches in each view; rows * columns = N.

        Returns:
            (F, C) features in the order of the image tokens: view by view, row by row.

        Raises:
            ValueError: the downsample factor does not divide the grid.
        """
        return self.project_patches(self.encode_patches(pixel_values, grid), grid)

    def project_patches(self, x: mx.array, grid: tuple[int, int]) -> mx.array:
        """Turn the (B, N, C) result of `encode_patches` into that of `encode_views`."""
        return self.multi_modal_projector(x.reshape(x.shape[0], *grid, -1)).flatten(0, 1)

    def encode_patches(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        """Return the vision tower's (B, N, C) features; the arguments are those of `encode_views`.

        C is the tower's hidden size.
        """
        return self.vision_tower(self._normalize(pixel_values), grid)

    def encode_images(
        self, pixel_values: Sequence[np.ndarray], spatial_shapes: Sequence[tuple[int, int]]
    ) -> mx.array:
        """Turn views of any sizes into image features, without waiting for the device.

        Args:
            pixel_values: (N, patch_size * patch_size * 3) patches of each view, at least one view.
            spatial_shapes: (rows, columns) of each view's grid of patches; rows * columns = N.

        Returns:
            (F, C) features in the order of the image tokens: view by view, row by row.

        Raises:
            ValueError: the downsample factor does not divide a grid, or the arguments differ in
                length.
        """
        features = list(self.encode_batches(pixel_values, spatial_shapes))
        return mx.concatenate(features) if len(features) > 1 else features[0]

    def encode_batches(
        self, pixel_values: Sequence[np.ndarray], spatial_shapes: Sequence[tuple[int, int]]
    ) -> Iterator[mx.array]:
        """Yield the features of `encode_images` in parts, each as soon as it is queued.

        Consecutive views of equal size are encoded together, without padding.
        """
        views = zip(spatial_shapes, pixel_values, strict=True)
        for grid, run in groupby(views, key=lambda view: view[0]):
            patches = [patches for _, patches in run]
            step = max(1, MAX_PATCHES // (grid[0] * grid[1]))
            for start in range(0, len(patches), step):
                batch = mx.array(np.stack(patches[start : start + step]))
                rows = self.encode_views(batch, grid)
                # Start now, or all batches may be evaluated, and hold their memory, at once.
                mx.async_eval(rows)
                yield rows

    def _normalize(self, patches: mx.array) -> mx.array:
        weight = self.vision_tower.post_layernorm.weight
        if patches.dtype != mx.uint8:
            return patches.astype(weight.dtype)
        config = self.image_config
        pixels = patches.shape[-1] // 3  # (row, column, channel) order: RGB repeats
        mean, std = (
            mx.array([value / config.rescale_factor for value in values] * pixels)
            for values in (config.image_mean, config.image_std)
        )
        return _standardize(patches, mean, std, weight)

    def embed(self, input_ids: Sequence[int], features: mx.array | None = None) -> mx.array:
        """Embed a prompt and replace the embeddings of its image tokens by image features.

        Args:
            input_ids: L token ids.
            features: (F, C) from `encode_images`, one per image token; None for text alone.

        Returns:
            (1, L, C) embeddings.

        Raises:
            ValueError: there are features, but not as many as image tokens.
        """
        ids = np.asarray(input_ids, np.int32)[None]
        index = self.join_index(ids, 0 if features is None else features.shape[0])
        return self.join(mx.array(ids), features, mx.array(index))

    def join_index(self, input_ids: np.ndarray, feature_count: int) -> np.ndarray:
        """Compute, on the host, where `join` finds the embedding of each position.

        Args:
            input_ids: (B, L) int32.
            feature_count: number of image features of the whole batch.

        Returns:
            (B, L) int32 row numbers. Text rows are numbered from 0, image features from B * L.

        Raises:
            ValueError: there are features, but not as many as image tokens.
        """
        is_image = input_ids == self.config.image_token_id
        if feature_count and is_image.sum() != feature_count:
            raise ValueError(
                f"{is_image.sum()} image tokens for {feature_count} features, expected one each"
            )
        index = np.arange(input_ids.size, dtype=np.int32).reshape(input_ids.shape)
        if feature_count:
            index[is_image] = input_ids.size + np.arange(feature_count, dtype=np.int32)
        return index

    def join(self, input_ids: mx.array, features: mx.array | None, index: mx.array) -> mx.array:
        """Put text embeddings and image features in the order of the prompt, by one gather.

        Args:
            input_ids: (B, L) token ids.
            features: (F, C) image features, or None for text alone.
            index: (B, L) from `join_index`.

        Returns:
            (B, L, C) embeddings in the dtype of the text embeddings.
        """
        text = self.language_model.embed_tokens(input_ids)
        if features is None:
            return text
        rows = mx.concatenate([text.flatten(0, 1), features.astype(text.dtype)])
        return rows[index]

    def head(self, hidden: mx.array) -> mx.array:
        """Apply the output head: (..., C) hidden states -> (..., vocab_size) logits."""
        if "lm_head" in self:
            return self.lm_head(hidden)
        return self.language_model.embed_tokens.as_linear(hidden)

    def __call__(
        self,
        input_ids: Sequence[int],
        pixel_values: Sequence[np.ndarray] = (),
        spatial_shapes: Sequence[tuple[int, int]] = (),
    ) -> mx.array:
        """Compute the logits of every position of one prompt.

        Args:
            input_ids: L token ids.
            pixel_values: see `encode_images`; empty for text alone.
            spatial_shapes: see `encode_images`.

        Returns:
            (1, L, vocab_size) logits.

        Raises:
            ValueError: there are features, but not as many as image tokens.
        """
        features = self.encode_images(pixel_values, spatial_shapes) if pixel_values else None
        return self.head(self.language_model(self.embed(input_ids, features)))
