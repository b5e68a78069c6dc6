"""Going back to any position of a cache, from its keys and values alone.

A convolution looks back taps - 1 positions, so its output depends on a finite past of its inputs.
Attention looks back without limit, but what it reads there is in the cache and does not change. An
unknown window therefore spoils only taps - 1 positions per convolution. Reading the last
(taps - 1) * convolutions tokens again, with empty windows at first, restores every window.
"""

import mlx.core as mx

from .cache import Cache
from .language import LanguageModel


def reach(decoder: LanguageModel) -> int:
    """Return how many tokens must be read again to restore all windows."""
    return (decoder.conv_taps - 1) * sum(kind != "full_attention" for kind in decoder.layer_types)


def rewind(decoder: LanguageModel, cache: Cache, to: int, embeds: mx.array) -> None:
    """Return to an earlier position of a single sequence.

    The windows equal those of the first reading up to rounding, and bit by bit where the kernels do
    not depend on the number of positions. Keys and values are read and not written.

    Args:
        decoder: that filled the cache.
        cache: changed in place.
        to: the position.
        embeds: (1, min(to, reach), C), what was read just before it.

    Raises:
        ValueError: the position is not in the cache, or `embeds` has another length.
    """
    length = min(to, reach(decoder))
    if embeds.shape[1] != length:
        raise ValueError(f"{embeds.shape[1]} embeddings to go back to {to}, expected {length}")
    again = cache.reread(to - length)
    if length:
        decoder(embeds, again)
    cache.back(to, again.windows)
