"""Convert a checkpoint tensor by tensor: read, quantize or cast, and write each before the next.

`Conversion` opens a checkpoint and plans the whole conversion; only `write` reads tensors. `study`
and `loss_report` measure what a conversion loses.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import __version__
from ..arrays import dtype_name, mlx_dtype
from ..checkpoint.config import read_model_config
from ..checkpoint.hub_files import decoder_settings, settle_hub_files
from ..checkpoint.json_file import read_json
from ..checkpoint.names import DECODER, DEPTHWISE, PARTS, hub_name, mlx_name, part_of
from ..checkpoint.packing import Scheme, quantization_config
from ..checkpoint.tensors import WRITER_KEY
from ..disk_space import check_space
from ..errors import CheckpointError, InputError
from ..loading import cast_floats, open_checkpoint
from ..model.lfm2vl import Lfm2VL
from ..prompt.processor import Processor
from ..saving import FORMATS, copy_small_files, hub_array, settle_head, settle_tiling
from ..whole_folder import new_folder
from .choice import QuantizeOptions
from .rounding import Packed, round_to_nearest
from .shards import DTYPE_NAMES, Entry, plan_shards, verify_shards, write_shards

MATRICES = (nn.Linear, nn.Embedding, nn.QuantizedLinear, nn.QuantizedEmbedding)
ARRAYS = ("weight", "scales", "biases")  # of a packed matrix


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion is to do."""

    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    dtype: str | None = None  # of everything not quantized; None keeps the file's type
    dequantize: bool = False
    text_only: bool = False  # write only the decoder, as a checkpoint for mlx-lm
    layout: str = "mlx"  # as mlx-vlm reads it, or "hub": as transformers does
    max_shard_bytes: int = 5 * 10**9
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.dequantize and self.quantize.quantizes:
            raise InputError("--dequantize excludes quantizing: remove one of the two")
        if self.layout == "hub" and self.quantize.quantizes:
            raise InputError(
                "--layout hub excludes quantizing: transformers cannot read weights that MLX has "
                "packed; remove one of the two"
            )
        if self.layout == "hub" and self.text_only:
            raise InputError("--text-only writes mlx-lm's files: remove it or --layout hub")
        if self.dtype is not None:
            mlx_dtype(self.dtype)
        if self.max_shard_bytes <= 0:
            raise InputError(
                f"the maximum shard size is {self.max_shard_bytes} bytes, expected more than 0"
            )


@dataclass(frozen=True)
class Layer:
    """One matrix or other parameter, and what it is converted to.

    Attributes:
        path: the layer of a matrix, or the parameter's name, under our names.
        shape: (rows, columns) of an unpacked matrix, or the parameter's shape.
        source: how a matrix is packed in the source; None if it is not packed.
        target: how it will be packed; None if it will not be.
        entries: the tensors to write: `weight`, `scales`, `biases`, or the parameter itself.
        kept_because: why a matrix cannot be quantized as requested; None for all others.
    """

    path: str
    shape: tuple[int, ...]
    source: Scheme | None
    target: Scheme | None
    entries: tuple[Entry, ...]
    kept_because: str | None = None


@dataclass(frozen=True)
class Plan:
    """A whole conversion, made before any tensor is read or written."""

    layers: tuple[Layer, ...]  # in the order of writing

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for layer in self.layers for entry in layer.entries)

    @property
    def schemes(self) -> dict[str, Scheme]:
        """Path (our names) -> scheme of every layer that will be packed."""
        return {layer.path: layer.target for layer in self.layers if layer.target}

    @property
    def kept(self) -> dict[str, str]:
        """Path (our names) -> reason, for matrices that cannot be quantized as requested."""
        return {layer.path: layer.kept_because for layer in self.layers if layer.kept_because}

    def parts(self) -> dict[str, dict[str, float]]:
        """The sizes of the model's parts and of the whole model.

        Returns:
            {part: {"parameters": count, "bytes": size, "bits_per_weight": mean}}, "all" for the
            whole model. Parts that are not written are left out.
        """
        sizes = {}
        for part in (*PARTS, "all"):
            layers = [layer for layer in self.layers if part in ("all", part_of(layer.path))]
            count = sum(prod(layer.shape) for layer in layers)
            nbytes = sum(entry.nbytes for layer in layers for entry in layer.entries)
            if count:
                bits = round(8 * nbytes / count, 3)
                sizes[part] = {"parameters": count, "bytes": nbytes, "bits_per_weight": bits}
        return sizes


class Conversion:
    """A checkpoint opened for conversion; no tensor is read before `write`."""

    def __init__(self, source: Path, options: ConvertOptions, name: str = "") -> None:
        """
        Args:
            source: checkpoint folder.
            options: what to do.
            name: what messages call the source.

        Raises:
            CheckpointError: the source is broken.
            InputError: the options do not apply to this checkpoint.
        """
        self.source, self.options = source, options
        self.processor = Processor.from_folder(source)
        config = read_model_config(source, name)
        self.model, self.weights = open_checkpoint(source, config, self.processor)
        if options.text_only and not self.model.config.text.tie_word_embeddings:
            raise InputError(
                "--text-only: mlx-lm's LFM2 needs an output head tied to the embedding, but this "
                "checkpoint's is not tied"
            )
        is_quantized = any(name.endswith(".scales") for name in self.weights)
        if options.dequantize and not is_quantized:
            raise InputError("--dequantize: the checkpoint is not quantized")
        if options.layout == "hub" and is_quantized and not options.dequantize:
            raise InputError(
                "--layout hub: the checkpoint is quantized, and transformers cannot read weights "
                "that MLX has packed; add --dequantize"
            )
        self.plan = _make_plan(self.model, self.weights, options)
        if options.quantize.quantizes and not self.plan.schemes:
            raise InputError("no layer of this checkpoint can be quantized as requested")

    @property
    def scale_type(self) -> mx.Dtype:
        """Type of the scales of layers in affine mode; float32 if there are none."""
        names = {name: dtype for dtype, name in DTYPE_NAMES.items()}
        entries = [entry for layer in self.plan.layers if layer.target for entry in layer.entries]
        found = (names[e.dtype] for e in entries if e.name.endswith(".biases"))
        return next(found, mx.float32)

    @property
    def is_repacking(self) -> bool:
        """Whether any matrix that will be packed is already packed in the source."""
        return any(layer.source and layer.target for layer in self.plan.layers)

    def write(
        self,
        target: Path,
        *,
        learned: Mapping[str, Packed] | None = None,
        report: Callable[[int, int], object] = lambda *_: None,
        finish: Callable[[Path], object] = lambda *_: None,
    ) -> None:
        """Write the new checkpoint under a temporary name, verify it, then rename it.

        Args:
            target: the new folder.
            learned: path -> packed arrays to write instead of rounding to nearest.
            report: called after every layer with the bytes written so far and the total.
            finish: called with the complete folder before it is renamed.

        Raises:
            InputError: the target exists, or its disk has too little free space.
            CheckpointError: a tensor cannot be read, or a file does not hold what was written.
        """
        self.check_space(target)
        groups = [layer.entries for layer in self.plan.layers]
        shards = plan_shards(groups, self.options.max_shard_bytes)
        metadata = {"format": FORMATS[self.options.layout], WRITER_KEY: __version__}
        with new_folder(target, overwrite=self.options.overwrite) as folder:
            arrays = self._arrays(learned or {}, report)
            checksums = write_shards(folder, shards, arrays, metadata)
            verify_shards(folder, shards, checksums)
            self._write_small_files(folder)
            finish(folder)

    def check_space(self, target: Path) -> None:
        """Check that the target's disk has room, before hours of work rather than after.

        Raises:
            InputError: it has too little free space.
        """
        check_space(target, self.plan.nbytes)

    def _arrays(
        self, learned: Mapping[str, Packed], report: Callable[[int, int], object]
    ) -> Iterator[mx.array]:
        """The tensors to write, in order; memory holds those of one layer at a time."""
        dtype = mlx_dtype(self.options.dtype) if self.options.dtype else None
        total, done = self.plan.nbytes, 0
        for layer in self.plan.layers:
            arrays = learned.get(layer.path) or _convert(layer, self._take(layer), dtype)
            try:
                mx.eval(arrays)
            except RuntimeError as error:
                message = f"{self.source}: {layer.path} cannot be read: {error}"
                raise CheckpointError(message) from None
            if self.options.layout == "hub":
                arrays = [hub_array(layer.path, array) for array in arrays]
            yield from arrays
            done += sum(entry.nbytes for entry in layer.entries)
            report(done, total)

    def _take(self, layer: Layer) -> list[mx.array]:
        """A layer's source tensors, removed from the weights so that they are freed after use."""
        if layer.source is None and layer.path in self.weights:
            return [self.weights.pop(layer.path)]
        names = [f"{layer.path}.{suffix}" for suffix in ARRAYS]
        return [self.weights.pop(name) for name in names if name in self.weights]

    def _write_small_files(self, folder: Path) -> None:
        copy_small_files(self.source, folder)
        if self.options.layout == "hub":
            names = {name: dtype_name(dtype) for dtype, name in DTYPE_NAMES.items()}
            layers = {layer.path: layer for layer in self.plan.layers}
            dtype = names[layers[f"{DECODER}embedding_norm.weight"].entries[0].dtype]
            settle_hub_files(folder, self.model.config, self.model.image_config, dtype)
            return
        config = read_json(folder / "config.json")
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
        if self.options.dtype:
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = self.options.dtype
        if self.options.text_only:
            config = _text_config(config, self.model)
            for name in ("processor_config.json", "preprocessor_config.json"):
                (folder / name).unlink(missing_ok=True)
        else:
            settle_tiling(self.model.image_config, folder)
            # mlx-vlm needs these keys to load; newer files on the Hub leave them out.
            text = config.setdefault("text_config", {})
            for key in ("block_dim", "conv_dim"):
                text.setdefault(key, self.model.config.text.hidden_size)
            settle_head(self.model, config)
        schemes = {self._written(path): scheme for path, scheme in self.plan.schemes.items()}
        if schemes:
            config["quantization"] = quantization_config(schemes)
            config["quantization_config"] = config["quantization"]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def _written(self, path: str) -> str:
        return _written_name(f"{path}.", self.options).removesuffix(".")


def _make_plan(model: Lfm2VL, weights: Mapping[str, mx.array], options: ConvertOptions) -> Plan:
    """Plan every matrix and every other parameter, in the order of the weights."""
    modules = dict(model.named_modules())
    num_layers = len(model.config.text.layer_types)
    layers: dict[str, Layer] = {}
    for name, value in weights.items():
        if options.text_only and not name.startswith(DECODER):
            continue
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if not isinstance(module, MATRICES) or leaf not in ARRAYS:
            shape = value.shape
            if options.layout == "hub" and name.endswith(DEPTHWISE):
                shape = (shape[0], shape[2], shape[1])
            kind = _written_type(options, value.dtype)
            entry = Entry(_written_name(name, options), kind, shape)
            layers[name] = Layer(name, value.shape, None, None, (entry,))
        elif path not in layers:
            layers[path] = _plan_matrix(path, module, weights, num_layers, options)
    return Plan(tuple(layers.values()))


def _plan_matrix(
    path: str,
    module: nn.Module,
    weights: Mapping[str, mx.array],
    num_layers: int,
    options: ConvertOptions,
) -> Layer:
    rows, columns = weights[f"{path}.weight"].shape
    source = None
    if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
        source = Scheme(module.bits, module.group_size, module.mode)
        columns = columns * 32 // source.bits
    target, kept_because = options.quantize.scheme(path, columns, num_layers), None
    if target is None and options.quantize.wants(path, num_layers):
        kept_because = f"no group size divides a row of {columns}"
    if target is None and not options.dequantize:
        target = source
    plain = _written_type(options, _float_type(source, weights, path))
    arrays = {"weight": (plain, (rows, columns))}
    if target is not None:
        arrays = target.packed(rows, columns, plain)
    entries = tuple(
        Entry(_written_name(f"{path}.{suffix}", options), kind, shape)
        for suffix, (kind, shape) in arrays.items()
    )
    return Layer(path, (rows, columns), source, target, entries, kept_because)


def _written_name(name: str, options: ConvertOptions) -> str:
    if options.layout == "hub":
        return hub_name(name)
    return mlx_name(name, text_only=options.text_only)


def _written_type(options: ConvertOptions, dtype: mx.Dtype) -> str:
    """The safetensors type that a source tensor of `dtype` is written in."""
    return DTYPE_NAMES[mlx_dtype(options.dtype) if options.dtype else dtype]


def _float_type(source: Scheme | None, weights: Mapping[str, mx.array], path: str) -> mx.Dtype:
    """The type of a source matrix after unpacking."""
    if source is None:
        return weights[f"{path}.weight"].dtype
    # In affine mode the scales have the weights' type; in other modes no array has it.
    return weights[f"{path}.scales"].dtype if source.mode == "affine" else mx.bfloat16


def _convert(layer: Layer, arrays: Sequence[mx.array], dtype: mx.Dtype | None) -> list[mx.array]:
    """Pack, unpack or cast a layer's tensors."""
    if layer.source is not None and layer.source == layer.target:
        return [cast_floats(array, dtype) for array in arrays]
    weight = arrays[0]
    if layer.source is not None:
        biases = arrays[2] if len(arrays) > 2 else None
        scheme = layer.source
        weight = mx.dequantize(
            weight, arrays[1], biases, scheme.group_size, scheme.bits, scheme.mode
        )
    weight = cast_floats(weight, dtype)
    if layer.target is None:
        return [weight]
    return list(round_to_nearest(weight, layer.target))


def _text_config(config: Mapping[str, Any], model: Lfm2VL) -> dict[str, Any]:
    """The decoder's config in the form that mlx-lm's LFM2 reads."""
    values = dict(config.get("text_config") or {})
    values |= decoder_settings(model.config.text)
    values |= {
        "architectures": ["Lfm2ForCausalLM"],
        "eos_token_id": list(model.config.eos_token_ids),
    }
    for key in ("dtype", "torch_dtype"):
        if key in config:
            values[key] = config[key]
    values.pop("full_attn_idxs", None)
    return values
