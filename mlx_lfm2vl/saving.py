"""Writing a model as a checkpoint folder in MLX layout: whole, or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx

from . import __version__
from .arrays import named_arrays
from .checkpoint.config import ImageConfig, read_image_config, read_json, read_optional_json
from .checkpoint.tensors import INDEX, WRITER_KEY
from .errors import InputError
from .model.lfm2vl import Lfm2VL

REPORT = "quantization_report.json"  # speaks of one set of weights, not of those made of it
COPIED = ("*.json", "*.jinja", "LICENSE*")


def save_checkpoint(model: Lfm2VL, source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write the model's weights with the small files of the checkpoint it came from.

    Args:
        model: without adapter layers; quantized or not.
        source: checkpoint folder whose configuration, processor and tokenizer files are copied.
        target: new folder.
        overwrite: replace an existing folder.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    with new_folder(target, overwrite=overwrite) as folder:
        copy_small_files(source, folder)
        write_weights(model, folder)
        _settle_config(model, folder / "config.json")
        settle_tiling(model.image_config, folder)


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, that becomes the target when the block ends well and vanishes otherwise.

    What a killed run left behind is cleared away, or put back, by the next one.

    Args:
        target: where the folder is to be in the end.
        overwrite: replace an existing folder; it stays untouched until the new one is complete.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    _recover(target)
    check_target(target, overwrite=overwrite)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from None
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)


def _recover(target: Path) -> None:
    """Undo what a run that was killed half way left beside the target."""
    for path in target.parent.glob(f".{target.name}.*-*"):
        kind, _, number = path.name.removeprefix(f".{target.name}.").partition("-")
        if kind not in ("partial", "old") or not number.isdecimal() or _is_running(int(number)):
            continue
        if kind == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def check_target(target: Path, *, overwrite: bool, keep: Sequence[Path] = ()) -> None:
    """Refuse to write over something; worth asking before hours of work.

    Args:
        target: the folder to be.
        overwrite: an empty folder or a checkpoint may be replaced, and nothing else.
        keep: files or folders that are still needed: none of them may be in the target.

    Raises:
        InputError: the target exists, or would take something with it.
    """
    if not target.exists():
        return
    for path in keep:
        if path.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{target} holds {path}, which is needed: choose another --output")
    if not overwrite:
        raise InputError(f"{target} exists already; choose another name or pass --overwrite")
    is_folder = target.is_dir()
    if not is_folder or (any(target.iterdir()) and not (target / "config.json").exists()):
        raise InputError(f"{target} is no checkpoint folder: it is not replaced")


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy the configuration, processor and tokenizer files and the licence of a checkpoint."""
    for pattern in COPIED:
        for path in source.glob(pattern):
            if path.name not in (INDEX, REPORT):
                shutil.copyfile(path, folder / path.name)


def write_weights(model: Lfm2VL, folder: Path) -> None:
    """Write `model.safetensors` and its index, under the names mlx-vlm uses."""
    weights = {mlx_name(k): v for k, v in named_arrays(model.parameters()).items()}
    mx.save_safetensors(
        str(folder / "model.safetensors"), weights, {"format": "mlx", WRITER_KEY: __version__}
    )
    index = {
        "metadata": {
            "total_size": sum(value.nbytes for value in weights.values()),
            WRITER_KEY: __version__,
        },
        "weight_map": dict.fromkeys(sorted(weights), "model.safetensors"),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def mlx_name(name: str) -> str:
    """The name of one of our parameters in MLX repositories."""
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return name


def settle_tiling(config: ImageConfig, folder: Path) -> None:
    """Write down the tiling that is in use, where the source's files had it wrong."""
    flags = {
        "do_image_splitting": config.do_image_splitting,
        "use_thumbnail": config.use_thumbnail,
    }
    written = read_image_config(folder)
    if all(getattr(written, name) == value for name, value in flags.items()):
        return
    path = folder / "processor_config.json"
    values = read_optional_json(path)
    values.get("image_processor", values).update(flags)
    path.write_text(json.dumps(values, indent=2) + "\n")


def _settle_config(model: Lfm2VL, path: Path) -> None:
    """Say what the weights are: their type, and quantized only if a layer is."""
    parameters, config = named_arrays(model.parameters()), read_json(path)
    dtype = parameters["language_model.embedding_norm.weight"].dtype
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).split(".")[-1]
    if not any(name.endswith(".scales") for name in parameters):
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
