"""The shape of a new drafter, chosen from its target, and its weights before training."""

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..arrays import named_arrays
from ..checkpoint.config import TextConfig
from ..checkpoint.drafter_config import MAX_PROPOSALS, MAX_RANK, DrafterConfig
from ..errors import InputError
from ..model.drafter import DraftModel

MOST_TAPS = 5
LAYERS = (2, 4)  # fewest and most by default
PROPOSALS = 7  # the target verifies one row more, and eight rows cost a GPU little more than one
SPREAD = 0.02  # standard deviation of new weights


def choose_shape(
    target: TextConfig,
    layers: int | None = None,
    block: int | None = None,
    rank: int | None = None,
    taps: tuple[int, ...] | None = None,
) -> DrafterConfig:
    """Choose the shape of a drafter.

    Args:
        target: the decoder that it drafts for.
        layers: None takes a quarter of the target's, within `LAYERS`.
        block: proposals per round.
        rank: of the table of token pairs; None takes a quarter of the hidden size, at most 256.
        taps: layers of the target to read; None spreads up to five over its depth.

    Raises:
        InputError: a value does not fit the target.
    """
    depth = len(target.layer_types)
    if depth < 2:
        raise InputError("a drafter needs a target of at least 2 layers")
    layers = layers or min(max(depth // 4, LAYERS[0]), LAYERS[1])
    block, rank = block or PROPOSALS, rank or min(256, target.hidden_size // 4)
    taps = taps or _spread(depth)
    if not 0 < layers <= depth:
        raise InputError(f"--draft-layers is {layers}, expected 1 to {depth}, the target's")
    if not 0 < block <= MAX_PROPOSALS:
        raise InputError(f"--draft-block is {block}, expected 1 to {MAX_PROPOSALS}")
    if not 0 < rank <= MAX_RANK:
        raise InputError(f"--draft-rank is {rank}, expected 1 to {MAX_RANK}")
    if list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= depth - 1:
        shown = " ".join(map(str, taps))
        raise InputError(f"--draft-taps is {shown}, expected ascending numbers, 0 to {depth - 2}")
    return DrafterConfig(
        hidden_size=target.hidden_size,
        intermediate_size=min(3 * target.hidden_size, target.feed_forward_size),
        num_hidden_layers=layers,
        num_attention_heads=target.num_attention_heads,
        num_key_value_heads=target.num_key_value_heads,
        head_dim=target.head_dim,
        rms_norm_eps=target.norm_eps,
        vocab_size=target.vocab_size,
        rope_theta=target.rope_theta,
        half_split_rope=False,
        block_size=block,
        markov_rank=rank,
        mask_token_id=target.vocab_size - 1,  # published vocabularies end with unused ids
        target_layer_ids=taps,
        num_target_layers=depth,
        has_confidence=True,
        quantization=None,
    )


def _spread(depth: int) -> tuple[int, ...]:
    """Layers from the second or third to the last but one; the last one's output is normalized."""
    first, last = min(2, (depth - 2) // 3), depth - 2
    count = min(MOST_TAPS, last - first + 1)
    if count == 1:
        return (last,)
    return tuple(first + (last - first) * i // (count - 1) for i in range(count))


def new_drafter(config: DrafterConfig, seed: int) -> DraftModel:
    """Make a drafter with random weights. Its table of pairs adds nothing yet."""
    drafter, key = DraftModel(config), mx.random.key(seed)
    weights = list[tuple[str, mx.array]]()
    for name, value in named_arrays(drafter.parameters()).items():
        if value.ndim == 2:
            key, now = mx.random.split(key)
            value = SPREAD * mx.random.normal(value.shape, key=now)
        elif name.endswith("bias"):
            value = mx.zeros_like(value)
        weights.append((name, mx.zeros_like(value) if "markov_w2" in name else value))
    drafter.update(tree_unflatten(weights))
    return drafter
