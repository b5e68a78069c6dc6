"""The connector: turns blocks of patch features into embeddings for the decoder."""

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.config import ProjectorConfig


def pixel_unshuffle(x: mx.array, factor: int) -> mx.array:
    """Fold each factor x factor block of patches into one longer vector.

    Args:
        x: (B, H, W, C) patch features.
        factor: side of a block in patches; must divide H and W.

    Returns:
        (B, H / factor, W / factor, factor * factor * C), channels ordered (row, column, C).

    Raises:
        ValueError: `factor` does not divide H and W.
    """
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(f"a {height} x {width} patch grid is not divisible by {factor}")
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // factor, width // factor, -1)


class MultiModalProjector(nn.Module):
    """Pixel unshuffle, optional LayerNorm, and two linear layers around an exact GELU.

    Follows Lfm2VlMultiModalProjector in transformers 5.23.
    """

    def __init__(self, config: ProjectorConfig, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.factor = config.downsample_factor
        block_size = vision_size * config.downsample_factor**2
        if config.use_layernorm:
            self.layer_norm = nn.LayerNorm(block_size)
        self.linear_1 = nn.Linear(block_size, config.hidden_size, bias=config.bias)
        self.linear_2 = nn.Linear(config.hidden_size, text_size, bias=config.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Project patch features to the decoder's embeddings.

        Args:
            x: (B, H, W, vision size) patch features.

        Returns:
            (B, image tokens, text size), row by row.

        Raises:
            ValueError: the downsample factor does not divide H and W.
        """
        x = pixel_unshuffle(x, self.factor).flatten(1, 2)
        if "layer_norm" in self:
            x = self.layer_norm(x)
        return self.linear_2(nn.gelu(self.linear_1(x)))
