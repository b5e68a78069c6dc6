"""Reading adapters of mlx-lm, of mlx-vlm and of this package, which share a format."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.json_file import Section
from ..checkpoint.lazy_tensors import our_layout
from ..checkpoint.names import DECODER_LAYERS, our_name, our_path, some
from ..errors import CheckpointError
from .contents import CONFIG, MAX_RANK, Adapter, Update, check_pair, read_tensors
from .layers import PARTS

WEIGHTS = "adapters.safetensors"
OTHER_WEIGHTS = "weights.safetensors"  # mlx-vlm also reads this name
FACTORS = (".lora_a", ".lora_b", ".m")
OLD_FACTORS = {".A": ".lora_a", ".B": ".lora_b"}  # of mlx-vlm's first format
OLD_ALPHA = 0.1  # of that format, if its config has none


def read_mlx(folder: Path, config: dict[str, Any], layers: set[str]) -> Adapter:
    """Read an adapter with `adapters.safetensors`.

    Args:
        folder: the adapter.
        config: from its `adapter_config.json`.
        layers: paths of the model's linear layers.

    Raises:
        CheckpointError: it is broken or incomplete, or does not fit the model.
    """
    is_old = "lora_parameters" not in config and "rank" in config
    base = {"name": config.get("model"), **_dict(config.get("base"))}
    method = config.get("fine_tune_type", "lora")
    if method not in ("lora", "dora", "full"):
        raise CheckpointError(f"{folder / CONFIG}: fine_tune_type is not lora, dora or full")
    weights = _our_tensors(folder, is_old)
    if method == "full":
        return Adapter(folder, {}, weights, is_full=True, base=base)
    settings = config if is_old else config.get("lora_parameters")
    section = Section(settings, f"{CONFIG}: lora_parameters")
    rank = section.integer("rank", most=MAX_RANK)
    scale = section.number("alpha", OLD_ALPHA) / rank if is_old else section.number("scale")
    dropout = section.values.get("dropout")
    dropout = 0.0 if not dropout else section.number("dropout", most=0.999)

    factors = {name: value for name, value in weights.items() if name.endswith(FACTORS)}
    values = {name: value for name, value in weights.items() if name not in factors}
    adapted = {name.rpartition(".")[0] for name in factors}
    paths = adapted | _named(folder, section, config, layers)
    unknown = sorted(paths - layers)
    if unknown:
        raise CheckpointError(
            f"{folder} adapts {unknown[0]}, which is not a linear layer of this model"
        )
    leaves = FACTORS if method == "dora" else FACTORS[:2]
    wanted = {path + leaf for path in paths for leaf in leaves}
    missing, surplus = sorted(wanted - set(factors)), sorted(set(factors) - wanted)
    if missing or not paths:
        raise CheckpointError(f"{folder} is incomplete: it has no {some(missing)}")
    if surplus:
        raise CheckpointError(f"{folder} holds {surplus[0]}, which only DoRA has")
    updates = {}
    for path in sorted(paths):
        a, b = (factors[path + leaf] for leaf in FACTORS[:2])
        check_pair(folder, path, a, b, rank)
        updates[path] = Update(a, b, scale, factors.get(f"{path}.m"))
    return Adapter(folder, updates, values, dropout, base=base)


def _our_tensors(folder: Path, is_old: bool) -> dict[str, mx.array]:
    """Return the tensors under our names."""
    other = not (folder / WEIGHTS).exists() and (folder / OTHER_WEIGHTS).exists()
    weights: dict[str, mx.array] = {}
    for theirs, value in read_tensors(folder / (OTHER_WEIGHTS if other else WEIGHTS)).items():
        name = our_name(theirs)
        path, dot, leaf = name.rpartition(".")
        name = path + OLD_FACTORS.get(dot + leaf, dot + leaf) if is_old else name
        if name in weights:
            raise CheckpointError(f"{folder} holds {name} twice, expected once")
        weights[name] = our_layout(name, value)
    return weights


def _named(folder: Path, section: Section, config: dict[str, Any], layers: set[str]) -> set[str]:
    """Return the layers that the config says are adapted.

    A key is the path of a layer, or a path within each of the last `num_layers` blocks of the
    decoder. Without keys these are all linear layers of those blocks. mlx-lm reads a count of 0 or
    less as all blocks.
    """
    keys = section.values.get("keys")
    if keys is not None and (
        not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)
    ):
        raise CheckpointError(f"{folder / CONFIG}: lora_parameters: keys is not a list of strings")
    count = config.get("num_layers")
    count = count if isinstance(count, int) and not isinstance(count, bool) else 0
    blocks: dict[int, set[str]] = {}
    for path in layers:
        if path.startswith(DECODER_LAYERS):
            number, _, rest = path.removeprefix(DECODER_LAYERS).partition(".")
            blocks.setdefault(int(number), set()).add(rest)
    chosen = sorted(blocks)[-max(count, 0) :]
    if not keys:
        if count <= 0:
            return set()  # the tensors say which
        return {f"{DECODER_LAYERS}{i}.{rest}" for i in chosen for rest in blocks[i]}
    absolute = {path for path in map(our_path, keys) if path.startswith(PARTS)}
    relative = {f"{DECODER_LAYERS}{i}.{key}" for i in chosen for key in keys if key in blocks[i]}
    return absolute | relative


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
