"""Checkpoint weights under other names, or changed, for tests to read back."""

import mlx.core as mx
from conftest import edit_json

from mlx_lfm2vl.checkpoint.names import mlx_name, our_name
from mlx_lfm2vl.checkpoint.tensors import weight_files

EMBEDDING = "model.language_model.embed_tokens.weight"


def hub_name(name: str, vision_model: bool = True) -> str:
    """Our parameter name as the Hub writes it."""
    if name.startswith("lm_head."):
        return name
    if vision_model and name.startswith("vision_tower."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return f"model.{name}"


def rewrite(folder, rename, *, transpose=False, metadata=None, dtype=None):
    """Write the weights of a golden checkpoint again, under other names."""
    weights = {}
    for path in weight_files(folder):
        for name, value in mx.load(str(path)).items():
            value = value.astype(dtype) if dtype else value
            if transpose and name.endswith("conv.conv.weight"):
                value = value.transpose(0, 2, 1)
            weights[rename(our_name(name))] = value
        path.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata or {"format": "pt"})
    return weights


def edit_weights(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights, {"format": "pt"})


def quantized(folder, quantize, mode="affine", overrides=None) -> None:
    """Turn a folder into a quantized MLX repository, and keep dense what `quantize` refuses."""
    weights = rewrite(folder, mlx_name, transpose=True, dtype=mx.float32)
    packed = {}
    for name, value in weights.items():
        path = name.removesuffix(".weight")
        bits = quantize(path) if value.ndim == 2 and name.endswith(".weight") else None
        if not bits or value.shape[-1] % 32:
            packed[name] = value
            continue
        parts = mx.quantize(value, group_size=32, bits=bits, mode=mode)
        keys = ("weight", "scales", "biases")
        packed.update({f"{path}.{key}": part for key, part in zip(keys, parts, strict=False)})
    mx.save_safetensors(str(folder / "model.safetensors"), packed, {"format": "mlx"})
    values = {"group_size": 32, "bits": 4, "mode": mode, **(overrides or {})}
    edit_json(folder / "config.json", quantization=values, quantization_config=values)
