"""Reading adapters of PEFT: LoRA, rsLoRA and DoRA, with trained biases and whole modules.

The results are those of peft 0.21. What would change them and is not implemented is refused by its
name. A file of pickles, `adapter_model.bin`, can run code and is never read.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.json_file import Section, shown
from ..checkpoint.lazy_tensors import our_layout
from ..checkpoint.names import our_name, our_path, some
from ..errors import CheckpointError
from .contents import CONFIG, MAX_RANK, Adapter, Update, check_pair, read_tensors
from .layers import PARTS
from .patterns import pattern_for, target_matcher

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# The adapter's own name may stand between: lora_A.default.weight.
FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?")
SAVED = re.compile(r"\.modules_to_save\.[^.]+(?=\.)")
BASE_LAYER = re.compile(r"\.base_layer(?=\.[^.]+$)")

READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias"}
READ |= {"target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"}
READ |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}
# They say where the adapter comes from and how it was trained, not what it computes.
HARMLESS = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
HARMLESS |= {"inference_mode", "megatron_core", "qalora_group_size", "loftq_config", "eva_config"}
HARMLESS |= {"corda_config", "lora_ga_config", "runtime_config"}
# Others start from weights that are not those of the base.
STARTS = ("gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class _Settings:
    """The keys of a config that are read, with their types checked."""

    folder: Path
    rank: int
    alpha: float
    dropout: float
    is_rslora: bool
    is_dora: bool
    targets: list[str] | str
    excluded: list[str] | str
    saved: list[str]
    ranks: dict[str, int]
    alphas: dict[str, float]
    blocks: list[int]
    block_names: list[str]

    def rank_of(self, module: str) -> int:
        return self.ranks.get(pattern_for(self.ranks, module, self.folder), self.rank)

    def scale_of(self, module: str) -> float:
        alpha = self.alphas.get(pattern_for(self.alphas, module, self.folder), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.is_rslora else rank)


def read_peft(
    folder: Path, config: dict[str, Any], layers: set[str], parameters: Iterable[str]
) -> Adapter:
    """Read an adapter with `adapter_model.safetensors`.

    Args:
        folder: the adapter.
        config: from its `adapter_config.json`.
        layers: paths of the model's linear layers.
        parameters: names of the model's parameters.

    Raises:
        CheckpointError: it is broken or incomplete, does not fit the model, or needs what is not
            implemented.
    """
    settings = _settings(folder, config)
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise CheckpointError(
            f"{folder} has only {PICKLE}, a pickle file, which can run code and is never read: "
            "load it with PEFT and save it again with save_pretrained, which writes safetensors"
        )
    factors: dict[str, dict[str, mx.array]] = {}  # by the module's path in PEFT
    values: dict[str, mx.array] = {}
    for name, value in read_tensors(folder / WEIGHTS).items():
        module, leaf = _split(folder, name.removeprefix(PREFIX))
        if leaf is None:
            ours = our_name(module)
            known, entry = values, ours
        else:
            known, entry = factors.setdefault(module, {}), leaf
        if entry in known:
            raise CheckpointError(f"{folder} holds {shown(name)} twice, expected once")
        known[entry] = our_layout(entry, value)

    updates: dict[str, Update] = {}
    for module, pair in sorted(factors.items()):
        path = our_path(module)
        if path not in layers:
            raise CheckpointError(
                f"{folder} adapts {shown(module)}, which is not a linear layer of this model"
            )
        if path in updates:
            raise CheckpointError(f"{folder} adapts {path} twice, expected once")
        updates[path] = _update(settings, module, pair)
    if not updates and not values:
        raise CheckpointError(f"{folder} adapts nothing")
    _check_targets(settings, dict(zip(map(our_path, factors), factors, strict=True)), layers)
    _check_saved(settings, values, parameters)
    base = {"name": config.get("base_model_name_or_path")}
    return Adapter(folder, updates, values, settings.dropout, base=base)


def _settings(folder: Path, config: dict[str, Any]) -> _Settings:
    name = str(folder / CONFIG)
    section = Section(config, name)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{name}: PEFT's {shown(kind)} is not supported, only LORA")
    for key, value in config.items():
        is_set = value not in (None, False, [], {}, "")
        if key not in READ | HARMLESS and is_set:
            raise CheckpointError(f"{name}: {shown(key)} is set, which is not supported")
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or start in STARTS):
        raise CheckpointError(
            f"{name}: init_lora_weights {shown(start)} changes the base weights: save the adapter "
            "again with path_initial_model_for_weight_conversion"
        )
    section.only("bias", "none", "all", "lora_only")
    dropout = config.get("lora_dropout")
    blocks = config.get("layers_to_transform")
    names = config.get("layers_pattern")
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    ranks, alphas = (
        Section(config.get(key) or {}, f"{name}: {key}")
        for key in ("rank_pattern", "alpha_pattern")
    )
    settings = _Settings(
        folder,
        section.integer("r", 8, most=MAX_RANK),
        section.number("lora_alpha", 8),
        section.number("lora_dropout", most=0.999) if dropout else 0.0,
        section.flag("use_rslora", False),
        section.flag("use_dora", False),
        targets if isinstance(targets, str) else _strings(section, "target_modules"),
        excluded if isinstance(excluded, str) else _strings(section, "exclude_modules"),
        _strings(section, "modules_to_save"),
        {key: ranks.integer(key, most=MAX_RANK) for key in ranks.values},
        {key: alphas.number(key) for key in alphas.values},
        [blocks] if type(blocks) is int else blocks or [],
        [names] if isinstance(names, str) and names else names or [],
    )
    if not isinstance(settings.blocks, list) or not all(type(i) is int for i in settings.blocks):
        raise CheckpointError(f"{name}: layers_to_transform is not a list of numbers")
    if not isinstance(settings.block_names, list) or not all(
        isinstance(block, str) for block in settings.block_names
    ):
        raise CheckpointError(f"{name}: layers_pattern is not a list of strings")
    return settings


def _strings(section: Section, key: str) -> list[str]:
    value = section.values.get(key)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CheckpointError(f"{section.name}: {key} is {shown(value)}, expected strings")
    return value


def _split(folder: Path, name: str) -> tuple[str, str | None]:
    """Return a tensor's module and which factor of it this is; of others the name and None."""
    if found := FACTOR.fullmatch(name):
        return found[1], found[2]
    if found := MAGNITUDE.fullmatch(name):
        return found[1], "magnitude"
    if ".lora_" in name or "trainable_tokens" in name:
        raise CheckpointError(
            f"{folder} holds {shown(name)}, which is not supported: adapters change linear layers"
        )
    return BASE_LAYER.sub("", SAVED.sub("", name)), None


def _update(settings: _Settings, module: str, pair: dict[str, mx.array]) -> Update:
    wanted = {"A", "B", *(["magnitude"] if settings.is_dora else [])}
    if missing := sorted(wanted - set(pair)):
        raise CheckpointError(
            f"{settings.folder} is incomplete: it has no lora_{missing[0]} of {shown(module)}"
        )
    if "magnitude" in pair and not settings.is_dora:
        raise CheckpointError(
            f"{settings.folder}: {shown(module)} has a magnitude, but use_dora is not set"
        )
    a, b = pair["A"].T, pair["B"].T
    check_pair(settings.folder, shown(module), a, b, settings.rank_of(module))
    return Update(a, b, settings.scale_of(module), pair.get("magnitude"))


def _check_targets(settings: _Settings, modules: dict[str, str], layers: set[str]) -> None:
    """Compare the layers that have tensors with those that the config names.

    PEFT would drop tensors of other layers, and start layers without tensors at zero.

    Args:
        settings: of the adapter.
        modules: PEFT's path of each layer that has tensors, by ours.
        layers: paths of the model's linear layers.
    """
    matches = target_matcher(
        settings.targets,
        settings.excluded,
        settings.saved,
        settings.blocks,
        settings.block_names,
    )
    if matches is None:
        return
    surplus = [module for module in modules.values() if not matches(module)]
    if surplus:
        raise CheckpointError(
            f"{settings.folder} has tensors of {shown(surplus[0])}, which its target_modules do "
            "not name"
        )
    missing: list[str] = []
    for prefix in PARTS:
        # PEFT's paths in this part are ours with another beginning, which any layer shows. The
        # part of an adapter of the decoder alone has none: the others were not there to train.
        known = next((path for path in modules if path.startswith(prefix)), None)
        if known is not None:
            theirs = modules[known].removesuffix(known.removeprefix(prefix))
            rest = (path.removeprefix(prefix) for path in layers if path.startswith(prefix))
            missing += [theirs + tail for tail in rest if matches(theirs + tail)]
    missing = sorted(set(missing) - set(modules.values()))
    if missing:
        raise CheckpointError(f"{settings.folder} is incomplete: it has nothing of {some(missing)}")


def _check_saved(
    settings: _Settings, values: dict[str, mx.array], parameters: Iterable[str]
) -> None:
    """Check that the parameters of every module to save are there."""
    for module in settings.saved:
        named = [
            name
            for name in {*parameters, *values}
            if any(part.endswith(module) for part in _modules(name))
            and not name.endswith((".scales", ".biases"))
        ]
        missing = sorted(set(named) - set(values))
        if missing or not named:
            raise CheckpointError(
                f"{settings.folder} is incomplete: of {shown(module)} in modules_to_save it has no "
                f"{some(missing) or 'tensors'}"
            )


def _modules(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
